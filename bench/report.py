"""What was measured, as tables of Markdown and as JSON: pure functions over figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import balancers, members
from bench.cases import GOALS, IDLE_GOAL_KB, LATENCY_GOAL, WORKERS_GOAL, Case
from bench.checks import CHECKED_PEERS, STAND_IN, Cost
from bench.checks import GOALS as CHECK_GOALS
from bench.measure import PROBED_PEERS, Cell, Figures, Results
from bench.memory import BULK, Growth, Idle
from bench.overload import COUNTS as OVERLOADS
from bench.overload import GOAL as OVERLOAD_GOAL
from bench.overload import NEW, Overload
from bench.scale import LATENESS_GOAL_MS, MEMORY_GOAL_KB, OUT_GOAL_MS, PAGE_GOAL_MS, PAGED, Scale
from bench.steady import CORES_FOR_WORKERS, COUNTS, Latency, Work
from bench.stream import GOAL as STREAM_GOAL
from bench.stream import WAYS as STREAM_WAYS
from bench.tls import WAYS as TLS_WAYS
from bench.turns import Spent
from upwell.version import data_plane

_OURS = ("upwell", "upwell compiled")
_REFERENCE = "nginx"
_FIGURES = (("CPU us/request", "cpu", "{:.1f}"), ("requests/s", "rate", "{:,.0f}"), ("p99 ms", "p99", "{:.2f}"))


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report: its text, and its figures for programs."""

    name: str
    text: str
    data: Any


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows (the first is the heading) as a Markdown table that also reads well as plain text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        return f"| {first.ljust(widths[0])} | " + " | ".join(map(str.rjust, rest, widths[1:])) + " |"

    rule = "| " + "-" * widths[0] + " | " + " | ".join("-" * (width - 1) + ":" for width in widths[1:]) + " |"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def _cell(results: Results, cell: Cell, figure: str, form: str, over: str | None = None) -> str:
    """A figure of `cell`, or how often it is that of the program `over`; a word where there is none."""
    found = results.get(cell)
    if isinstance(found, str):
        return "refused" if found == "refused" else "failed"
    if found is None:
        return "-"
    value: float = getattr(found, figure)
    if over is not None:
        below = results.get(Cell(cell.case, over, cell.log))
        if not isinstance(below, Figures):
            return "-"
        value /= max(getattr(below, figure), 1e-9)
    return form.format(value)


def goal_rows(results: Results) -> list[list[str]]:
    """A row for each goal that was measured: upwell's CPU time a request over another's, and what it may be."""
    cases = {cell.case.name: cell.case for cell in results}
    logs = sorted({cell.log for cell in results})
    measured = {cell.name for cell in results}
    rows = []
    for name, other, most in GOALS:
        for ours in _OURS:
            if name in cases and {ours, other} <= measured:
                quotients = [_cell(results, Cell(cases[name], ours, log), "cpu", "{:.2f}", other) for log in logs]
                rows.append([f"{cases[name].title}: {ours} / {other}", f"{most:.2f}", *quotients])
    return rows


def _log(on: bool) -> str:
    return f"access log {'on' if on else 'off'}"


def cpu_section(results: Results) -> Section:
    """The goals, then for each way of logging: CPU time as a figure and over nginx's, rate, p99."""
    cases: list[Case] = list(dict.fromkeys(cell.case for cell in results))
    names = list(dict.fromkeys(cell.name for cell in results))
    logs = sorted({cell.log for cell in results})
    parts = []
    goals = goal_rows(results)
    if goals:
        parts.append(table([["CPU time a request", "at most", *map(_log, logs)], *goals]))
    for log in logs:
        parts.append(f"## {_log(log).capitalize()}")
        shown: list[tuple[str, str, str, str | None]] = [(*one, None) for one in _FIGURES]
        if _REFERENCE in names:
            shown.insert(1, (f"CPU, x {_REFERENCE}", "cpu", "{:.2f}", _REFERENCE))
        for title, figure, form, over in shown:
            rows = [
                [case.title, *(_cell(results, Cell(case, name, log), figure, form, over) for name in names)]
                for case in cases
            ]
            parts.append(table([[title, *names], *rows]))
    reasons = {
        f"{cell.name}, {cell.case.title}, {_log(cell.log)}: {found.splitlines()[0]}": None
        for cell, found in results.items()
        if isinstance(found, str) and found != "refused"
    }
    if reasons:
        parts.append("\n".join(["Failed:", "", *(f"- {reason}" for reason in reasons)]))
    data = [
        {"case": cell.case.name, "program": cell.name, "log": cell.log}
        | (asdict(found) if isinstance(found, Figures) else {"failed": found})
        for cell, found in results.items()
    ]
    return Section("cpu", "\n\n".join(parts), data)


