"""Real processes for a demo, a test or a measurement: a load balancer in a prefix of its own, web apps, free ports.

Knows nginx's command line (so it runs nginx just as well as upwell) and nothing of what runs inside the processes.
Whoever starts one ends it: each is a context manager, and only processes started here are ever signalled.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

UPWELL = (sys.executable, "-m", "upwell")
"""The command that runs the upwell of this Python."""

_POLL = 0.02
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


class NotReached(Exception):
    """A condition did not come true in time; the text says which, and shows what the processes said meanwhile."""


def await_condition(condition: Callable[[], bool], what: str, seconds: float, poll: float = _POLL) -> None:
    """Return as soon as `condition()` is true; raises NotReached, naming `what`, when it is not within `seconds`, or as
    many times that as the environment's UPWELL_PATIENCE says, for machines that have much else to do.
    """
    seconds *= float(os.environ.get("UPWELL_PATIENCE", "1"))
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NotReached(f"not within {seconds:g} s: {what}")
        time.sleep(poll)


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports of this machine that nobody listens on, held together while they are chosen.

    They lie below the range that the system hands out to connecting sockets: a port from within it could become the
    near end of somebody's connection in the seconds that an app is stopped, and then the app could not come back.
    UPWELL_PORTS="FIRST-LAST" narrows them, so that two that run at once do not choose the same.
    """
    try:
        low = int(_RANGE_FILE.read_text().split()[0])
    except OSError:
        low = 32768
    first = 10240 if low > 12288 else 1024
    given = os.environ.get("UPWELL_PORTS")
    if given:
        first, low = (int(port) for port in given.split("-"))
    span = low - first
    start = (os.getpid() * 97 + time.monotonic_ns() // 1000) % span
    ports: list[int] = []
    with ExitStack() as held:
        for step in range(span):
            port = first + (start + step) % span
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError(f"this machine has no {count} free ports between {first} and {low}")


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a connection to the port is accepted now."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def children(pid: int) -> list[int]:
    """The process ids of the living children of `pid`, oldest first (Linux); empty when it has none or is gone."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [child for child in map(int, listed) if not _is_zombie(child)]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class _Process:
    """One child process in a session of its own, so that a Ctrl-C in the terminal reaches only who started it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._popen: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._last_words = ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id; raises ProcessLookupError when it was never started."""
        if self._popen is None:
            raise ProcessLookupError(f"not started: {' '.join(self.command)}")
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The exit status as `subprocess` gives it (negative: the signal); None while it runs or was never started."""
        return None if self._popen is None else self._popen.poll()

    def said(self) -> str:
        """What the process wrote to its standard output and error so far, or before it was stopped."""
        if self._output is None:
            return self._last_words
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def start(self) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop(), long after this function
        self._popen = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 10.0) -> int:
        """The exit status, once it ended; raises NotReached when it goes on for longer than `seconds`."""
        if self._popen is None:
            raise ProcessLookupError(f"not started: {' '.join(self.command)}")
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise NotReached(f"not within {seconds:g} s: the end of {' '.join(self.command)}") from None

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 5.0) -> None:
        """End the process with signal `number`, and by force if that has not ended it within `seconds`."""
        if self._popen is None:
            return
        family = [self._popen.pid, *children(self._popen.pid)]
        if self._popen.poll() is None:
            self._popen.send_signal(number)
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        self._end_orphans(family[1:])
        if self._output is not None:
            self._last_words = self.said()
            self._output.close()
            self._output = None

    def _end_orphans(self, orphans: Iterable[int]) -> None:
        # A parent that had to be killed leaves its children behind; they are in our child's session, nobody else's.
        for orphan in orphans:
            try:
                if os.getsid(orphan) == self.pid:
                    os.kill(orphan, signal.SIGKILL)
            except ProcessLookupError:
                continue


class App(_Process):
    """A small web app (`demo_app`) on 127.0.0.1:`port` that answers with `name`; can be stopped and started again."""

    def __init__(self, port: int, name: str) -> None:
        super().__init__([sys.executable, "-m", "upwell.contrib.demo_app", str(port), name])
        self.port = port
        self.name = name

    def start(self) -> None:
        """Start the app and return once it accepts connections."""
        super().start()
        await_condition(
            lambda: listens(self.port) or not self.alive, f"web app {self.name} on port {self.port}", seconds=15
        )
        if not self.alive:
            raise NotReached(f"web app {self.name} ended at once: {self.said().strip()}")


class Balancer(_Process):
    """upwell or nginx in the foreground, with the prefix directory `prefix` and a configuration of its own.

    The configuration is written to PREFIX/conf/nginx.conf, PREFIX/logs is made; `ports` are what it has to listen on.
    """

    def __init__(
        self,
        prefix: Path,
        configuration: str,
        ports: Sequence[int] = (),
        command: Sequence[str] = UPWELL,
        main: str = "daemon off;",
    ) -> None:
        # With `-e` nginx and upwell put the error log in the same place whatever was compiled in.
        super().__init__([*command, "-p", str(prefix), "-c", "conf/nginx.conf", "-e", "logs/error.log", "-g", main])
        self.prefix = prefix
        self.ports = list(ports)
        for folder in (prefix, prefix / "conf", prefix / "logs"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)  # workers run as another user when the master is root
        self.configure(configuration)

    def configure(self, configuration: str) -> None:
        """Write the configuration file; a running balancer reads it at its next SIGHUP."""
        (self.prefix / "conf" / "nginx.conf").write_text(configuration, encoding="utf-8")

    def start(self) -> None:
        """Start it and return once every port of `ports` accepts connections; raises NotReached with all it said."""
        super().start()
        try:
            await_condition(lambda: not self.alive or all(map(listens, self.ports)), f"ports {self.ports}", seconds=20)
        except NotReached as error:
            raise NotReached(f"{error}\n{self.story()}") from None
        if not self.alive:
            raise NotReached(f"{' '.join(self.command)} ended with {self.exit_status}\n{self.story()}")

    @property
    def workers(self) -> list[int]:
        """The process ids of its children."""
        return children(self.pid)

    def error_log(self) -> str:
        """The text of its error log; empty when there is none."""
        try:
            return (self.prefix / "logs" / "error.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def story(self, lines: int = 60) -> str:
        """What it printed and the last `lines` lines of its error log, for whoever has to find out why."""
        log = self.error_log().splitlines()
        return "\n".join([f"--- printed by {self.command[0]}", self.said(), "--- end of its error log", *log[-lines:]])


_PEER_LINE = re.compile(r"^        (\S+) (UP|DOWN)$", re.MULTILINE)


def peer_states(page: str) -> dict[str, bool]:
    """Peer name -> whether it is up, from the text of a status page of lua-resty-upstream-healthcheck."""
    return {name: state == "UP" for name, state in _PEER_LINE.findall(page)}
