"""The moments before the master's loop: nginx's greeting, and the way into the background."""

from __future__ import annotations

import os
import resource
import sys

from upwell.version import NGINX_VERSION, VERSION, data_plane

_DONE = b"+"


def greeting() -> list[str]:
    """nginx's first lines in the error log: what runs where."""
    system = os.uname()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        'using the "epoll" event method',
        f"nginx/{NGINX_VERSION} (upwell/{VERSION})",
        f"data plane: {data_plane()}",
        f"OS: {system.sysname} {system.release}",
        f"getrlimit(RLIMIT_NOFILE): {soft}:{hard}",
    ]


def daemonize() -> int:
    """Go on in the background, in a session of its own (nginx's `daemon on`). Raises OSError.

    The process that was started ends here, once `release` is called with the descriptor that the other one gets, with
    code 0; with 1 if the other one ends before. So whoever looks for the pid file right after the command finds it,
    which nginx, leaving earlier, does not promise.
    """
    waiting, released = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(released)
        os._exit(0 if os.read(waiting, 1) == _DONE else 1)
    os.close(waiting)
    os.setsid()
    # nginx's is 0; here what Lua code, probes and commands write is not everybody's to change either.
    os.umask(0o022)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if null > 2:
        os.close(null)
    return released


def release(released: int) -> None:
    """Let the process that was started end well."""
    os.write(released, _DONE)
    os.close(released)
