"""A web app that fails to order: `python -m chaos.peer PORT NAME CONTROL`.

CONTROL is the path of a unix socket: each datagram on it is the behaviour from now on, one of `BEHAVIOURS`. Knows HTTP
as far as its own load needs it; `Peer` is the other end, for who gives the orders.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from upwell.contrib.processes import App, await_condition, listens

BEHAVIOURS = ("well", "refuse", "reset", "silent", "reuse", "half head", "half", "errors", "slow")
SLOWER = 0.2
"""Seconds that a slow peer takes longer for each second that it has been slow."""

_RST = struct.pack("ii", 1, 0)
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_PADDING = b"." * 2000


class _Connection(threading.Thread):
    """One connection: requests one after the other, each answered as the app behaves when it has come."""

    def __init__(self, app: _App, sock: socket.socket) -> None:
        super().__init__(daemon=True)
        self._app = app
        self._sock = sock
        self._served = 0

    def run(self) -> None:
        with self._sock, contextlib.suppress(OSError):
            while self._read() and self._answer():
                self._served += 1
        self._app.connections.discard(self)

    def cut(self) -> None:
        """End it as a process does that ends: whoever reads hears of it."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _reset(self) -> bool:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        return False

    def _read(self) -> bool:
        """Read one request; false at the end of the connection."""
        if self._app.behaviour == "reset" and not self._served:
            return self._reset()
        data = b""
        while b"\r\n\r\n" not in data:
            part = self._sock.recv(65536)
            if not part:
                return False
            data += part
        head, _, content = data.partition(b"\r\n\r\n")
        announced = _LENGTH.search(head)
        left = (int(announced[1]) if announced else 0) - len(content)
        while left > 0:
            part = self._sock.recv(65536)
            if not part:
                return False
            left -= len(part)
        return True

    def _answer(self) -> bool:
        """Answer, or do not; whether the connection goes on."""
        app, behaviour = self._app, self._app.behaviour
        if behaviour == "reset":
            return self._reset()
        if behaviour == "silent":
            while app.behaviour == "silent":
                time.sleep(0.05)
            return False
        if behaviour == "reuse" and self._served:
            app.refused += 1
            return False if app.refused % 2 else self._reset()
        if behaviour == "slow":
            time.sleep(SLOWER * (time.monotonic() - app.since))
        body = f"{app.name}\n".encode() + _PADDING
        status = b"500 Internal Server Error" if behaviour == "errors" else b"200 OK"
        answer = b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
        if behaviour.startswith("half"):
            self._sock.sendall(answer[: 30 if behaviour == "half head" else len(answer) // 2])
            return False
        self._sock.sendall(answer)
        return True


class _App:
    """The listener, its connections and how all of them behave."""

    def __init__(self, port: int, name: str) -> None:
        self.name = name
        self.behaviour = "well"
        self.since = time.monotonic()
        self.connections: set[_Connection] = set()
        self.refused = 0
        self._port = port
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", self._port), backlog=511)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = _Connection(self, listener.accept()[0])
                self.connections.add(connection)
                connection.start()

    def behave(self, behaviour: str) -> None:
        if (behaviour == "refuse") != (self.behaviour == "refuse"):
            if behaviour == "refuse":
                self._listener.shutdown(socket.SHUT_RDWR)  # a thread that waits in accept() would hold it open
                self._listener.close()
                for connection in list(self.connections):
                    connection.cut()
            else:
                self._listener = self._listen()
        self.since = time.monotonic()
        self.behaviour = behaviour


def main(argv: list[str]) -> int:
    """Serve until the process is ended. Returns 2 when the arguments are wrong."""
    if len(argv) != 3 or not argv[0].isdigit():
        print("usage: python -m chaos.peer PORT NAME CONTROL", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
        Path(argv[2]).unlink(missing_ok=True)
        orders.bind(argv[2])
        app = _App(int(argv[0]), argv[1])
        while True:
            order, back = orders.recvfrom(100)
            app.behave(order.decode())
            orders.sendto(b"done", back)


class Peer(App):
    """The app as a process of its own, which can be ended and started again; the folder is for its socket."""

    def __init__(self, port: int, name: str, folder: Path) -> None:
        super().__init__(port, name)
        self._control = folder / f"{name}.control"
        self._back = folder / f"{name}.back"
        self.command = [sys.executable, "-m", "chaos.peer", str(port), name, str(self._control)]

    def behave(self, behaviour: str) -> None:
        """Return when the app behaves so. Raises ValueError for a word that is none."""
        if behaviour not in BEHAVIOURS:
            raise ValueError(behaviour)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as orders:
            orders.settimeout(10)
            self._back.unlink(missing_ok=True)
            orders.bind(str(self._back))
            orders.sendto(behaviour.encode(), str(self._control))
            orders.recv(100)
        if behaviour == "well":
            await_condition(lambda: listens(self.port), f"{self.name} on port {self.port}", 10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
