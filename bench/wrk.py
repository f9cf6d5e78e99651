"""wrk as the load generator: which requests it sends for a case, and what its output says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.cases import BadRun, Case, Load

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


def script(case: Case) -> str:
    """The Lua script that makes wrk send the requests of `case`; empty when wrk does so by itself."""
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in case.fields]
    if case.body:
        lines += ['wrk.method = "POST"', f'wrk.body = string.rep("x", {case.body})']
    return "\n".join(lines)


def parse(output: str) -> Load:
    """The figures in wrk's output (with --latency). Raises BadRun when they are missing or must not be used."""
    trouble = re.search(r"^\s*(?:Non-2xx or 3xx responses|Socket errors):.*$", output, re.MULTILINE)
    if trouble is not None:
        raise BadRun(trouble[0].strip())
    requests = re.search(r"^\s*(\d+) requests in ", output, re.MULTILINE)
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", output, re.MULTILINE)
    p99 = re.search(r"^\s+99%\s+([\d.]+)([a-z]+)", output, re.MULTILINE)
    if requests is None or rate is None or p99 is None:
        raise BadRun(f"no figures in wrk's output: {output.strip()!r}")
    return Load(int(requests[1]), float(rate[1]), float(p99[1]) * _UNITS[p99[2]])


def run(
    command: Sequence[str],
    case: Case,
    port: int,
    seconds: float,
    connections: int,
    folder: Path,
    scheme: str = "http",
) -> Load:
    """Send requests of `case` to 127.0.0.1:`port` for `seconds` (whole ones) over `connections` connections."""
    written = folder / f"{case.name}.lua"
    written.write_text(script(case))
    arguments = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "--latency"]
    try:
        done = subprocess.run(
            [*command, *arguments, "-s", str(written), f"{scheme}://127.0.0.1:{port}{case.path}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + 30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BadRun("wrk did not end") from None
    return parse(done.stdout.decode(errors="replace"))
