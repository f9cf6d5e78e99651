"""What the Lua layer remembers of one request, and a compiled chunk. Plain state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from upwell.lua.contexts import CONTEXTS, HEADER_FILTER

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

DONE, FAILED, WAIT = 0, 1, 2
"""How a piece of Lua code came back: it ended, it raised an error, it waits for an operation (see core.lua)."""


class Run:
    """One request (or one timer, or the start of the worker) in the eyes of the Lua code that works for it.

    `phase` is the bit of the context that runs now. `parts` is content said but not yet written; `said` that the head
    counts as sent, `ended` that ngx.eof was called. `ctx` is the table ngx.ctx. `typeless`: the handler removed the
    content type. `arguments` are those of set_by_lua*.
    """

    __slots__ = (
        "arguments",
        "body_read",
        "buffering",
        "ctx",
        "ended",
        "exchange",
        "parts",
        "phase",
        "said",
        "typeless",
    )

    def __init__(self, exchange: Exchange | None, phase: int) -> None:
        self.exchange = exchange
        self.phase = phase
        self.parts: list[bytes] = []
        self.said = False
        self.ended = False
        self.ctx: Any = None
        self.typeless = False
        self.body_read = False
        self.arguments: Sequence[bytes] = ()
        self.buffering = exchange is not None and exchange.version < 11

    def head_is_fixed(self) -> bool:
        """Whether it is too late to change the answer's head."""
        exchange = self.exchange
        return self.phase != HEADER_FILTER and exchange is not None and (self.said or exchange.head_sent)

    def __repr__(self) -> str:
        return f"<Run {CONTEXTS[self.phase][0]} of {self.exchange!r}>"


class Chunk:
    """Lua source, compiled once. `error` is Lua's message when it does not compile; then running it gives a 500."""

    __slots__ = ("error", "maker", "name")

    def __init__(self, name: str, maker: Any, error: str | None) -> None:
        self.name = name
        self.maker = maker
        self.error = error

    def __repr__(self) -> str:
        return f"<Chunk {self.name}{' broken' if self.error else ''}>"