def probes_section(probes: tuple[float, float]) -> Section:
    """What a probe costs."""
    rate, cost = probes
    text = f"Probes of {PROBED_PEERS} peers: {cost:.1f} CPU us a probe at {rate:,.0f} probes/s (upwell's checker)"
    return Section("probes", text, {"peers": PROBED_PEERS, "rate": rate, "cpu": cost})


def checks_section(found: Mapping[tuple[str, str], Cost | str]) -> Section:
    """What a probe costs each checker, and the goals."""
    goals = [["CPU time a probe", "at most", "measured"]]
    for way, other, most in CHECK_GOALS:
        below = found.get((other, way))
        for ours in _OURS:
            cost = found.get((ours, way))
            if isinstance(cost, Cost) and isinstance(below, Cost):
                goals.append([f"{way}: {ours} / {other}", f"{most:.2f}", f"{cost.cpu / max(below.cpu, 1e-9):.2f}"])
    rows = [[f"{CHECKED_PEERS} peers, once a second", "connections", "CPU us/probe", "probes/s"]]
    for (name, way), one in found.items():
        figures = ("-", _why(one)) if isinstance(one, str) else (f"{one.cpu:.1f}", f"{one.rate:,.0f}")
        rows.append([name, way.split()[0], *figures])
    text = f"{table(rows)}\n\nAll at the same time, each in its own process. {STAND_IN}"
    return Section("checks", f"{table(goals)}\n\n{text}" if goals[1:] else text, _data(found))


def overload_section(found: Mapping[str, Overload]) -> Section:
    """Throughput and p99 by connections, and the checks meanwhile."""
    rows = [["connections", *(f"{name}: requests/s, p99 ms, CPU us/request" for name in found)]]
    for count in (*map(str, OVERLOADS), NEW):
        cells = []
        for one in found.values():
            load = one.loads[count]
            cells.append(
                load.splitlines()[0] if isinstance(load, str) else f"{load.rate:,.0f}, {load.p99:.1f}, {load.cpu:.0f}"
            )
        rows.append(["64, a new one for each request" if count == NEW else count, *cells])
    lines = []
    for name, one in found.items():
        loads = [load for load in one.loads.values() if not isinstance(load, str)]
        rate, capacity = one.kept()
        kept = (
            f"- {name}: with {OVERLOADS[-1]} connections {rate:.2f} of its best throughput, by CPU time {capacity:.2f}"
        )
        kept += f" (goal {OVERLOAD_GOAL})"
        if name in _OURS and loads:
            kept += (
                f"; at least {min(load.probes for load in loads):.2f} of the probes due were made,"
                f" {sum(load.fails for load in loads)} failed, {max(load.down for load in loads)} peers were down"
            )
        lines.append(kept)
    data = {name: _data(one.loads) for name, one in found.items()}
    return Section("overload", f"{table(rows)}\n\n" + "\n".join(lines), data)


def scale_section(found: Scale) -> Section:
    """Lateness, memory, and how soon a dead peer is out."""
    rows = [
        ["checks", "probes/s", "of a core", "waited for it", "CPU us/probe", "late p50 ms", "late p99 ms", "failed"]
    ]
    for title, one in found.crowds.items():
        if isinstance(one, str):
            rows.append([title, one, *"------"])
        else:
            core = f"{one.core:.2f}"
            late = (f"{one.p50:.0f}", f"{one.p99:.0f}")
            rows.append([title, f"{one.rate:,.0f}", core, f"{one.waited:.2f}", f"{one.cpu:.1f}", *late, str(one.fails)])
    weight, out = found.weight, found.out
    each = f"{weight.rss / 1024:.2f} KB resident, {weight.pss / 1024:.2f} KB proportional"
    lines = [
        f"- the checker: {data_plane()} (PYTHONPATH=build/compiled or =src chooses)",
        f"- goal: p99 of lateness under {LATENESS_GOAL_MS:g} ms for 10,000 peers every second, and beside black holes",
        f"- memory a peer in the checker (the zone's part included): {each} (goal {MEMORY_GOAL_KB:g})",
        f"- the last request to a peer came {out.refused:.1f} ms after the answer that turned it down, and"
        f" {out.silent:.1f} ms after the time-out that did (goal {OUT_GOAL_MS:g}; two workers, the worst of five)",
        *(
            f"- the {name} page about {PAGED:,} peers: {page.whole:.0f} ms of a worker (goal {PAGE_GOAL_MS:g}),"
            f" {page.longest:.1f} ms at once, {page.size / 1e6:.1f} MB"
            for name, page in found.pages.items()
        ),
    ]
    data = {"crowds": _data(found.crowds), "weight": asdict(weight), "out": asdict(out)}
    data["pages"] = {name: asdict(page) for name, page in found.pages.items()}
    return Section("scale", f"{table(rows)}\n\n" + "\n".join(lines), data)


