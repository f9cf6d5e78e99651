"""Clients' connections whose bytes are in TLS: a transport that says to its receiver what is inside.

Knows OpenSSL's state machine and records; which server a client means and what that one wants is the `TlsFront`'s.
Bytes go through OpenSSL's memory, not through its sockets: one read and one write for each turn, as without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from upwell.errors import MessageError
from upwell.http1.fields import check_host
from upwell.pcre import PatternTimeout
from upwell.proxy.client_hello import Hello
from upwell.proxy.server_hello import group_of
from upwell.proxy.tls import is_too_deep
from upwell.proxy.transport import MOST_READ, Poll, Transport

if TYPE_CHECKING:
    from upwell.proxy.client import ClientConnection
    from upwell.proxy.location import Server

_read: Final = os.read
_RECORD: Final = 16_384  # the most that a TLS record holds
_HANDSHAKE: Final = 22  # RFC 8446, 5.1: the first byte of who speaks TLS
_OLD_HELLO: Final = 0x80  # of who would speak SSLv2 too
_UNRECOGNIZED_NAME: Final = b"\x15\x03\x03\x00\x02\x02\x70"  # RFC 8446, 6.2: a fatal alert


class TlsFront:
    """What the TLS connections of one listening socket share.

    `names(connection, host)` gives the server that a client means by SNI; `default` is that of who means none.
    `contexts` are those of the servers that have one, and `rejecting` are the servers that reject every handshake
    (ssl_reject_handshake). `record` is the most of an answer in one record (ssl_buffer_size), in bytes. `keeps_hello`:
    somebody will ask what the clients have offered.

    `outgoing` is where OpenSSL writes, whichever connection it writes for. Who has had it write takes all out at once,
    so nothing is ever in there between two calls, and its memory stays in the processor's cache.
    """

    __slots__ = ("contexts", "default", "keeps_hello", "names", "outgoing", "record", "rejecting")

    def __init__(
        self,
        default: Server,
        names: Callable[[ClientConnection, bytes], Server | None],
        contexts: dict[Server, ssl.SSLContext],
        rejecting: frozenset[Server],
        record: int = _RECORD,
        keeps_hello: bool = False,
    ) -> None:
        self.keeps_hello = keeps_hello
        self.default = default
        self.names = names
        self.contexts = contexts
        self.rejecting = rejecting
        self.record = record
        self.outgoing = ssl.MemoryBIO()

    def __repr__(self) -> str:
        return f"<TlsFront {len(self.contexts)}>"


def _no_tls(_: object) -> Any:
    raise RuntimeError("no TLS yet")


class TlsTransport(Transport):
    """`client` is told of the connection at once, and of bytes once the handshake is over.

    `tls` is None before it begins, and where the client does not speak TLS at all. `server` is the one that the client
    named by SNI, None for none, and `name` its name, b"" for none. `hello` is what it said first, b"" where nobody
    asks for it; `group` is that of the key exchange by number then.
    """

    __slots__ = (
        "_again",
        "_decrypt",
        "_encrypt",
        "_farewell",
        "_front",
        "_hello",
        "_incoming",
        "_loop",
        "_outgoing",
        "_shaking",
        "client",
        "group",
        "hello",
        "name",
        "server",
        "tls",
    )

    def __init__(
        self, poll: Poll, fd: int, family: int, peer: object, client: ClientConnection, front: TlsFront
    ) -> None:
        super().__init__(poll, fd, family, peer, client)
        self.client: ClientConnection | None = client  # until it is over: each knows the other
        self.name = b""
        self.hello = b""
        self.group = 0
        self.server: Server | None = None
        self._front = front
        self._loop: asyncio.AbstractEventLoop = client.loop
        self._incoming = ssl.MemoryBIO()
        self._outgoing = front.outgoing
        self.tls: ssl.SSLObject | None = None
        self._decrypt: Callable[[int], bytes] = _no_tls
        self._encrypt: Callable[[bytes | memoryview], int] = _no_tls
        self._hello: Hello | None = Hello()
        self._shaking = True
        self._farewell = False  # said, and OpenSSL reads no more
        self._again = False

    # What the socket says

    def _receive(self) -> None:
        try:
            data = _read(self._fd, self._most)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        tls = self.tls
        if data and len(data) == self._most:
            if self._more:
                self._most = MOST_READ
            self._more = True
        if self._hello is not None:
            if data:
                self._greet(self._hello, data)
            else:
                self._take_end()
        elif tls is None or self._farewell:
            if data:
                self._receiver.data_received(data)
            else:
                self._take_end()
        elif data:
            self._incoming.write(data)
            if not self._shaking or self._shake(tls):
                self._pass_on(tls, min(len(data), _RECORD))
        else:
            if not self._shaking:
                self._pass_on(tls, _RECORD)  # what a pause has left
            if self._reading:
                self._take_end()

    def _greet(self, hello: Hello, data: bytes) -> None:
        """The beginning of what the client says: with whom it speaks hangs on that."""
        if not hello.data and data[0] != _HANDSHAKE and not data[0] & _OLD_HELLO:
            self._hello = None
            self._receiver.data_received(data)  # who answers sees that this is no TLS
            return
        hello.feed(data)
        if not hello.complete:
            return
        self._hello = None
        front = self._front
        server = front.default
        if hello.name:
            try:
                host = check_host(hello.name)[0]
                assert self.client is not None
                self.server = front.names(self.client, host)
                self.name = hello.name
            except (MessageError, PatternTimeout):
                self.server = None  # nginx goes on without, too
            server = self.server or server
        context = front.contexts.get(server) or front.contexts.get(front.default)
        if server in front.rejecting or context is None:
            super().write(_UNRECOGNIZED_NAME)
            self.close()
            return
        tls = self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        inside: Any = tls
        # What SSLObject's own methods call, a frame of the interpreter later.
        self._decrypt = inside._sslobj.read
        self._encrypt = inside._sslobj.write
        data = hello.data
        if front.keeps_hello:
            self.hello = data
        self._incoming.write(data)
        if self._shake(tls):
            self._pass_on(tls, _RECORD)

    def _note_group(self) -> None:
        """Look into what goes out."""
        said = self._outgoing.read()
        self.group = group_of(said)
        self._outgoing.write(said)

    def _shake(self, tls: ssl.SSLObject) -> bool:
        """Whether the handshake is over."""
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            if self.hello and not self.group:
                self._note_group()
            self._put_out()
            return False
        except OSError as error:
            if is_too_deep(error):
                self._outgoing.read()  # tickets, by which a session could be resumed
            self._put_out()  # the alert
            assert self.client is not None
            self.client.no_handshake(error)
            self._shaking = False
            self._farewell = True
            self.close()
            return False
        self._shaking = False
        self._put_out()
        return True

    def _pass_on(self, tls: ssl.SSLObject, size: int) -> None:
        """Tell what is inside, until the receiver wants no more or there is no more; `size` bytes at once, for which
        Python takes memory before it knows how many there are."""
        incoming = self._incoming
        outgoing = self._outgoing
        while self._reading:
            try:
                data = self._decrypt(size)
            except ssl.SSLWantReadError:
                self._put_out()
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except OSError as error:
                self._put_out()
                assert self.client is not None
                self.client.no_tls(error)
                self._lose(None)
                return
            if outgoing.pending:
                self._put_out()  # what TLS says by itself: tickets, new keys
            if not data:
                self._take_end()
                break
            self._receiver.data_received(data)
            # To be told so by OpenSSL takes an exception. It opens one record at a time: less than asked is its end.
            if not incoming.pending and (len(data) < size or not tls.pending()):
                break

    def _put_out(self) -> None:
        said = self._outgoing.read()
        if said and not self._closing and not self._eof:
            super().write(said)

    def _lose(self, error: Exception | None) -> None:
        self._outgoing.read()  # of an exception between what was said and sending it
        super()._lose(error)

    def _go_on(self) -> None:
        self._again = False
        tls = self.tls
        if tls is not None and self._reading and not self._ended and not self._farewell:
            try:
                self._pass_on(tls, _RECORD)
            except Exception as error:
                self._fault(error)

    # What the owner asks for

    def write(self, data: bytes) -> None:
        if self.tls is None:
            super().write(data)
        elif self._takes(len(data)):
            self._seal(b"", data)

    def writelines(self, pieces: list[bytes]) -> None:
        if self.tls is None:
            super().writelines(pieces)
        elif len(pieces) != 2 or len(pieces[0]) > self._front.record:
            self.write(b"".join(pieces))
        elif self._takes(len(pieces[0]) + len(pieces[1])):
            self._seal(pieces[0], pieces[1])

    def _takes(self, size: int) -> bool:
        """Whether so much may be written now. Raises RuntimeError, as write() does."""
        if self._eof:
            raise RuntimeError("write() after write_eof()")
        return not self._closing and size > 0

    def _seal(self, first: bytes, data: bytes) -> None:
        """Write `data` behind `first`, which is no longer than a record."""
        record = self._front.record
        try:
            if len(first) + len(data) <= record:
                self._encrypt(first + data if first else data)
            else:
                view = memoryview(data)
                at = 0
                if first:
                    at = record - len(first)
                    self._encrypt(first + data[:at])
                while at < len(data):
                    at += self._encrypt(view[at : at + record])
        except OSError as error:
            assert self.client is not None
            self.client.no_tls(error)
            self._lose(None)
            return
        super().write(self._outgoing.read())

    def resume_reading(self) -> None:
        super().resume_reading()
        tls = self.tls
        if tls is not None and self._reading and not self._again and (self._incoming.pending or tls.pending()):
            self._again = True
            self._loop.call_soon(self._go_on)

    def write_eof(self) -> None:
        self._say_farewell()
        super().write_eof()

    def close(self) -> None:
        self._say_farewell()
        super().close()

    def _say_farewell(self) -> None:
        """That nothing more comes (RFC 8446, 6.1), for the other end to know that it has all."""
        tls = self.tls
        if tls is None or self._farewell or self._shaking or self._closing or self._eof:
            return
        self._farewell = True
        with contextlib.suppress(OSError, ValueError):  # the other end has not said the same yet
            tls.unwrap()
        self._put_out()

    def finish(self) -> None:
        super().finish()
        self.client = None  # no cycle is left behind, which would keep 30 KB of OpenSSL's until they are looked for

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Besides what a Transport tells: "ssl_object"."""
        return self.tls if name == "ssl_object" else super().get_extra_info(name, default)
