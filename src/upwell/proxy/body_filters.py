"""What becomes of an answer's content on its way out: a chain of stages, each made for one answer (nginx's body
filters).

A location that has some ends its header filters with one that asks each `Opener`, in nginx's order, whether it wants
this answer; an opener changes the head (`exchange.out`, `content_type`, `content_length`) and gives the stage that
changes the content. Whoever answers just writes: a content handler knows nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from upwell.proxy.accel import bare_type
from upwell.proxy.suspension import suspend
from upwell.proxy.timers import Alarm

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_HELD: Final = 0.2  # seconds that content waits in a stage for more of it, where nobody asks for a flush
_NO_CONTENT: Final = frozenset((204, 304))


class Stage:
    """One change of one answer's content. `gathers`: it keeps content back until there is enough of it, or a flush."""

    __slots__ = ()

    @property
    def gathers(self) -> bool:
        return False

    def feed(self, data: bytes) -> bytes:
        """What goes on because `data` (not empty) has come."""
        raise NotImplementedError

    def flush(self) -> bytes:
        """What was kept back and may go on now."""
        return b""

    def end(self) -> bytes:
        """The rest, when all has come."""
        return b""

    def more(self) -> bytes:
        """Some more of what came already, where `feed` gave a part only (`pending`)."""
        return b""

    @property
    def pending(self) -> bool:
        return False

    @property
    def surrounds(self) -> bool:
        """Whether there is content of others before (`begin`) and after (`follow`) that of the answer."""
        return False

    async def begin(self) -> None:
        return

    async def follow(self) -> None:
        return


Opener = Callable[["Exchange"], "Stage | None"]


class Chain:
    """The stages of one answer. What they give is put into the client's hands as the exchange frames it."""

    __slots__ = ("_alarm", "_armed", "_dirty", "_ended", "_exchange", "_pumping", "_stages", "_surrounded")

    def __init__(self, exchange: Exchange, stages: Sequence[Stage]) -> None:
        self._exchange = exchange
        self._stages = list(stages)
        self._alarm: Alarm | None = None
        self._surrounded = -1
        for place, stage in enumerate(stages):
            if stage.gathers and exchange.capture is None:
                self._alarm = Alarm(self._wake)
            if stage.surrounds:
                self._surrounded = place
        self._ended = 0
        self._armed = False
        self._dirty = False
        self._pumping = False

    def __repr__(self) -> str:
        return f"<Chain {self._stages}>"

    @property
    def late(self) -> bool:
        """Whether there is more to be sent than what can be given at once at the end."""
        return self._stages[0].pending or self._surrounded >= 0

    def feed(self, data: bytes) -> None:
        """Content from whoever answers."""
        exchange = self._exchange
        self._pass(self._stages[0].feed(data), 1)
        self._see_off()
        if self._stages[0].pending and not self._pumping:
            self._pumping = True
            if exchange.source is not None:
                exchange.source.pause()
            exchange.client.loop.call_soon(self.pump)

    def join(self, stage: Stage, data: bytes) -> None:
        """Content from elsewhere, for the stages behind `stage`."""
        self._pass(data, self._stages.index(stage) + 1)
        self._see_off()

    def _see_off(self) -> None:
        """Let nothing wait for more of it for long."""
        exchange = self._exchange
        if exchange.flushes:
            self.flush()
        elif self._alarm is not None:
            self._dirty = True
            if not self._armed:
                self._armed = True
                exchange.client.endpoint.timers.arm(self._alarm, _HELD)

    def _pass(self, data: bytes, at: int) -> None:
        """Hand `data` to the stages from `at` on."""
        for stage in self._stages[at:]:
            if not data:
                return
            data = stage.feed(data)
        if data:
            self._exchange.put(data)

    def flush(self) -> None:
        """Let go on what stages keep back."""
        self._dirty = False
        data = b""
        for stage in self._stages:
            if data:
                data = stage.feed(data)
            data += stage.flush()
        if data:
            self._exchange.put(data)

    def _wake(self) -> None:
        self._armed = False
        exchange = self._exchange
        if self._dirty and not exchange.cut and exchange.chain is self:
            self.flush()
            exchange.client.flush()

    def pump(self) -> None:
        """Go on with what the first stage has not given yet, as long as the client takes it."""
        exchange = self._exchange
        if not self._pumping or exchange.cut or exchange.chain is not self:
            return
        if not exchange.client.writable:
            return  # resume_writing comes back here
        self._pass(self._stages[0].more(), 1)
        exchange.client.flush()
        if self._stages[0].pending:
            exchange.client.loop.call_soon(self.pump)
            return
        self._pumping = False
        if exchange.source is not None and exchange.client.writable:
            exchange.source.proceed()

    def holds(self) -> bool:
        """For a client that reads on: whether this goes on first, before more is asked of the source."""
        if self._pumping:
            self._exchange.client.loop.call_soon(self.pump)
        return self._pumping

    async def complete(self) -> None:
        """Send what takes time, so that `end` has nothing more to wait for."""
        exchange = self._exchange
        self._pumping = False
        while self._stages[0].pending and not exchange.cut:
            self._pass(self._stages[0].more(), 1)
            await exchange.drained()
            await self._let_others()
        if self._surrounded < 0:
            return
        stage = self._stages[self._surrounded]
        await stage.begin()
        if not exchange.cut:
            self._end(self._surrounded + 1)
        await stage.follow()

    async def _let_others(self) -> None:
        """A round of the loop: a client that reads fast would keep it for as long as there is more."""
        exchange = self._exchange
        handle = exchange.client.loop.call_soon(exchange.resume)
        try:
            await suspend()
        finally:
            handle.cancel()

    def end(self) -> None:
        """All content has come."""
        if self._alarm is not None and self._armed:
            self._exchange.client.endpoint.timers.drop(self._alarm)
        self._end(len(self._stages))

    def _end(self, upto: int) -> None:
        """Have the stages before `upto` that have not ended yet give the rest."""
        data = b""
        for stage in self._stages[self._ended : upto]:
            if data:
                data = stage.feed(data)
            data += stage.end()
        self._ended = upto
        if not self._exchange.cut:
            self._pass(data, upto)