def balancers_section(found: Mapping[str, balancers.Cost]) -> Section:
    """What a choice costs, by method."""
    among = [f"{size:,}" for size in balancers.SIZES]
    rows = [["us for a pick and its release, among", *among, "pick alone of 1,000", "down ms", "join ms"]]
    for name, cost in found.items():
        both = [f"{one:.2f}" for one in cost.both]
        changes = (f"{cost.down:.2f}", f"{cost.join:.2f}")
        rows.append([name, *both, f"{cost.pick[balancers.SIZES.index(1000)]:.2f}", *changes])
    goals = [f"{balancers.GOAL_US:g}"] * 2
    rows.append(["goal", "", goals[0], "", goals[1], f"{balancers.PAUSE_GOAL_MS:g}", f"{balancers.PAUSE_GOAL_MS:g}"])
    build = "compiled" if balancers.compiled() else "pure Python"
    text = f"{table(rows)}\n\n- {build}; down, join: till the pick after one of 10,000 peers turned down or joined them"
    return Section("balancers", text, _data(found))


def members_section(found: Mapping[str, Mapping[str, members.Change]]) -> Section:
    """What a change of members costs, by method."""
    kinds = list(next(iter(found.values())))
    rows = [["ms of one worker, until its next pick", *kinds]]
    rows += [[name, *(f"{changes[kind].worker:.2f}" for kind in kinds)] for name, changes in found.items()]
    rows.append(["goal", *(f"{balancers.PAUSE_GOAL_MS:g}" for _ in kinds)])
    owner = max(change.owner for changes in found.values() for change in changes.values())
    build = "compiled" if balancers.compiled() else "pure Python"
    lines = f"- {build}, {members.MEMBERS:,} peers; beside it the checker took {owner:.2f} ms for a change at most"
    data = [{"name": name} | {kind: asdict(one) for kind, one in changes.items()} for name, changes in found.items()]
    return Section("members", f"{table(rows)}\n\n{lines}", data)


def _data(found: Mapping[Any, Any]) -> list[dict[str, Any]]:
    return [{"of": which} | ({"failed": one} if isinstance(one, str) else asdict(one)) for which, one in found.items()]


def _why(one: str) -> str:
    return one.splitlines()[0] if one else "failed"


def idle_section(found: Mapping[str, Idle | str]) -> Section:
    """Memory of idle connections."""
    rows = [["idle keep-alive connections", "connections", "PSS KB each", "RSS KB each", "empty worker MB"]]
    for name, one in found.items():
        if isinstance(one, str):
            rows.append([name, _why(one), "-", "-", "-"])
        else:
            each = [f"{one.pss / 1024:.2f}", f"{one.rss / 1024:.2f}"]
            rows.append([name, f"{one.connections:,}", *each, f"{one.empty / 1e6:.1f}"])
    text = (
        f"{table(rows)}\n\nEach made one request; goal for upwell: at most {IDLE_GOAL_KB:g} KB over the empty worker."
    )
    return Section("idle", text, _data(found))


def bulk_section(found: Mapping[tuple[str, str], Growth | str]) -> Section:
    """Memory while much goes by."""
    rows = [["peak RSS of the worker over its start", "GB", "growth MB", "start MB"]]
    for way, title, _ in BULK:
        for (measured, name), one in found.items():
            if measured != way:
                continue
            if isinstance(one, str):
                rows.append([f"{name}: {title}", "-", _why(one), "-"])
            else:
                mb = (f"{one.growth / 1e6:.1f}", f"{one.start / 1e6:.1f}")
                rows.append([f"{name}: {title}", f"{one.size / 1e9:g}", *mb])
    return Section("bulk", table(rows), _data(found))


