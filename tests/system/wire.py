"""Both ends of a proxy as plain sockets: a client that sends any bytes, an origin that answers with any bytes.

Knows HTTP through h11, so that upwell's answers are judged by somebody else's reading of the RFC.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

import h11

TIMEOUT = 10.0


@dataclass
class Answer:
    """One response as a client sees it; field names are as on the wire."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def field(self, name: str) -> str | None:
        """The value of the first field line called `name`, in whatever letters."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


class Client:
    """One connection to 127.0.0.1:`port`, from address `source`; sends bytes as given and reads answers strictly."""

    def __init__(self, port: int, source: str = "127.0.0.1", timeout: float = TIMEOUT) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout, source_address=(source, 0))
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        """The next final response, to a request of `method`. Raises h11.RemoteProtocolError for what is none."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        reader.send(h11.EndOfMessage())
        if self._rest:
            reader.receive_data(self._rest)
        head: h11.Response | None = None
        body = bytearray()
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(self.socket.recv(65536))
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("closed without an answer")
        assert head is not None
        self._rest = reader.trailing_data[0]
        fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items()]
        return Answer(head.status_code, fields, bytes(body))

    def ask(self, data: bytes, method: str | None = None) -> Answer:
        """Send one whole request and read its answer; the method is the request's own unless given."""
        self.send(data)
        return self.answer(method or data.split(b" ", 1)[0].decode("latin-1"))

    def closed(self, within: float = 2.0) -> bool:
        """Whether the other end closes, within so many seconds, having sent nothing more."""
        if self._rest:
            return False
        self.socket.settimeout(within)
        try:
            return self.socket.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT)


def ask(port: int, data: bytes, source: str = "127.0.0.1") -> Answer:
    """The answer to one request on a connection of its own."""
    with Client(port, source) as client:
        return client.ask(data)


def get(path: str = "/", *fields: str, version: str = "1.1") -> bytes:
    """A GET request with Host and the further field lines."""
    return "".join([f"GET {path} HTTP/{version}\r\nHost: test\r\n", *(f"{one}\r\n" for one in fields), "\r\n"]).encode()


def post(body: bytes, path: str = "/", *fields: str) -> bytes:
    """A POST request with Host, Content-Length and the further field lines."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


def chunked(pieces: Iterable[bytes]) -> bytes:
    """The chunked coding of `pieces`, with its end."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def response(body: bytes = b"", *fields: str, status: str = "200 OK") -> bytes:
    """A response with Content-Length."""
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Seen:
    """A request as the origin received it: its raw head with the empty line, and its content, chunked coding undone."""

    head: bytes
    body: bytes
    raw_body: bytes = field(repr=False)

    @property
    def lines(self) -> list[bytes]:
        return self.head.split(b"\r\n")[:-2]

    @property
    def target(self) -> bytes:
        return self.lines[0].split(b" ")[1]


def read_request(connection: socket.socket, pending: bytes = b"") -> tuple[Seen | None, bytes]:
    """The next request on a connection and what came after it; None at its end."""

    def more() -> bytes:
        try:
            return connection.recv(65536)
        except OSError:
            return b""

    while b"\r\n\r\n" not in pending:
        data = more()
        if not data:
            return None, pending
        pending += data
    head, _, rest = pending.partition(b"\r\n\r\n")
    head += b"\r\n\r\n"
    names = {
        line.partition(b":")[0].strip().lower(): line.partition(b":")[2].strip() for line in head.split(b"\r\n")[1:]
    }
    if names.get(b"transfer-encoding", b"").lower() == b"chunked":
        taken, body = b"", b""
        while True:
            while b"\r\n" not in rest:
                rest += more() or b"\r\n"
            size_line, _, rest = rest.partition(b"\r\n")
            size = int(size_line or b"0", 16)
            while len(rest) < size + 2:
                data = more()
                if not data:
                    return None, rest
                rest += data
            taken += size_line + b"\r\n" + rest[: size + 2]
            body += rest[:size]
            rest = rest[size + 2 :]
            if size == 0:
                return Seen(head, body, taken), rest
    length = int(names.get(b"content-length", b"0"))
    parts = [rest]
    have = len(rest)
    while have < length:
        data = more()
        if not data:
            return None, b"".join(parts)
        parts.append(data)
        have += len(data)
    rest = b"".join(parts)
    return Seen(head, rest[:length], rest[:length]), rest[length:]


Respond = Callable[[Seen, socket.socket], bytes | None]
"""What an origin does with a request: the bytes to send, b"" for nothing more to send, None to close the connection."""


class Origin:
    """A web server for one test: every request goes through `respond`, and all of them are kept in `seen`.

    With `on_connect`, that function gets each accepted socket instead and does with it what it wants.
    """

    def __init__(
        self,
        respond: Respond | bytes = b"",
        on_connect: Callable[[socket.socket], None] | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        self._respond: Respond = (lambda *_: respond) if isinstance(respond, bytes) else respond
        self._on_connect = on_connect or self._serve
        self.seen: list[Seen] = []
        self.connections = 0
        self._listener = socket.create_server((host, port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # shutdown() wakes the thread in accept(); close() alone would leave it there.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(TIMEOUT)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def respond(self, respond: Respond | bytes) -> None:
        """Answer otherwise from now on."""
        self._respond = (lambda *_: respond) if isinstance(respond, bytes) else respond

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            threading.Thread(target=self._guard, args=(connection,), daemon=True).start()

    def _guard(self, connection: socket.socket) -> None:
        try:
            self._on_connect(connection)
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        pending = b""
        while True:
            seen, pending = read_request(connection, pending)
            if seen is None:
                return
            self.seen.append(seen)
            answer = self._respond(seen, connection)
            if answer is None:
                return
            if answer:
                connection.sendall(answer)
