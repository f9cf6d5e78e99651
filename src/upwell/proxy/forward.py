"""What happens to a request: pick a peer, send the request, read the answer's head, pass the answer on; else the next
peer.

`forward` is the page to read. It decides; connections, content and the client's side are elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from upwell.errors import UpstreamError
from upwell.http1.head import ResponseHead
from upwell.log import CRIT, ERROR, WARN
from upwell.peers.upstream import Peer, Upstream
from upwell.proxy import accel
from upwell.proxy.answer import Cookies, Redirect, answer
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.queue import Place
from upwell.proxy.suspension import suspend
from upwell.proxy.tunnel import switch
from upwell.proxy.upstream import DEFAULT_LIMITS, Limits, Try, UpstreamConnection

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_NOT_IDEMPOTENT: Final = frozenset((b"POST", b"LOCK", b"PATCH"))
"""nginx's list; RFC 9110, 9.2.2 has all others it knows."""
_STATUS: Final = {"timeout": 504, "internal": 500}
_NOT_A_FAILURE: Final = frozenset(("http_403", "http_404", "internal", "upgrade"))  # nothing is held against the peer


@dataclass(frozen=True, slots=True)
class ForwardSpec:
    """One `proxy_pass` as compiled for a worker. Times in seconds, 0 for no limit; sizes in bytes.

    `request_head(exchange, length, chunked)` makes the bytes of the request's head: `length` is the Content-Length to
    announce or None. `request_path(exchange)` is the target as it goes to the peer. `next_on` holds the outcomes of
    `proxy_next_upstream`. `hide` are response fields (lower case) that are not passed on; `redirect` changes the
    value of Location and Refresh (nginx: proxy_redirect), `cookies` that of Set-Cookie. `keeps`: connections may be
    used again (with HTTP/1.0 only where the peer says so).
    `upgrade` gives the value of the Upgrade field in the request's head, empty for none; None: there never is one.
    `method` gives the method that `request_head` sends, None: the client's; `content` what is sent in place of the
    client's content, `announces` that its length is told even where there is none (nginx: proxy_set_body).
    `obeyed` are the X-Accel-* fields that are not ignored, `intercepted` the statuses that an error page answers in the
    peer's place. `hold`: how much content waits for a slow client without and with buffering, for X-Accel-Buffering.
    `choose(exchange, tried, now)` picks the peer where the request has a part in it (a key that is hashed, a session);
    None: `upstream.pick`. `heard(exchange, peer)` is told when the head of the answer that the client gets has come (of
    exchanges whose head takes the slow way), `ended(exchange, peer, attempt)` when a try is over. Where nobody can have
    a request, it waits in `queue` if there is one.
    `changes` and `unusual`: field names and statuses that need more than a look.
    """

    upstream: Upstream
    keepalive: Keepalive
    request_head: Callable[[Exchange, int | None, bool], bytes]
    request_path: Callable[[Exchange], bytes]
    hide: frozenset[bytes]
    limits: Limits = DEFAULT_LIMITS
    next_on: frozenset[str] = frozenset(("error", "timeout"))
    next_tries: int = 0
    next_timeout: float = 0.0
    redirect: Redirect | None = None
    keeps: bool = True
    request_buffering: bool = True
    method: Callable[[Exchange], bytes] | None = None
    content: Callable[[Exchange], bytes] | None = None
    announces: bool = False
    ignore_client_abort: bool = False
    upgrade: Callable[[Exchange], bytes] | None = None
    cookies: Cookies | None = None
    obeyed: frozenset[bytes] = accel.OBEYED
    intercepted: frozenset[int] = frozenset()
    choose: Callable[[Exchange, set[Peer], float], Peer | None] | None = None
    heard: Callable[[Exchange, Peer], None] | None = None
    ended: Callable[[Exchange, Peer, Try], None] | None = None
    queue: Place | None = None
    hold: tuple[int, int] = (DEFAULT_LIMITS.head_size, DEFAULT_LIMITS.buffered)
    changes: frozenset[bytes] = field(init=False)
    unusual: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        changed = self.obeyed
        if self.redirect is not None:
            changed |= {b"location", b"refresh"}
        if self.cookies is not None:
            changed |= {b"set-cookie"}
        object.__setattr__(self, "changes", changed)
        object.__setattr__(self, "unusual", self.intercepted | {204})