def opening(openers: Sequence[Opener]) -> Callable[[Exchange], None]:
    """The header filter that makes the chain of an answer."""

    def open_chain(exchange: Exchange) -> None:
        capture = exchange.capture
        if exchange.status < 200 or (capture is not None and capture.sink is None):
            return
        stages: list[Stage] = []
        for opener in openers:
            stage = opener(exchange)
            if stage is not None:
                stages.append(stage)
        if stages and not exchange.header_only and exchange.status not in _NO_CONTENT:
            exchange.chain = Chain(exchange, stages)
            exchange.special = True

    return open_chain


# What openers ask of a head, and change in it.


def media_type(exchange: Exchange) -> bytes | None:
    """The type of the content in lower case, without its charset."""
    media = exchange.content_type
    return None if media is None else bare_type(media).lower()


def is_among(exchange: Exchange, types: frozenset[bytes] | None) -> bool:
    """Whether the content is of one of `types`; None stands for whatever it is (nginx: "*")."""
    return types is None or media_type(exchange) in types


def sent_value(exchange: Exchange, name: bytes) -> bytes | None:
    """The first value of a field (lower-case name) that will be sent."""
    for known, value in exchange.out:
        if known.lower() == name:
            return value
    return None


def without(exchange: Exchange, *names: bytes) -> None:
    """Take fields (lower-case names) out of the head."""
    exchange.out = [line for line in exchange.out if line[0].lower() not in names]


def weaken_etag(exchange: Exchange) -> None:
    """Make the ETag a weak one; what is no ETag is taken away (nginx: ngx_http_weak_etag)."""
    out = []
    for name, value in exchange.out:
        if name.lower() == b"etag" and not value.startswith(b"W/"):
            if not value.startswith(b'"'):
                continue
            value = b"W/" + value
        out.append((name, value))
    exchange.out = out
