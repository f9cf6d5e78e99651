"""Fuzz one part of upwell, or all of them, for as long as you like; the exit status is 1 when something was found."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from fuzz import configuration, framing, heads
from fuzz.running import Case, Found, once, run

FUZZERS: dict[str, Case] = {
    "heads": heads.case,
    "framing": framing.case,
    "configuration": configuration.case,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fuzz: {', '.join(FUZZERS)} (all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to fuzz each (60)")
    parser.add_argument("--seed", type=int, default=time.time_ns(), help="where to begin (the clock)")
    parser.add_argument("--case", type=int, help="run this one case of the seed")
    chosen = parser.parse_args(argv)
    unknown = set(chosen.names) - set(FUZZERS)
    if unknown:
        parser.error(f"there is no fuzzer {', '.join(sorted(unknown))}; there are {', '.join(FUZZERS)}")
    failed = False
    for name in chosen.names or FUZZERS:
        try:
            if chosen.case is not None:
                once(FUZZERS[name], chosen.seed, chosen.case)
                print(f"{name}: seed {chosen.seed}, case {chosen.case}: nothing found")
            else:
                done = run(FUZZERS[name], chosen.seed, chosen.seconds)
                print(f"{name}: seed {chosen.seed}, {done} cases: nothing found", flush=True)
        except Found as found:
            failed = True
            traceback.print_exception(found.__cause__, file=sys.stdout)
            print(f"{name}: {found}")
            print(f"again: python -m fuzz {name} --seed {chosen.seed} --case {found.number}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
