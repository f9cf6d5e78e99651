"""The report as Markdown and JSON. Knows outcomes; starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from chaos.schedule import Outcome, Row

_HEAD = "| fault | | failed, of | failed POSTs | sent to the bad peer | the last of them | traffic again | slowest |"
_NOTES = """
*failed, of*: idempotent requests that got anything but a whole 200, of all requests from the fault's beginning on.
*sent to the bad peer* counts requests while the fault lasts, and *the last of them* is the time from its beginning:
"to the end" where nothing keeps traffic away (only some requests fail, or there is no check and `max_fails` tries
again). *traffic again*: from the end of the fault to the first request that the peer answers. *slowest*: the longest
that a client waited. An answer whose head the client has, and with nginx's default `proxy_next_upstream` a 500, no
proxy here asks for again; nor does any send a POST again that may have been heard.
"""


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _cells(outcome: Outcome) -> list[str]:
    why = ", ".join(f"{count} x {what}" for what, count in sorted(outcome.why.items()))
    last = "none" if outcome.last_sent is None else "to the end" if outcome.to_the_end else _seconds(outcome.last_sent)
    return [
        outcome.contender,
        f"**{outcome.failed}** of {outcome.asked}" + (f" ({why})" if why else ""),
        str(outcome.posts),
        str(outcome.sent),
        last,
        _seconds(outcome.again),
        f"{outcome.slowest:.1f} s",
    ]


def as_markdown(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The table, one line for each contender in each fault, below the facts of the run."""
    lines = ["# Backends that fail in every way", ""]
    lines += [f"* {name}: {value}" for name, value in facts.items()]
    lines += ["", _HEAD, "| --- " * 8 + "|"]
    for row in rows:
        for number, outcome in enumerate(row.outcomes):
            lines.append("| " + " | ".join(["" if number else row.fault.name, *_cells(outcome)]) + " |")
    return "\n".join(lines) + "\n" + _NOTES


def as_data(rows: Sequence[Row], facts: Mapping[str, str]) -> dict[str, Any]:
    """The same for programs."""
    faults = [{"fault": row.fault.name, "outcomes": [asdict(one) for one in row.outcomes]} for row in rows]
    return {"facts": dict(facts), "faults": faults}


def lost(rows: Sequence[Row], name: str = "upwell") -> list[str]:
    """The faults in which `name` failed a request that nginx's default `proxy_next_upstream` can save."""
    return [
        row.fault.name
        for row in rows
        for outcome in row.outcomes
        if row.fault.spared and outcome.contender == name and outcome.failed
    ]
