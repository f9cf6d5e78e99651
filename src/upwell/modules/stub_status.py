"""`stub_status` and `$connections_active` and its kin: how many connections and requests there are and were, in all
workers (ngx_http_stub_status_module).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.modules.location import LocationSettings
from upwell.proxy.location import Content
from upwell.zone.connections import ACCEPTED, ACTIVE, HANDLED, READING, REQUESTS, WAITING, WRITING

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_VARIABLES: Final = {
    "connections_active": ACTIVE,
    "connections_reading": READING,
    "connections_writing": WRITING,
    "connections_waiting": WAITING,
}


@dataclass(frozen=True, slots=True)
class StubStatusSettings:
    """Of the http block: whether anybody wants to know, so that somebody has to count."""

    used: bool = field(default=False, metadata=LOCAL)


def compile_stub_status(sums: Callable[[], Sequence[int]]) -> Content:
    """The content handler; `sums` gives the words of zone/connections.py."""

    async def content(exchange: Exchange) -> None:
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.respond_error(405)
            return
        words = sums()
        page = (
            f"Active connections: {words[ACTIVE]} \n"
            "server accepts handled requests\n"
            f" {words[ACCEPTED]} {words[HANDLED]} {words[REQUESTS]} \n"
            f"Reading: {words[READING]} Writing: {words[WRITING]} Waiting: {words[WAITING]} \n"
        )
        exchange.respond(200, page.encode("ascii"), b"text/plain")

    return content


def census_variables(sums: Callable[[], Sequence[int]]) -> dict[str, Callable[[Exchange], bytes]]:
    """The variables by name."""

    def variable(place: int) -> Callable[[Exchange], bytes]:
        return lambda _: b"%d" % sums()[place]

    return {name: variable(place) for name, place in _VARIABLES.items()}


def _stub_status(block: Block, directive: Directive) -> None:
    block.set(LocationSettings, "handler", "stub_status")
    block.around("http").set(StubStatusSettings, "used", True)


def _close_http(block: Block) -> None:
    if any(name in _VARIABLES for name, _ in block.loading.uses):
        block.set(StubStatusSettings, "used", True)


MODULE = Module(
    "stub_status",
    (command("stub_status", "server location", (0, 1), _stub_status),),
    {"http": _close_http},
    options=("http_stub_status_module",),
)