async def forward(exchange: Exchange, spec: ForwardSpec) -> None:
    """Answer `exchange` with what a peer of `spec.upstream` says (nginx: proxy_pass, proxy_next_upstream)."""
    upstream = spec.upstream
    now = exchange.client.loop.time
    body = exchange.body
    exchange.proxying = True
    stores = spec.request_buffering or (body is not None and body.announced is None and not spec.keeps)
    if body is not None:
        if not stores:
            body.check_size()
        elif not body.is_held():
            await body.store()  # even unbuffered for HTTP/1.0, which knows no chunks
    exchange.abortable = not spec.ignore_client_abort
    tried: set[Peer] = set()
    began = at = now()
    choose = spec.choose
    peer = upstream.pick(tried, at) if choose is None else choose(exchange, tried, at)
    connection: UpstreamConnection | None = None
    stale = False
    reason = "no live upstreams"
    while True:
        if peer is None:
            if spec.queue is None:
                break
            peer, reason = await spec.queue.wait(exchange, tried)
            waited, at = at, now()
            if at > waited:
                _note_wait(exchange, at - waited)
            if peer is None:
                break
            if not tried:
                began = at
        fresh, stale, failed = stale, False, ""
        attempt = _note(exchange, spec, peer.name, at)
        try:
            connection = None if fresh else spec.keepalive.take(peer, exchange.method in _NOT_IDEMPOTENT)
            if connection is None:
                connection = await _connect(exchange, spec, peer)
                at = now()
            attempt.connected = at
            _ask(exchange, spec, connection)
            await suspend()
            head = connection.head
            assert head is not None
            attempt.header = now()
            attempt.status = head.status
            peer.responses[min(head.status // 100, 5) - 1] += 1
            if head.status >= 400:
                _check_status(exchange, spec, head, tried, began)
            elif head.status == 101:
                await switch(exchange, spec, connection, head)
                return
            method = exchange.method if spec.method is None else _method_sent(exchange, spec.method)
            if not answer(exchange, head, spec):
                if exchange.prelude is None or exchange.finished:
                    connection.drop(head, method)
                    return
                await connection.wait_for(exchange.prelude)
            if not connection.relay(head, method):
                await suspend()
            exchange.finish()
            return
        except UpstreamError as error:
            if not error.outcome.startswith("http_"):
                exchange.log(CRIT if error.critical else ERROR, error.reason)
            # A kept connection that its peer closed at the moment of reuse says nothing about the peer: once more,
            # afresh.
            stale = (
                connection is not None and connection.reused and not connection.answered and error.outcome == "error"
            )
            if stale:
                spec.keepalive.distrust(peer)
            elif error.outcome not in _NOT_A_FAILURE:
                failed = error.reason.rpartition(" while ")[2]
            attempt.status = attempt.status or _status_for(error)
            if not _may_try_again(exchange, spec, error, stale, tried, began):
                stale = False
                exchange.respond_error(_status_for(error))
                return
        finally:
            attempt.ended = at = now()
            _let_go(exchange, spec, connection, attempt)
            if upstream.watches and not stale:
                _tell(upstream, peer, attempt, at, failed)
            if not stale and upstream.release(peer, at, failed != ""):
                exchange.log(WARN, f"upstream server temporarily disabled while {failed}")
            if spec.ended is not None:
                spec.ended(exchange, peer, attempt)
        if not stale:
            tried.add(peer)
            peer = upstream.pick(tried, at) if choose is None else choose(exchange, tried, at)
    attempt = _note(exchange, spec, upstream.name, at)
    attempt.ended = at
    attempt.status = 502
    exchange.log(ERROR, f"{reason} while connecting to upstream")
    exchange.respond_error(502)


def _tell(upstream: Upstream, peer: Peer, attempt: Try, at: float, failed: str) -> None:
    """Tell a balancer that wants to know how long the peer took for its answer, which is over or was never there."""
    header = attempt.header
    if header:
        last = header if attempt.status == 101 else at  # a tunnel is no long answer
        well = not failed and attempt.status < 500
        upstream.answered(peer, header - attempt.started, last - attempt.started, at, well)
    elif failed:
        upstream.answered(peer, at - attempt.started, at - attempt.started, at, False)


def _note_wait(exchange: Exchange, seconds: float) -> None:
    """Keep how long the next try was waited for ($upstream_queue_time)."""
    if exchange.waits is None:
        exchange.waits = {}
    exchange.waits[0 if exchange.tries is None else len(exchange.tries)] = seconds


def _note(exchange: Exchange, spec: ForwardSpec, peer: str, started: float) -> Try:
    """Begin the record of a try, which the log and the $upstream_ variables read; `peer` is its name, or the upstream's
    where no peer could be tried.
    """
    attempt = Try(peer, spec, started)
    if exchange.tries is None:
        exchange.tries = [attempt]
    else:
        exchange.tries.append(attempt)
    return attempt


async def _connect(exchange: Exchange, spec: ForwardSpec, peer: Peer) -> UpstreamConnection:
    """A new connection to `peer`. Raises UpstreamError when there is none in time."""
    connection = UpstreamConnection(spec.keepalive, peer, exchange)
    connection.connect(spec.limits)
    try:
        await suspend()
    except BaseException:
        connection.close()
        raise
    return connection


def _ask(exchange: Exchange, spec: ForwardSpec, connection: UpstreamConnection) -> None:
    """Send the request; the exchange is resumed with the final response's head, or an UpstreamError is raised in it."""
    body = exchange.body
    exchange.source = connection
    if spec.content is not None:
        content = spec.content(exchange)
        announced = spec.announces or content or body is not None or _speaks_of_content(exchange)
        request = spec.request_head(exchange, len(content) if announced else None, False)
        connection.begin(exchange, request, content, False, False, spec.limits)
    elif body is None:
        # That there is nothing is said if the client spoke of content (RFC 9110, 8.6): there was none, or it was thrown
        # away before an internal redirect. A subrequest has a content of its own.
        length = 0 if exchange.capture is None and _speaks_of_content(exchange) else None
        request = spec.request_head(exchange, length, False)
        connection.begin(exchange, request, b"", False, False, spec.limits)
    elif body.file is not None:
        content = body.file.read(0)
        streams = len(content) < body.size
        request = spec.request_head(exchange, body.size, False)
        if streams:
            connection.send_file(body.file, len(content))  # before: the connection may ask at once to wait
        connection.begin(exchange, request, content, streams, False, spec.limits)
    else:
        body.read = True
        streams = not body.complete
        length = body.announced if streams else body.size
        request = spec.request_head(exchange, length, length is None)
        content = body.content()
        connection.begin(exchange, request, content, streams, length is None, spec.limits)
        if streams:
            body.stream_to(connection)


def _speaks_of_content(exchange: Exchange) -> bool:
    """Whether the client has framed content, be it none."""
    section = exchange.head.section
    return section.content_length is not None or section.chunked


def _method_sent(exchange: Exchange, method: Callable[[Exchange], bytes]) -> bytes:
    """The method that the peer was asked with (nginx: proxy_method), which decides whether its answer has content."""
    sent = method(exchange)
    if sent == b"HEAD" and not exchange.header_only:
        exchange.header_only = True
        exchange.keepalive = False  # the client is promised content that does not come: let it see that at once
    return sent


def _check_status(exchange: Exchange, spec: ForwardSpec, head: ResponseHead, tried: set[Peer], began: float) -> None:
    """Raise UpstreamError when the status is one for which the next peer is to be tried, and it may be."""
    outcome = f"http_{head.status}"
    if outcome in spec.next_on:
        error = UpstreamError(outcome, f"upstream sent {head.status} while {accel.DOING}", sent=True)
        if _may_try_again(exchange, spec, error, False, tried, began):
            raise error


def _may_try_again(
    exchange: Exchange, spec: ForwardSpec, error: UpstreamError, stale: bool, tried: set[Peer], began: float
) -> bool:
    """Whether the request may be sent once more (nginx: proxy_next_upstream and its _tries, _timeout,
    non_idempotent). `began` is when the first peer was picked.
    """
    if exchange.head_sent:
        return False
    body = exchange.body
    if body is not None and body.total > body.size:
        return False  # content has gone that is not held any more
    if error.sent and exchange.method in _NOT_IDEMPOTENT and "non_idempotent" not in spec.next_on:
        return False
    if stale:
        return True
    if error.outcome not in spec.next_on:
        return False
    most = spec.upstream.tries
    if spec.next_tries and spec.next_tries < most:
        most = spec.next_tries
    if len(tried) + 1 >= most:
        return False
    return not spec.next_timeout or exchange.client.loop.time() - began < spec.next_timeout


def _status_for(error: UpstreamError) -> int:
    """nginx's status for a try that failed: what the client gets if it was the last one, and what the log shows."""
    return _STATUS.get(error.outcome, 502)


def _asked_to_keep(connection: UpstreamConnection) -> bool:
    """Whether the peer, which was asked with HTTP/1.0, says that it keeps the connection (RFC 9112, 9.3)."""
    return connection.head is not None and connection.head.section.keep_alive


def _let_go(exchange: Exchange, spec: ForwardSpec, connection: UpstreamConnection | None, attempt: Try) -> None:
    """The try is over: take the connection back, and the content away from it."""
    exchange.source = None
    if exchange.body is not None:
        exchange.body.consumer = None
    if connection is not None:
        attempt.sent = connection.sent
        attempt.received = connection.received
        attempt.length = connection.length
        connection.peer.sent += connection.sent
        connection.peer.received += connection.received
        connection.reusable = connection.reusable and (spec.keeps or _asked_to_keep(connection))
        spec.keepalive.give(connection)
