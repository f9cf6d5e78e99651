"""A peer on a real socket, plain or with TLS, that does what a test says: for tests of probes through the checker."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable

from upwell.peers.peer import PeerSpec

Script = Callable[[socket.socket], None]


class Scripted:
    """Runs `script` with each connection, in a thread of its own; what it raises for the peer's fault is forgotten.

    `connections` counts those that were accepted, `resets` those that the other side reset.
    """

    def __init__(
        self,
        script: Script,
        tls: ssl.SSLContext | None = None,
        family: int = socket.AF_INET,
        address: str | tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        self.script = script
        self.tls = tls
        self.connections = self.resets = 0
        self._listener = socket.socket(family)
        self._listener.bind(address)
        self._listener.listen(64)
        self.address = self._listener.getsockname()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def spec(self) -> PeerSpec:
        if isinstance(self.address, str):
            return PeerSpec(f"unix:{self.address}", self.address)
        host, port = self.address[:2]
        return PeerSpec(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", (host, port))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._run, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, plain: socket.socket) -> None:
        sock = plain
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(plain, server_side=True)
            self.script(sock)
        except ConnectionResetError:
            self.resets += 1
        except OSError:
            pass
        finally:
            sock.close()
            plain.close()


def answering(*answers: bytes, kept: bool = True) -> Script:
    """Answers each request of a connection with the next answer, the last one for ever (`kept`: until it ends)."""

    def script(sock: socket.socket) -> None:
        left = list(answers)
        while sock.recv(65536):
            sock.sendall(left[0])
            if len(left) > 1:
                del left[0]
            elif not kept:
                return

    return script
