"""Listening sockets that this process was born with: of the master that it takes over from, or of systemd.

Knows the environment variables and what a socket can say of itself. Must not know who listens on what.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass

from upwell.process.journal import Journal
from upwell.process.listeners import Sockets, all_of
from upwell.proxy.listen import ListenSpec

VARIABLE = "NGINX"
"""nginx's own, so that even an nginx can be followed: the descriptors, each with a semicolon after it."""

PARENT = "UPWELL_PREDECESSOR"
"""Who hands them over: it may be gone before its successor can ask for its parent. An nginx does not say."""

_FIRST = 3  # SD_LISTEN_FDS_START
_UNKNOWN = -1  # a backlog that no directive names, so that the wanted one is set


@dataclass(frozen=True, slots=True)
class Inherited:
    """`predecessor`: the pid of the master that handed `sockets` over and may still run, 0: none did.
    `kept_by_others`: whoever made them goes on using them (systemd), so that the file of a unix socket is not ours to
    remove."""

    sockets: Sockets
    predecessor: int = 0
    kept_by_others: bool = False


def variable(sockets: Iterable[Sockets]) -> str:
    """What the next master is told: the descriptors of `sockets`."""
    return "".join(f"{sock.fileno()};" for sock in all_of(sockets))


def inherited(environment: MutableMapping[str, str], pid: int, journal: Journal) -> Inherited:
    """The sockets that `environment` names, for the process `pid`. What is not for its children is taken out."""
    handed = environment.pop(VARIABLE, None)
    parent = environment.pop(PARENT, "")
    by_systemd = _systemd(environment, pid)
    kept = by_systemd is not None or "LISTEN_FDS" in environment
    if handed is not None:
        journal.notice(f'using inherited sockets from "{handed}"')
        master = int(parent) if parent.isdecimal() and len(parent) < 11 else os.getppid()
        return Inherited(_adopt(_descriptors(handed, journal), journal), master, kept)
    if by_systemd is not None:
        return Inherited(_adopt(by_systemd, journal), 0, True)
    return Inherited({})


def _systemd(environment: MutableMapping[str, str], pid: int) -> list[int] | None:
    """The descriptors of sd_listen_fds(3), None when it was not meant. LISTEN_FDS itself stays: without LISTEN_PID it
    means nothing to anybody, and tells the master that takes over from this one whose sockets they are."""
    meant = environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    try:
        if int(meant) != pid:
            return None
        count = int(environment.get("LISTEN_FDS", ""))
    except ValueError:
        return None
    return list(range(_FIRST, _FIRST + count))


def _descriptors(text: str, journal: Journal) -> list[int]:
    found: list[int] = []
    for word in text.split(";")[:-1]:
        if not word.isascii() or not word.isdigit():
            journal.emerg(f'invalid socket number "{word}" in NGINX environment variable, ignoring the rest of it')
            return found
        found.append(int(word))
    if not text.endswith(";"):
        journal.emerg("invalid socket number in NGINX environment variable, ignoring the rest of it")
    return found


def _adopt(descriptors: Iterable[int], journal: Journal) -> Sockets:
    """The sockets of these descriptors by what they listen on; what is none is said and left alone."""
    found: dict[ListenSpec, tuple[socket.socket, ...]] = {}
    for fd in descriptors:
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            journal.alert(f"inherited descriptor {fd} is no socket: {os.strerror(error.errno or 0)}")
            continue
        try:
            spec = _spec(sock)
        except (OSError, ValueError) as error:
            journal.alert(f"inherited socket {fd} is not used: {error}")
            sock.close()
            continue
        os.set_inheritable(fd, False)
        sock.setblocking(False)
        found[spec] = (*found.get(spec, ()), sock)
    return found


def _spec(sock: socket.socket) -> ListenSpec:
    """What the socket is. Raises OSError, or ValueError for one that nothing can be accepted on."""
    if sock.type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        raise ValueError("neither a stream nor a datagram socket")
    udp = sock.type == socket.SOCK_DGRAM
    if not udp and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("it does not listen")
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        if not isinstance(name, str) or not name:
            raise ValueError("a unix socket without a path")
        return ListenSpec(name, _UNKNOWN, udp=udp)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ValueError("neither IPv4, IPv6 nor unix")
    only = True
    if sock.family == socket.AF_INET6:
        only = bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    shared = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))
    return ListenSpec((name[0], name[1]), _UNKNOWN, shared, only, udp)


def unused(inherited: Sockets, used: Iterable[Sockets]) -> list[tuple[ListenSpec, socket.socket]]:
    """Those of `inherited` that no generation took."""
    taken = {id(sock) for sock in all_of(used)}
    return [(spec, sock) for spec, held in inherited.items() for sock in held if id(sock) not in taken]


def start_successor(command: list[str], environment: Mapping[str, str], sockets: Iterable[Sockets]) -> int:
    """Start `command`, another master, with the listeners of `sockets`; its pid. Raises OSError."""
    sockets = list(sockets)
    descriptors = [sock.fileno() for sock in all_of(sockets)]
    try:
        for fd in descriptors:
            os.set_inheritable(fd, True)
        told = {**environment, VARIABLE: variable(sockets), PARENT: str(os.getpid())}
        return os.posix_spawn(command[0], command, told, setsigmask=())
    finally:
        for fd in descriptors:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
