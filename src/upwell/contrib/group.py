"""An upstream in a program of one's own: pick a healthy peer, say how the request went, let peers join and leave.

The same classes as behind `nginx.conf` (Upstream, the balancers, the checker) in one process. Knows no configuration,
no request and no client library: what is done at a peer is the caller's business.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from random import random
from typing import Any, Final, TypeVar

from upwell.check.checker import Checker
from upwell.check.spec import PLUS, CheckSpec
from upwell.contrib.refusals import refuse_check, refuse_peer, refuse_upstream
from upwell.http1.fields import one_line
from upwell.http1.target import one_target
from upwell.log import ErrorLog, ErrorLogs
from upwell.peers.live import Peer
from upwell.peers.membership import SPARE
from upwell.peers.peer import Method, PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream, publish_all
from upwell.version import VERSION
from upwell.zone.table import PeerTable

_T = TypeVar("_T")

ROUND_ROBIN: Final = Method()

_PUBLISH_EVERY: Final = 1.0  # seconds
_ROUND: Final = 0.5  # seconds that one round of the checking thread waits at most


class NoPeer(Exception):
    """No peer may get a request now (nginx: "no live upstreams")."""


def peer(address: str, **settings: Any) -> PeerSpec:
    """A peer from "127.0.0.1:8000", "[::1]:8000" or "unix:/path"; `settings` are fields of PeerSpec.

    Raises ValueError for anything else, also for a name: which of its addresses is meant has to be said.
    """
    if address.startswith("unix:") and len(address) > len("unix:"):
        return PeerSpec(address, address.removeprefix("unix:"), server=address, **settings)
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (":" in bare) is not (host != bare) or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ValueError(f'"{address}" is no address with a port')
    return PeerSpec(address, (str(ip_address(bare)), int(port)), server=address, **settings)


def http_check(path: str = "/", host: str = "localhost", fall: int = 1, rise: int = 1, **settings: Any) -> CheckSpec:
    """A check that asks for `path` and passes with a status of 200 to 399; `settings` are fields of CheckSpec (times in
    seconds, `match` for other statuses, `keepalive_time` to keep connections between probes).
    What would end a line of the request is escaped.
    """
    closing = b"" if settings.get("keepalive_time") else b"Connection: close\r\n"
    request = b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: upwell/%b (health check)\r\n%b\r\n"
    given = one_target(path.encode()), one_line(host.encode()), VERSION.encode(), closing
    return CheckSpec("", request=request % given, dialect=PLUS, fall=fall, rise=rise, **settings)


class Group:
    """Some peers, one of which is to get each request; checked while it is used as a context manager.

        with Group([peer("10.0.0.1:8000"), peer("10.0.0.2:8000", weight=2)], Method("least_conn"),
                   checks=[http_check("/health")]) as group:
            with group.borrow() as chosen:
                connect(chosen.address)

    `policy` are further fields of UpstreamSpec (`all_down`...). All methods may be called by any thread. Checks run in
    a thread of their own, on one epoll. Raises ValueError for peers, a method, a check or a policy that cannot be.
    """

    def __init__(
        self,
        peers: Iterable[PeerSpec],
        method: Method = ROUND_ROBIN,
        checks: Sequence[CheckSpec] = (),
        name: str = "group",
        log: ErrorLog | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random,
        **policy: Any,
    ) -> None:
        self.spec = UpstreamSpec(name, tuple(peers), method, **policy)
        refuse_upstream(self.spec)
        keys = peer_keys(self.spec)
        self._table = PeerTable.create(keys, 1, max(SPARE, len(keys)), (name,))
        self._clock = clock
        self._lock = threading.Lock()
        for check in checks:
            refuse_check(check)
        named = [replace(check, upstream=name) for check in checks]
        self._checker = Checker(self._table, (self.spec,), log or ErrorLogs(()), clock, named)
        self._upstream = Upstream(self.spec, self._table, 0, suspect=self._suspect, chance=chance)
        self._orders: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._checker.watch(self._wake, self._carry_out)
        self._thread: threading.Thread | None = None
        self._ending = False
        self._closed = False
        self._publish_at = 0.0

    def __repr__(self) -> str:
        return f"<Group {self._upstream!r}>"

    def __enter__(self) -> Group:
        self._thread = threading.Thread(target=self._run, name=f"upwell-{self.spec.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        thread, self._thread = self._thread, None
        if thread is not None:
            os.eventfd_write(self._wake, 1)
            thread.join()
        self.close()

    def close(self) -> None:
        """Let go of everything; for a group that is not used as a context manager."""
        self._closed = True
        self._checker.close()
        os.close(self._wake)

    # Requests

    def pick(self, tried: Collection[Peer] = (), key: bytes | None = None) -> Peer:
        """The peer for a request; `release` is to be called for it. `tried` are those that the same request met
        already, `key` is for a method that hashes. Raises NoPeer."""
        with self._lock:
            found = self._upstream.pick(tried, self._clock(), key)
        if found is None:
            raise NoPeer(self.spec.name)
        return found

    def release(self, chosen: Peer, failed: bool = False, header: float = 0.0, last: float = 0.0) -> None:
        """The request at `chosen` is over. `failed` counts against it as `max_fails` says; for methods that compare
        answer times, `header` and `last` say after how many seconds the answer's head and its end had come; a failure
        makes the peer a slower one. Raises ValueError where no request is under way."""
        now = self._clock()
        with self._lock:
            if not chosen.connections:
                raise ValueError(f"no request is under way at {chosen.name}: it was released more often than picked")
            if self._upstream.watches and (last or failed):
                self._upstream.answered(chosen, header or last, last, now, not failed)
            self._upstream.release(chosen, now, failed)
            if now >= self._publish_at:
                self._publish(now)

    def _publish(self, now: float) -> None:
        self._publish_at = now + _PUBLISH_EVERY
        publish_all(self._table, 0, (self._upstream,))

    @contextmanager
    def borrow(self, tried: Collection[Peer] = (), key: bytes | None = None) -> Iterator[Peer]:
        """A peer for what is done within; an OSError (a TimeoutError is one) counts as its failure. Raises NoPeer."""
        chosen = self.pick(tried, key)
        began = self._clock()
        try:
            yield chosen
        except OSError:
            self.release(chosen, failed=True, last=self._clock() - began)
            raise
        except BaseException:
            self.release(chosen)
            raise
        self.release(chosen, last=self._clock() - began)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Who belongs to the group now, primaries and backups."""
        with self._lock:
            return (*self._upstream.primary, *self._upstream.backup)

    # Members

    def add(self, spec: PeerSpec) -> PeerKey:
        """A peer joins; checks probe it at once. Raises ValueError for one that cannot be, or when no more can."""
        refuse_peer(spec, self.spec.method)
        return self._order(lambda: self._checker.add_peer(self.spec.name, spec).key)

    def remove(self, key: PeerKey) -> None:
        """A peer leaves (`Peer.key`); requests under way there go on. Raises ValueError for one that is not there."""
        known = _key(key)
        self._order(lambda: self._checker.remove_peer(known))

    def change(self, key: PeerKey, **fields: object) -> None:
        """Give a peer other settings (`weight`, `down`, `drain`, `max_conns`...). Raises ValueError."""
        known = _key(key)
        self._order(lambda: self._change(known, fields))

    def _change(self, key: PeerKey, fields: dict[str, Any]) -> None:
        for member in self._checker.members(self.spec.name):
            if member.key == key and fields.keys() <= PeerSpec.__dataclass_fields__.keys():
                refuse_peer(replace(member.spec, **fields), self.spec.method)
        self._checker.change_peer(key, **fields)

    def _order(self, call: Callable[[], _T]) -> _T:
        """Have the checking thread do it, which owns the list; without one, it is done here."""
        if self._closed:
            raise ValueError(f'group "{self.spec.name}" is closed')
        if self._thread is None:
            found = call()
        else:
            future: Future[_T] = Future()
            self._orders.append((future, call))
            os.eventfd_write(self._wake, 1)
            found = future.result()
        with self._lock:
            self._publish(self._clock())  # a row that is free now can be given again
        return found

    # The checking thread

    def _suspect(self, key: PeerKey) -> None:
        if self._thread is None:
            return  # nothing is probed
        self._orders.append((Future(), lambda: self._checker.suspect(key)))
        os.eventfd_write(self._wake, 1)

    def _carry_out(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while self._orders:
            future, call = self._orders.popleft()
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)

    def _run(self) -> None:
        while not self._ending:
            self._checker.step(_ROUND)


def _key(given: object) -> PeerKey:
    if not isinstance(given, PeerKey):
        raise ValueError(f"{given!r} is no key of a peer (Peer.key)")
    return given
