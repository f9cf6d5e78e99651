"""The schedule: each fault in turn, for all contenders at once and with the same peers, and what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.tools import Tool
from chaos.contenders import CONTENDERS, Contender, Pace, Tried
from chaos.faults import Fault
from chaos.load import Load
from chaos.peer import Peer
from upwell.contrib.processes import NotReached, await_condition, free_ports

_FAULTY, _BACK, _CALM = 30.0, 30.0, 3.0
"""Seconds, at the guide's pace, that a fault lasts, that a peer may take to come back, and of calm before the next."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one contender in one fault. Times in seconds, None for what did not happen.

    `failed` are idempotent requests, `posts` the others; `last_sent` is from the fault's beginning to the last request
    that was sent to the bad peer, `again` from its end to the first one that it answered.
    """

    contender: str
    asked: int
    failed: int
    posts: int
    why: dict[str, int]
    sent: int
    last_sent: float | None
    to_the_end: bool
    again: float | None
    slowest: float


@dataclass(frozen=True, slots=True)
class Row:
    """One fault and its outcome for each contender."""

    fault: Fault
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run: the faults, the programs by name, requests a second for each, and the pace."""

    faults: Sequence[Fault]
    programs: dict[str, Tool]
    rate: float
    pace: Pace


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> tuple[list[Row], dict[str, str]]:
    """All faults; the second value is each contender's version."""
    with ExitStack() as stack:
        ports = free_ports(5 + len(plan.programs))
        peers = [stack.enter_context(Peer(port, f"peer{number}", folder)) for number, port in enumerate(ports[:2], 1)]
        contenders = []
        for port, (name, tool) in zip(ports[5:], plan.programs.items(), strict=True):
            make = CONTENDERS[name]
            contenders.append(make(folder / name, port, ports[2:5], [peer.port for peer in peers], plan.pace, tool))
        for contender in contenders:
            stack.enter_context(contender.process)
        patience = max(2.0, 20 * plan.pace.factor)
        loads = [stack.enter_context(Load(contender.port, plan.rate, patience)) for contender in contenders]
        time.sleep(max(2.0, 10 * plan.pace.factor))  # the first checks
        rows = []
        for fault in plan.faults:
            row = _suffer(fault, peers, contenders, loads, plan.pace.factor, patience)
            for outcome in row.outcomes:
                say(f"{fault.name}: {outcome}")
            rows.append(row)
        return rows, {contender.name: contender.version for contender in contenders}


def _suffer(
    fault: Fault,
    peers: Sequence[Peer],
    contenders: Sequence[Contender],
    loads: Sequence[Load],
    factor: float,
    patience: float,
) -> Row:
    ports = [peer.port for peer in peers]
    time.sleep(_CALM * factor)
    began = time.time()
    fault.strike(peers)
    time.sleep(_FAULTY * factor)
    ended = time.time()
    fault.relent(peers)

    def back() -> bool:
        return all(_again(contender.tried(ports), ports[0], ended) is not None for contender in contenders)

    with suppress(NotReached):  # the report says who has not sent it any
        await_condition(back, "traffic to the peer", _BACK * factor, poll=0.2)
    time.sleep(min(patience, 4 * factor))  # what waits for an answer still
    pairs = zip(contenders, loads, strict=True)
    last = time.time()
    return Row(fault, [_outcome(one, load, ports, (began, ended, last), factor) for one, load in pairs])


def _again(tried: Sequence[Tried], port: int, ended: float) -> float | None:
    for one in tried:
        if one.began >= ended and one.status == 200 and one.peers[-1:] == (port,):
            return one.began - ended
    return None


def _outcome(
    contender: Contender, load: Load, ports: Sequence[int], times: tuple[float, float, float], factor: float
) -> Outcome:
    began, ended, last = times
    asked = load.begun_within(began, last)
    failed = [one for one in asked if one.failure]
    tried = contender.tried(ports)
    sent = [one.began for one in tried if began <= one.began < ended and ports[0] in one.peers]
    last_sent = max(sent) - began if sent else None
    return Outcome(
        contender.name,
        len(asked),
        sum(one.idempotent for one in failed),
        sum(not one.idempotent for one in failed),
        dict(Counter(one.failure for one in failed)),
        len(sent),
        last_sent,
        last_sent is not None and ended - began - last_sent < factor,
        _again(tried, ports[0], ended),
        max((one.seconds for one in asked), default=0.0),
    )
