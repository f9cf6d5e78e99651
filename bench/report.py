"""What was measured, as tables of Markdown and as JSON: pure functions over figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.contenders import RATIOS, Contender
from bench.measure import PROBED_PEERS, Figures
from bench.wrk import Case

Results = Mapping[tuple[Case, Contender], Figures]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows (the first is the heading) as a Markdown table that also reads well as plain text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        return f"| {first.ljust(widths[0])} | " + " | ".join(map(str.rjust, rest, widths[1:])) + " |"

    rule = "| " + "-" * widths[0] + " | " + " | ".join("-" * (width - 1) + ":" for width in widths[1:]) + " |"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


_FIGURES = (("CPU us/request", "cpu", "{:.1f}"), ("requests/s", "rate", "{:,.0f}"), ("p99 ms", "p99", "{:.2f}"))


def figures_tables(results: Results) -> str:
    """One table for each figure: a row for each case, a column for each contender."""
    cases = list(dict.fromkeys(case for case, _ in results))
    contenders = list(dict.fromkeys(contender for _, contender in results))
    tables = []
    for title, name, form in _FIGURES:
        rows = [[title, *(contender.title for contender in contenders)]]
        rows += [
            [case.title, *(form.format(getattr(results[case, one], name)) for one in contenders)] for case in cases
        ]
        tables.append(table(rows))
    return "\n\n".join(tables)


def ratio_rows(results: Results) -> list[list[str]]:
    """A row for each case and pair of RATIOS that was measured: CPU, rate and p99 of the first over the second's."""
    rows = []
    for case in dict.fromkeys(case for case, _ in results):
        for first, second in RATIOS:
            if (case, first) in results and (case, second) in results:
                above, below = results[case, first], results[case, second]
                quotients = [f"{getattr(above, name) / max(getattr(below, name), 1e-9):.2f}" for _, name, _ in _FIGURES]
                rows.append([f"{case.title}: {first.title} / {second.title}", *quotients])
    return rows


def report(results: Results, probes: tuple[float, float] | None, facts: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    if results:
        parts.append(figures_tables(results))
        rows = ratio_rows(results)
        if rows:
            parts.append(table([["ratio (CPU: lower is better)", "CPU", "requests/s", "p99"], *rows]))
    if probes is not None:
        rate, cost = probes
        parts.append(
            f"Probes of {PROBED_PEERS} peers: {cost:.1f} CPU us a probe at {rate:,.0f} probes/s (upwell's checker)"
        )
    return "\n\n".join(parts) + "\n"


def as_json(results: Results, probes: tuple[float, float] | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    figures = [
        {"case": case.name, "program": contender.program, "upstream": contender.upstream, **asdict(taken)}
        for (case, contender), taken in results.items()
    ]
    probing = None if probes is None else {"peers": PROBED_PEERS, "rate": probes[0], "cpu": probes[1]}
    return {"facts": dict(facts), "figures": figures, "probes": probing}
