"""One request and its response. The state of an exchange, the ways to answer, and the driver of its coroutine.

An exchange runs as one coroutine that is driven by hand: `start` runs it until it suspends, `resume` and `fail` go on
with it. What is written is collected and handed to the transport once, when the coroutine suspends or ends.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final

from upwell.errors import ClientClosed, MessageError
from upwell.http1.fields import FieldSection, one_line
from upwell.http1.framing import LAST_CHUNK, chunk, last_chunk
from upwell.http1.head import RequestHead
from upwell.http1.respond import error_page as built_in_page
from upwell.http1.respond import status_line, status_sent
from upwell.http1.target import Target, make_target
from upwell.log import ERROR, INFO, WARN, printable
from upwell.proxy import pace
from upwell.proxy.accel import charset_of, with_charset
from upwell.proxy.answer import passed_field
from upwell.proxy.body import RequestBody
from upwell.proxy.error_page import has_page, show
from upwell.proxy.sockets import reset_on_close
from upwell.proxy.suspension import suspend

if TYPE_CHECKING:
    from upwell.proxy.body_filters import Chain
    from upwell.proxy.client import ClientConnection
    from upwell.proxy.destination import Destination
    from upwell.proxy.limits import Limited
    from upwell.proxy.location import Location, Server
    from upwell.proxy.trailers import Trailers
    from upwell.proxy.upstream import Try, UpstreamConnection

_CLOSING: Final = frozenset((400, 413, 414, 494, 495, 496, 497, 500, 501, 505))
_NO_CONTENT: Final = frozenset((204, 304))


_ENDED: Final = object()
LEFT_EARLY: Final = "client prematurely closed connection"


class Captured:
    """What a subrequest answered: `fields` are (name, value) pairs with names as written. With a `sink`, content goes
    there instead of being kept, in `charset` if it is recoded at all. `head_only`: none is
    wanted, nor is it to be fetched.
    """

    __slots__ = ("body", "charset", "fields", "head_only", "pieces", "sink", "status", "truncated")

    def __init__(
        self,
        sink: Callable[[Exchange, bytes], None] | None = None,
        head_only: bool = False,
    ) -> None:
        self.sink = sink
        self.charset: bytes | None = None
        self.head_only = head_only
        self.status = 0
        self.fields: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.body = b""
        self.truncated = False


class Exchange:
    """One request on `client` and the answer to it; the interface that handlers see (docs/architecture.md)."""

    # Defaults of what most exchanges never have: on the class, they cost a request nothing.
    match: re.Match[bytes] | None = None
    body: RequestBody | None = None
    status_text: bytes | None = None
    content_type: bytes | None = None
    content_length: int | None = None
    chunked: bool = False
    cut: bool = False
    trailers: Trailers | None = None
    fields_set: frozenset[bytes] = frozenset()  # names of request fields that a handler set: Connection names none
    variables: dict[str, bytes] | None = None
    module: dict[str, Any] | None = None
    capture: Captured | None = None
    on_done: Callable[[Exchange], None] | None = None
    internal: bool = False
    depth: int = 0
    destination: Destination | None = None
    # Rare turns of an answer. `special`: its head must go through send_head, or its content through `_write_special`;
    # `due`: how much content is to come until what was announced is complete; `forced_status`: what the client gets
    # whatever the handlers say (nginx: err_status); `kept`: fields that survive internal redirects; `changes`: how
    # often the URI was changed; `moved`: it was changed, and a location is to be looked for anew; `located`: its front
    # is what the location matched (nginx: valid_location); `paged`: no error page any more; `groups`: the places in
    # `tries` where the ones of a further internal redirect begin; `limit_rate` and `peer_rate` are bytes a second, for
    # the client and from a peer; `charset` is what a peer's type named before it redirected; `onward`: what is to be
    # done instead of ending; `not_ours`: fields of every answer that a peer may leave out (proxy_pass_header); `waits`:
    # for how many seconds tries were queued for a peer, by their places in `tries`; `chain`: what changes the content,
    # `flushes`: nothing of it may be held back there for more to come, None: nobody has said so; `ratio` is
    # $gzip_ratio; `came_from`: address and port that the connection came from, where a proxy was believed that it is
    # another client's; `limited`: what became of limit_req and limit_conn; `asked_charset` is a peer's X-Accel-Charset;
    # `ending` makes the trailer section;
    # `prelude`: content of others that is to be sent before any; `chain_done`: what takes time in `chain` is over.
    special: bool = False
    due: int | None = None
    forced_status: int = 0
    kept: tuple[tuple[bytes, bytes], ...] = ()
    changes: int = 0
    moved: bool = False
    located: bool = True
    paged: bool = False
    groups: tuple[int, ...] = ()
    limit_rate: int | None = None
    peer_rate: int = 0
    charset: bytes | None = None
    onward: Callable[[], None] | None = None
    filtered: bool = False
    waits: dict[int, float] | None = None
    chain: Chain | None = None
    chain_done: bool = False
    prelude: Callable[[], Awaitable[None]] | None = None
    flushes: bool | None = None
    ratio: bytes | None = None
    asked_charset: bytes | None = None
    ending: Callable[[Exchange], None] | None = None
    not_ours: frozenset[bytes] = frozenset()
    came_from: tuple[str, bytes, int] | None = None
    limited: Limited | None = None

    __slots__ = (
        "__dict__",
        "_coro",
        "_ended",
        "_steps",
        "abortable",
        "answered",
        "args",
        "body_bytes_sent",
        "client",
        "fields",
        "finished",
        "head",
        "head_bytes_sent",
        "head_sent",
        "header_only",
        "host",
        "keepalive",
        "location",
        "method",
        "out",
        "path",
        "proxying",
        "quoted",
        "server",
        "source",
        "started",
        "status",
        "target",
        "tries",
        "uri",
        "values",
        "version",
    )

    def __init__(self, client: ClientConnection, head: RequestHead, target: Target, started: float) -> None:
        section = head.section
        self.client: ClientConnection = client
        self.head: RequestHead = head
        self.method: bytes = head.method
        self.target: bytes = head.target
        self.version: int = head.version
        self.fields: Sequence[tuple[bytes, bytes]] = section.fields
        self.values: dict[bytes, bytes] = section.values
        self.uri: bytes = target.uri
        self.args: bytes = target.args
        self.path: bytes = target.path
        self.quoted: bool = target.quoted
        self.host: bytes = b""
        self.started: float = started
        self.server: Server = client.endpoint.default
        self.location: Location = self.server.fallback
        self.status: int = 0
        self.out: list[tuple[bytes, bytes]] = []
        self.head_sent: bool = False
        self.header_only: bool = head.method == b"HEAD"
        self.finished: bool = False
        self.keepalive: bool = not section.close if head.version == 11 else section.keep_alive
        self.body_bytes_sent: int = 0
        self.head_bytes_sent: int = 0
        self.answered: FieldSection | None = None
        self.tries: list[Try] | None = None
        self.source: UpstreamConnection | None = None
        self.proxying: bool = False
        self.abortable: bool = False
        self._coro: Coroutine[Any, Any, None] | None = None
        self._steps: Generator[Any, Any, None]
        self._ended: bool = False

    def __repr__(self) -> str:
        return f"<Exchange {self.request_line.decode('latin-1')!r} {self.status}>"

    # What was asked

    @property
    def request_line(self) -> bytes:
        """The request line as it came (nginx: $request)."""
        return self.head.line

    @property
    def scheme(self) -> str:
        return "http" if self.client.tls is None else "https"

    def field(self, name: bytes) -> bytes | None:
        """The value of the request field `name` (lower case); several are joined with ", "."""
        return self.values.get(name)

    def aim(self, uri: bytes, args: bytes) -> None:
        """From here on the request is for the decoded `uri` with `args` (ngx.req.set_uri, set_uri_args)."""
        target = make_target(uri, args)
        self.uri = target.uri
        self.args = target.args
        self.path = target.path
        self.quoted = True

    def set_fields(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Replace the request's fields (names in lower case) for all that comes after."""
        self.fields = tuple(fields)
        values: dict[bytes, bytes] = {}
        for name, value in fields:
            values[name] = values[name] + b", " + value if name in values else value
        self.values = values

    def variable(self, name: str) -> bytes | None:
        """The value of nginx's $name; None when there is no such variable or it is not set."""
        if self.variables is not None and name in self.variables:
            return self.variables[name]
        return self.client.endpoint.variable(self, name)

    async def read_body(self) -> bytes:
        """Take in all of the request's content; returns it unless it is in a file (`body.file`).

        Raises MessageError(413) over client_max_body_size, (400) for bad chunks, (500) for a full disk.
        """
        body = self.body
        if body is None:
            return b""
        await body.store()
        return body.content()

    # Answering

    def send_head(self) -> None:
        """Send the response's head from `status`, `content_type`, `content_length`, `out`; once, the rest is
        content.
        """
        if self.head_sent:
            return
        self._settle_status()
        if not self.filtered:
            self.filter_head()
        if self.limit_rate or self.peer_rate:
            pace.begin(self)
        self.head_sent = True
        status = self.status
        if status < 200:
            self.header_only = True
            self.keepalive = False  # a client that goes on to wait must not take the next answer for this one's
        elif status in _NO_CONTENT:
            self.header_only = True
        if self.capture is not None:
            self._capture_head()
            return
        client = self.client
        fields = []
        if self.content_type is not None and (status != 204 or self.status_text is not None):
            if self.charset is not None:
                self.content_type = with_charset(self.content_type, self.charset)
            fields.append(b"Content-Type: %b\r\n" % self.content_type)
        if status < 200 or status in _NO_CONTENT:
            pass
        elif self.content_length is not None and self.ending is None:
            fields.append(b"Content-Length: %d\r\n" % self.content_length)
            if not self.header_only:
                self.special = True
                self.due = self.content_length
        elif not self.header_only:
            if self.version == 11 and self.location.chunks:
                self.chunked = True
                fields.append(b"Transfer-Encoding: chunked\r\n")
            else:
                self.keepalive = False
        fields.append(self.connection_line())
        fields.extend(b"%b: %b\r\n" % (name, one_line(value)) for name, value in self.out)
        given = self.not_ours.union([name.lower() for name, _ in self.out])
        server = b"" if b"server" in given else self.location.server_line
        date = b"" if b"date" in given else client.endpoint.clock.date
        line = status_line(status)
        if self.status_text is not None and self.status_text.startswith(line[:4]):
            line = self.status_text  # the peer's own reason, unless a filter has changed the status
        head = b"HTTP/1.1 %b\r\n%b%b%b\r\n" % (line, server, date, b"".join(fields))
        self.head_bytes_sent = len(head)
        client.out.append(head)

    def filter_head(self) -> None:
        """Have the location's filters see the head that is to be sent."""
        self.filtered = True  # before: a filter that fails is not run again for the page that tells of it
        self._settle_status()
        for handler in self.location.header_filters:
            handler(self)

    def _settle_status(self) -> None:
        self.status = self.status or 200
        if self.forced_status:
            self.status = self.forced_status
            self.status_text = None

    def _capture_head(self) -> None:
        capture = self.capture
        assert capture is not None
        capture.status = self.status
        if self.content_type is not None:
            capture.fields.append((b"Content-Type", self.content_type))
        if self.content_length is not None:
            capture.fields.append((b"Content-Length", b"%d" % self.content_length))
        capture.fields.extend(self.out)

    @property
    def default_type(self) -> bytes | None:
        """The media type of an answer made here: one that is set already (X-Accel-Redirect), that of the URI's
        extension (`types`), `default_type`.
        """
        if self.content_type is not None:
            return self.content_type
        location = self.location
        stem, _, extension = self.uri.rpartition(b"/")[2].rpartition(b".")
        found = location.types.get(extension.lower()) if stem else None
        return found or location.default_type or None

    def sent_field(self, name: bytes) -> bytes | None:
        """The value of a field of the answer by its lower-case name (nginx: $sent_http_name)."""
        if name == b"connection":
            if self.status == 101:
                return b"upgrade"
            return b"keep-alive" if self.keepalive else b"close"
        if name == b"transfer-encoding":
            return b"chunked" if self.chunked else None
        if self.head_sent and not self.filtered and self.answered is not None:
            return passed_field(self.answered, self.location.hide, name)
        if name == b"content-type":
            return None if self.status == 204 and self.status_text is None else self.content_type
        if name == b"content-length":
            return None if self.content_length is None or self.status in _NO_CONTENT else b"%d" % self.content_length
        found = [value for known, value in self.out if known.lower() == name]
        return b", ".join(found) if found else None

    def connection_line(self) -> bytes:
        """The Connection field of the answer; from here on it is decided whether the connection lives on."""
        if self.keepalive and self.client.may_keep(self):
            return self.location.keepalive_line
        self.keepalive = False
        return b"Connection: upgrade\r\n" if self.status == 101 else b"Connection: close\r\n"

    def write(self, data: bytes) -> None:
        """Send a piece of content; it reaches the transport when the coroutine suspends."""
        if not data or self.header_only:
            return
        if self.special:
            self._write_special(data)
            return
        if self.chunked:
            data = chunk(data)
        self.client.out.append(data)
        self.body_bytes_sent += len(data)

    def _write_special(self, data: bytes) -> None:
        """Content that is changed on its way, or that goes where `put` says."""
        if self.chain is None:
            self.put(data)
        else:
            self.chain.feed(data)

    def put(self, data: bytes) -> None:
        """Content of a capture, or of an answer whose length was announced by somebody who may be wrong."""
        capture = self.capture
        if capture is not None:
            if capture.sink is None:
                capture.pieces.append(data)
            else:
                capture.sink(self, data)
        else:
            if self.due is not None:
                if len(data) > self.due:
                    # A client would take it for the next answer.
                    self.log(WARN, "content behind the Content-Length that was announced is dropped")
                    data = data[: self.due]
                self.due -= len(data)
            elif self.chunked:
                data = chunk(data)
            if data:
                self.client.out.append(data)
        self.body_bytes_sent += len(data)

    @property
    def sends_as_it_is(self) -> bool:
        """Whether content reaches the client's transport unchanged."""
        return self.capture is None and self.chain is None and not self.chunked

    def note_sent(self, count: int) -> None:
        """So much of the content has gone to the client past `write`."""
        self.body_bytes_sent += count
        if self.due is not None:
            self.due -= count

    async def drained(self) -> None:
        """Hand over what was written and wait while the client is slow to read."""
        if self.prelude is not None:
            await self.prelude()
        if self.capture is None or self.capture.sink is not None:
            await self.client.drained(self)

    def finish(self) -> None:
        """The content is complete."""
        if self.finished:
            return
        if not self.head_sent:
            if self.content_length is None:
                self.content_length = 0
            self.send_head()
        if self.chain is not None and not self._end_chain(self.chain):
            return
        if self.due:
            self.log(WARN, "content ends before the Content-Length that was announced")
            self.abort()
            return
        self.finished = True
        if self.chunked and not self.header_only:
            if self.ending is not None:
                self.ending(self)
            end = LAST_CHUNK if self.trailers is None else last_chunk(self.trailers.wire)
            self.body_bytes_sent += len(end)
            self.client.out.append(end)

    def _end_chain(self, chain: Chain) -> bool:
        """Have the chain give the rest; false when that takes time, or is impossible."""
        if self.cut:
            return False
        if chain.late and not self.chain_done:
            self.chain_done = True
            self._finish_after(chain.complete())
            return False
        self.chain = None
        chain.end()
        return not self.cut

    def _finish_after(self, coro: Coroutine[Any, Any, None]) -> None:
        """The handler is done, but `coro` has more to send before the content is complete."""
        self.finished = True
        then = self.onward

        async def see_out() -> None:
            await coro
            self.finished = False
            self.onward = then
            self.finish()

        def go() -> None:
            self.start(see_out())

        self.onward = go

    def respond(
        self,
        status: int,
        content: bytes = b"",
        content_type: bytes = b"text/html",
        fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """The whole answer at once."""
        self.status = status
        self.content_type = content_type if content else None
        self.content_length = len(content)
        self.out = [*self.out, *fields]
        self.send_head()
        self.write(content)
        self.finish()

    def respond_error(self, status: int, fields: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """The location's error page for `status`, else nginx's built-in one, with `fields` besides; on a head already
        sent, the connection is cut off instead.
        """
        if self.head_sent:
            self.abort()
            return
        if status in _CLOSING:
            self.keepalive = False
        pages = self.location.error_pages
        if pages is not None:
            page = has_page(self, pages, status)
            if page is not None:
                show(self, page, status, fields)
                return
        self.forced_status = 0
        self.respond_with_page(status, fields)

    def respond_with_page(self, status: int, fields: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """nginx's built-in page for `status`."""
        self.keep(fields)
        self.out = [line for line in self.kept if line[0].lower() != b"accept-ranges"]
        page = built_in_page(status, self.location.signature)
        self.respond(status_sent(status), page or b"")

    def keep(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        """Have `fields`, and a Location that is there, go out with whatever answers in the end."""
        mine = [line for line in self.out if line[0] == b"Location"]
        self.kept = (*self.kept, *(line for line in (*mine, *fields) if line not in self.kept))

    def start_answer(self, status: int) -> None:
        """Answer with `status` where no handler is running."""

        async def answer() -> None:
            self.respond_error(status)

        self.start(answer())

    def abort(self) -> None:
        """End an answer that cannot be completed so that the client does not take it for complete."""
        self.keepalive = False
        self.finished = self.cut = True
        if self.capture is not None:
            self.capture.truncated = True
            return
        if self.open_ended:
            reset_on_close(self.client.transport)
        self.client.abort()

    @property
    def open_ended(self) -> bool:
        """Whether the end of the answer may be the connection's: cut short, it is not to end with a FIN, which would
        complete it.
        """
        return self.head_sent and not self.chunked and (self.version == 10 or not self.location.chunks)

    def drop(self, status: int) -> None:
        """Close the connection and say nothing: nginx's own status 444, which ends it as a time-out does, and those of
        a client that is gone or too slow.
        """
        self.status = status
        if status == 444 and self.capture is None and self.location.reset_timedout:
            reset_on_close(self.client.transport)
        self.abort()

    # Waiting

    def start(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run `coro`, which answers this exchange, until it waits or ends."""
        self._coro = coro
        self._steps = coro.__await__()
        self.resume()

    def start_failing(self, error: Exception) -> None:
        """Answer for an error that came up before there was a handler to run."""

        async def fail() -> None:
            raise error

        self.start(fail())

    def resume(self) -> None:
        """Go on where the coroutine suspended. Does nothing once the exchange has ended."""
        if self._coro is None:
            return
        try:
            # `next` with a default spares the exception that `send` ends with.
            step = next(self._steps, _ENDED)
        except Exception as error:
            self._fail(error)
            return
        if step is _ENDED:
            self._end()
        elif self.client.out:
            self.client.flush()

    def fail(self, error: BaseException) -> None:
        """Raise `error` where the coroutine suspended. Does nothing once the exchange has ended."""
        coro = self._coro
        if coro is None:
            return
        try:
            coro.throw(error)
        except StopIteration:
            self._end()
        except Exception as raised:
            self._fail(raised)
        else:
            if self.client.out:
                self.client.flush()

    def _fail(self, error: Exception) -> None:
        """The coroutine let an exception out: answer for it."""
        self.onward = None
        if isinstance(error, ClientClosed):
            self.keepalive = False
            self.finished = self.cut = True
            if not self.head_sent:
                self.status = error.status
        elif isinstance(error, MessageError):
            told = error.reason if error.reason.startswith("client ") else f"client sent {error.reason}"
            self.log(INFO if told == LEFT_EARLY else ERROR, told)
            self.respond_error(error.status)
        else:
            self.client.endpoint.report(self, error)
            self.respond_error(500)
        self._end()

    def _end(self) -> None:
        if self._ended:
            return
        self._coro = None
        if not self.finished:
            if self.head_sent:
                self.finish()
            else:
                self.respond_error(500)
        if self.onward is not None:
            self._go_on(self.onward)
            return
        self._ended = True
        if self.on_done is not None:
            if self.capture is not None:
                self.capture.body = b"".join(self.capture.pieces)
            self.on_done(self)
            self.body = None
            self.module = None
        else:
            self.client.exchange_done(self)

    def _go_on(self, onward: Callable[[], None]) -> None:
        """The coroutine has ended, the exchange has not: go on with what was asked for."""
        self.onward = None
        try:
            onward()
        except Exception as error:
            self.start_failing(error)

    async def sleep(self, seconds: float) -> None:
        """Wait; other exchanges go on."""
        handle = self.client.loop.call_later(seconds, self.resume)
        try:
            await suspend()
        finally:
            handle.cancel()

    async def subrequest(
        self,
        uri: bytes,
        args: bytes = b"",
        method: bytes = b"GET",
        body: bytes | None = None,
        fields: Sequence[tuple[bytes, bytes]] | None = None,
    ) -> Captured:
        """Ask this server for `uri` from within and keep the answer (ngx.location.capture). At most 50 deep."""
        inner = await self.ask_within(uri, args, method, body, fields)
        assert inner.capture is not None
        return inner.capture

    async def ask_within(
        self,
        uri: bytes,
        args: bytes = b"",
        method: bytes = b"GET",
        body: bytes | None = None,
        fields: Sequence[tuple[bytes, bytes]] | None = None,
        head_only: bool = False,
        sink: Callable[[Exchange, bytes], None] | None = None,
    ) -> Exchange:
        """The exchange of a subrequest, when it has ended."""
        waiting = False

        def done(_inner: Exchange) -> None:
            if waiting:
                self.resume()

        inner = self.begin_subrequest(uri, args, method, body, fields, done, head_only, None, sink)
        if not inner._ended:
            waiting = True
            try:
                await suspend()
            finally:
                waiting = False
                inner.fail(ClientClosed())  # for a client that left; nothing happens to one that has ended
        return inner

    def begin_subrequest(
        self,
        uri: bytes,
        args: bytes,
        method: bytes,
        body: bytes | None,
        fields: Sequence[tuple[bytes, bytes]] | None,
        on_done: Callable[[Exchange], None],
        head_only: bool = False,
        shares: RequestBody | None = None,
        sink: Callable[[Exchange, bytes], None] | None = None,
    ) -> Exchange:
        """Start a subrequest; `on_done(inner)` is called when it has ended, maybe before this returns. `shares`: its
        content, which is held somewhere already, for `on_done` to close. `sink`: as in Captured.
        """
        if self.depth >= 50:
            raise RuntimeError("subrequests cycle")
        inner = Exchange(self.client, self.head, make_target(uri, args), self.client.loop.time())
        inner.method = method
        inner.header_only = head_only or method == b"HEAD"
        inner.version = 11
        inner.server = self.server
        inner.host = self.host
        inner.internal = True
        inner.depth = self.depth + 1
        inner.capture = Captured(sink, head_only)
        if sink is not None and self.content_type is not None:
            inner.capture.charset = charset_of(self.content_type)
        inner.special = True
        inner.variables = dict(self.variables) if self.variables else None
        inner.fields_set = self.fields_set
        if fields is not None:
            inner.set_fields(fields)
        elif self.fields is not self.head.section.fields:
            inner.set_fields(self.fields)
        if body is not None:
            inner.body = RequestBody(inner, len(body))
            inner.body.feed(body)
        elif shares is not None:
            inner.body = shares.shared(inner)
        inner.on_done = on_done
        self.client.endpoint.begin(inner)
        return inner

    # Telling

    def log(self, level: int, message: str) -> None:
        """A line in the error log, with nginx's tail: client, server, request, host."""
        log = self.location.error_log or self.client.endpoint.log
        if level > log.level:
            return
        tail = [message, f", client: {self.client.address}, server: {self.server.name}"]
        if self.request_line:
            tail.append(f', request: "{printable(self.request_line)}"')
        if self.capture is not None:
            tail.append(f', subrequest: "{printable(self.uri)}"')
        if self.tries and self.proxying:
            tail.append(f', upstream: "{self.tries[-1].url(self)}"')
        host = self.values.get(b"host")
        if host is not None:
            tail.append(f', host: "{printable(host)}"')
        referrer = self.values.get(b"referer")
        if referrer is not None:
            tail.append(f', referrer: "{printable(referrer)}"')
        log.write(level, "".join(tail), self.client.number)