def stream_section(found: Mapping[tuple[str, str], Spent | str]) -> Section:
    """What passing bytes on costs."""
    rows = [["CPU time of stream", "cost", f"x {_REFERENCE}"]]
    for way, title, unit, _, _ in STREAM_WAYS:
        below = found.get((way, _REFERENCE))
        for (measured, name), one in found.items():
            if measured != way:
                continue
            if isinstance(one, str):
                rows.append([f"{name}: {title}", _why(one), "-"])
            else:
                times = f"{one.cpu / max(below.cpu, 1e-9):.2f}" if isinstance(below, Spent) else "-"
                rows.append([f"{name}: {title}", f"{one.cpu:.3g} {unit}", times])
    goal = f"Goal for upwell: at most {STREAM_GOAL:g} x nginx's, a GB and a connection."
    data = {f"{way} {name}": one for (way, name), one in found.items()}
    return Section("stream", f"{table(rows)}\n\n{goal}", _data(data))


def tls_section(found: Mapping[tuple[str, str], Spent | str]) -> Section:
    """What TLS costs."""
    rows = [["CPU time of TLS", "us", "a second", f"x {_REFERENCE}", "at most"]]
    for way, title, most, _ in TLS_WAYS:
        below = found.get((way, _REFERENCE))
        for (measured, name), one in found.items():
            if measured != way:
                continue
            if isinstance(one, str):
                rows.append([f"{name}: {title}", _why(one), "-", "-", "-"])
            else:
                times = f"{one.cpu / max(below.cpu, 1e-9):.2f}" if isinstance(below, Spent) else "-"
                goal = f"{most:g}" if name in _OURS else "-"
                rows.append([f"{name}: {title}", f"{one.cpu:.1f}", f"{one.rate:,.0f}", times, goal])
    data = {f"{way} {name}": one for (way, name), one in found.items()}
    return Section("tls", table(rows), _data(data))


def latency_section(found: Mapping[str, Latency | str], rate: float) -> Section:
    """Latency under a steady rate."""
    below = found.get(_REFERENCE)
    rows = [[f"latency at {rate:,.0f} requests/s", "p50 ms", "p99 ms", f"p99, x {_REFERENCE}"]]
    for name, one in found.items():
        if isinstance(one, str):
            rows.append([name, _why(one), "-", "-"])
        else:
            times = f"{one.p99 / below.p99:.2f}" if isinstance(below, Latency) else "-"
            rows.append([name, f"{one.p50:.2f}", f"{one.p99:.2f}", times])
    return Section(
        "latency", f"{table(rows)}\n\nGoal for upwell: at most {LATENCY_GOAL:g} x nginx's p99.", _data(found)
    )


def workers_section(found: Mapping[tuple[str, int], Work | str], cores: int) -> Section:
    """One worker and two; on few cores, what their CPU time says instead of the throughput."""
    rows = [["ten browser headers", "workers", "requests/s", "CPU us/request", "of the busiest worker"]]
    for (name, count), work in sorted(found.items()):
        if isinstance(work, str):
            rows.append([name, str(count), _why(work), "-", "-"])
        else:
            rows.append([name, str(count), f"{work.rate:,.0f}", f"{work.cpu:.1f}", f"{work.busiest:.1f}"])
    lines = []
    for name in dict.fromkeys(name for name, _ in found):
        one, two = (found.get((name, count)) for count in COUNTS)
        if isinstance(one, Work) and isinstance(two, Work):
            by_rate, by_cpu = two.rate / one.rate, one.busiest / max(two.busiest, 1e-9)
            measured = f"{by_rate:.2f} x in requests a second" if cores >= CORES_FOR_WORKERS else "not measurable here"
            lines.append(f"- {name}: two workers over one: {measured}; {by_cpu:.2f} x by CPU time")
    text = f"{table(rows)}\n\n" + "\n".join(lines) + f"\n\nGoal for upwell: at least {WORKERS_GOAL:g} x."
    if cores < CORES_FOR_WORKERS:
        text += (
            f" This machine has {cores} cores, of which the load generator and the apps need their part, so two workers"
            " have no two cores to themselves and their requests a second say nothing (that takes"
            f" {CORES_FOR_WORKERS} cores). What can be said: a worker's core is full when its CPU time a request times"
            " the rate is one second, so the ratio is that of the busiest worker's CPU time for each request of all."
        )
    return Section("workers", text, _data(found))


def report(sections: Sequence[Section], facts: Mapping[str, Any]) -> str:
    """The whole report as Markdown."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts += [one.text if one.name == "cpu" else f"## {one.name.capitalize()}\n\n{one.text}" for one in sections]
    return "\n\n".join(parts) + "\n"


def as_json(sections: Sequence[Section], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same for programs."""
    return {"facts": dict(facts), **{section.name: section.data for section in sections}}
