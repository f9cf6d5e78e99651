"""`python -m bench`: choose, measure, print; `--save` keeps the result under bench/results."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import balancers, checks, measure, members, memory, overload, scale, steady, stream, tls, tools
from bench.cases import CASES, BadRun
from bench.contenders import CONTENDERS
from bench.report import (
    Section,
    as_json,
    balancers_section,
    bulk_section,
    checks_section,
    cpu_section,
    idle_section,
    latency_section,
    members_section,
    overload_section,
    probes_section,
    report,
    scale_section,
    stream_section,
    tls_section,
    workers_section,
)
from bench.stage import cores_here
from upwell.contrib.processes import NotReached

RESULTS = Path(__file__).parent / "results"
_CASES = {case.name: case for case in CASES}
_LOGS = {"off": (False,), "on": (True,), "both": (False, True)}
_BEYOND = (
    "latency",
    "idle",
    "bulk",
    "workers",
    "probes",
    "checks",
    "scale",
    "balancers",
    "members",
    "stream",
    "tls",
    "overload",
)


def _arguments(argv: list[str]) -> argparse.Namespace:
    known = ", ".join([*_CASES, *_BEYOND])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="WHAT", help=f"what to measure, else everything: {known}")
    parser.add_argument("--log", choices=tuple(_LOGS), default="both", help="the access log (both)")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of load for each sample (3)")
    parser.add_argument("--repeats", type=int, default=3, help="samples of each, of which the median counts (3)")
    parser.add_argument("--connections", type=int, default=32, help="client connections (32)")
    parser.add_argument("--only", action="append", choices=tuple(CONTENDERS), help="this program; may be repeated")
    parser.add_argument("--rate", type=float, default=1500.0, help="requests a second for latency (1500)")
    parser.add_argument("--idle", type=int, default=10_000, help="connections for idle (10000)")
    parser.add_argument("--bulk", type=float, default=1.0, help="GB for bulk (1)")
    parser.add_argument(
        "--save", nargs="?", const="", metavar="NAME", help="write DATE-NAME.json and .md (NAME: the machine)"
    )
    chosen = parser.parse_args(argv)
    unknown = set(chosen.cases) - {*_CASES, *_BEYOND}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {known}")
    if chosen.seconds < 1 or min(chosen.repeats, chosen.connections, chosen.rate, chosen.idle) < 1:
        parser.error("--seconds, --repeats, --connections, --rate and --idle start at 1")
    if not 0.001 <= chosen.bulk <= 10:
        parser.error("--bulk is between 0.001 and 10")
    return chosen


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.machine()


def _plan(chosen: argparse.Namespace) -> tuple[measure.Plan, list[str]]:
    """What to measure, and a sentence for each program that is left out because it is not here."""
    programs = {"wrk": tools.find("wrk")}
    left_out = []
    for name in CONTENDERS:
        if chosen.only and name not in chosen.only and name != "nginx":  # nginx is the apps too
            continue
        try:
            programs[name] = tools.find(name)
        except tools.MissingTool as missing:
            if name == "upwell" or chosen.only:
                raise
            left_out.append(str(missing))
    names = tuple(name for name in CONTENDERS if name in programs and (not chosen.only or name in chosen.only))
    cases = tuple(_CASES[name] for name in chosen.cases or _CASES if name in _CASES)
    logs = _LOGS[chosen.log]
    plan = measure.Plan(programs, names, cases, logs, chosen.seconds, chosen.repeats, chosen.connections)
    return plan, left_out


def _sections(plan: measure.Plan, chosen: argparse.Namespace, say: Callable[[str], None]) -> list[Section]:
    def latency() -> Section:
        return latency_section(steady.latency(plan, chosen.rate, say), chosen.rate)

    beyond: dict[str, Callable[[], Section]] = {
        "latency": latency,
        "idle": lambda: idle_section(memory.idle(plan, chosen.idle, say)),
        "bulk": lambda: bulk_section(memory.bulk(plan, int(chosen.bulk * 1e9), say)),
        "workers": lambda: workers_section(steady.workers(plan, say), cores_here()),
        "probes": lambda: probes_section(measure.measure_probes(plan, say)),
        "checks": lambda: checks_section(checks.measure_checks(plan, say)),
        "scale": lambda: scale_section(scale.measure_scale(plan, say)),
        "balancers": lambda: balancers_section(balancers.measure_balancers(say)),
        "members": lambda: members_section(members.measure_members(say)),
        "stream": lambda: stream_section(stream.measure_stream(plan, say)),
        "tls": lambda: tls_section(tls.measure_tls(plan, say)),
        "overload": lambda: overload_section(overload.measure_overload(plan, say)),
    }
    needs_upwell = {"probes", "checks", "scale"} if "upwell" not in plan.names else set()
    sections = [cpu_section(measure.measure(plan, say))] if plan.cases else []
    wanted = [name for name in chosen.cases or _BEYOND if name in beyond and name not in needs_upwell]
    return [*sections, *(beyond[name]() for name in wanted)]


def _facts(plan: measure.Plan, left_out: list[str], argv: list[str]) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "bench", *argv]),
        "processor": f"{_processor()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        **{name: plan.programs[name].version for name in plan.names},
        "load": f"wrk {plan.programs['wrk'].version}, {plan.connections} connections",
        "samples": f"{plan.repeats} of {plan.seconds:g} s each, in turns, medians",
        "left out": "; ".join(left_out) or "nothing",
    }


def _save(name: str, text: str, data: dict[str, Any]) -> list[Path]:
    told = name or f"{_processor()} {os.cpu_count()} cores"
    slug = re.sub(r"[^a-z0-9]+", "-", told.lower().replace("(r)", "")).strip("-")
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{datetime.date.today().isoformat()}-{slug}"
    written = [Path(f"{stem}.json"), Path(f"{stem}.md")]
    written[0].write_text(json.dumps(data, indent=1) + "\n")
    written[1].write_text(f"# Benchmark\n\n{text}")
    return written


def main(argv: list[str]) -> int:
    """Measure what `argv` chooses; 0, or 1 with a sentence on standard error when that was not possible."""
    chosen = _arguments(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    # `timeout` and a CI end it by SIGTERM: what it started has to end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        plan, left_out = _plan(chosen)
        for sentence in left_out:
            say(f"left out: {sentence}")
        sections = _sections(plan, chosen, say)
    except (tools.MissingTool, BadRun, NotReached) as error:
        print(error, file=sys.stderr)
        return 1
    facts = _facts(plan, left_out, argv)
    text = report(sections, facts)
    print(text)
    if chosen.save is not None:
        for path in _save(chosen.save, text, as_json(sections, facts)):
            say(f"saved {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
