"""`satisfy` and `auth_delay`: how the answers of a location's gates become one (nginx's access phase).

A gate is an access handler: None has nothing to say, a status refuses. Under `satisfy any` there is PASSES besides.
Knows no kind of gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import TYPE_CHECKING, Final

from upwell.config.command import Module, command
from upwell.config.slots import choice, time
from upwell.errors import ClientClosed
from upwell.log import ERROR, INFO
from upwell.proxy.location import Access

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

PASSES: Final = 0
"""What a gate says under `satisfy any` that lets the request in, whatever the others would say."""

_LEVELS = "http server location"
_UNAUTHORIZED, _FORBIDDEN = 401, 403


@dataclass(frozen=True, slots=True)
class SatisfySettings:
    """`any`: one gate that passes is enough. `delay`: seconds before a 401."""

    any: bool = False
    delay: float = 0.0


def join_gates(settings: SatisfySettings, gates: Sequence[Access]) -> tuple[Access, ...]:
    """The access handlers of a location that has `gates`."""
    if settings.any and gates:
        return (_any(tuple(gates), settings.delay),)
    if settings.delay and gates:
        return (_all(tuple(gates), settings.delay),)
    return tuple(gates)


def _all(gates: tuple[Access, ...], delay: float) -> Access:
    async def access(exchange: Exchange) -> int | None:
        for gate in gates:
            status = gate(exchange)
            if isawaitable(status):
                status = await status
            if exchange.finished:
                return None
            if status is not None:
                if status == _UNAUTHORIZED:
                    await _wait(exchange, delay)
                return status
        return None

    return access


def _any(gates: tuple[Access, ...], delay: float) -> Access:
    async def access(exchange: Exchange) -> int | None:
        refusal = 0
        for gate in gates:
            status = gate(exchange)
            if isawaitable(status):
                status = await status
            if exchange.finished or status == PASSES:
                # nobody is asked for a password who was let in without
                exchange.kept = tuple(line for line in exchange.kept if line[0].lower() != b"www-authenticate")
                return None
            if status is None:
                continue
            if status not in (_UNAUTHORIZED, _FORBIDDEN):
                return status
            if refusal != _UNAUTHORIZED:
                refusal = status
        if refusal == _FORBIDDEN:
            exchange.log(ERROR, "access forbidden by rule")
        elif refusal and delay:
            await _wait(exchange, delay)
        return refusal or None

    return access


async def _wait(exchange: Exchange, seconds: float) -> None:
    """Keep who guesses passwords waiting."""
    exchange.log(INFO, "delaying unauthorized request")
    # A client that leaves meanwhile is not waited for, and one that has only ended its side has left, as for nginx.
    abortable, proxying = exchange.abortable, exchange.proxying
    exchange.abortable = exchange.proxying = True
    try:
        await exchange.sleep(seconds)
    except ClientClosed:
        exchange.log(INFO, "client prematurely closed connection")
        raise
    finally:
        exchange.abortable, exchange.proxying = abortable, proxying


MODULE = Module(
    "satisfy",
    (
        command("satisfy", _LEVELS, 1, choice(SatisfySettings, "any", {"all": False, "any": True})),
        command("auth_delay", _LEVELS, 1, time(SatisfySettings, "delay")),
    ),
)
