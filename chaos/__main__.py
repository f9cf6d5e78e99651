"""`python -m chaos`: the schedule, then the report; 1 when upwell failed a request that could be saved."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import signal
import sys
import tempfile
from pathlib import Path

from bench import tools
from chaos.contenders import CONTENDERS, Pace
from chaos.faults import FAULTS
from chaos.report import as_data, as_markdown, lost
from chaos.schedule import Plan, run
from upwell.contrib.processes import NotReached

RESULTS = Path(__file__).parent.parent / "bench" / "results"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    names = [fault.name for fault in FAULTS]
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"else all: {', '.join(names)}")
    parser.add_argument("--pace", type=float, default=1.0, help="multiplies the guide's times (1)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second for each contender (50)")
    parser.add_argument("--only", action="append", choices=tuple(CONTENDERS), help="this program; may be repeated")
    parser.add_argument("--save", action="store_true", help="write the report below bench/results")
    chosen = parser.parse_args(argv)
    unknown = set(chosen.faults) - set(names)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not 0.05 <= chosen.pace <= 3 or not 1 <= chosen.rate <= 1000:
        parser.error("--pace is between 0.05 and 3, --rate between 1 and 1000")
    return chosen


def main(argv: list[str]) -> int:
    """Run what `argv` chooses."""
    chosen = _arguments(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends with it
    programs = {}
    for name in chosen.only or CONTENDERS:
        try:
            programs[name] = tools.find(name)
        except tools.MissingTool as missing:
            say(f"left out: {missing}")
    faults = [fault for fault in FAULTS if not chosen.faults or fault.name in chosen.faults]
    with tempfile.TemporaryDirectory(prefix="upwell-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            rows, versions = run(Plan(faults, programs, chosen.rate, Pace(chosen.pace)), folder, say)
        except NotReached as error:
            say(str(error))
            return 1
    facts = {
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "chaos", *argv]),
        **versions,
        "load": f"{chosen.rate:g} requests a second for each, every tenth a POST",
        "checks": f"every {3 * chosen.pace:g} s, timeout {5 * chosen.pace:g} s, fall 3, rise 2 (nginx: none)",
        "times": f"proxy_connect_timeout {2 * chosen.pace:g} s, proxy_read_timeout {3 * chosen.pace:g} s, "
        f"fail_timeout {10 * chosen.pace:g} s; each fault lasts {30 * chosen.pace:g} s",
    }
    text = as_markdown(rows, facts)
    print(text)
    if chosen.save:
        RESULTS.mkdir(exist_ok=True)
        stem = RESULTS / f"{datetime.date.today().isoformat()}-chaos"
        Path(f"{stem}.json").write_text(json.dumps(as_data(rows, facts), indent=1) + "\n")
        Path(f"{stem}.md").write_text(text)
        say(f"saved {stem}.json and .md")
    failed = lost(rows)
    if failed:
        say(f"upwell failed requests that could be saved: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
