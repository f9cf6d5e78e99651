"""wrk as the load generator: which requests it sends for a case, and what its output says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BROWSER_FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "http://localhost/shop/list?page=2",
    "Cookie": "session=9f86d081884c7d659a2feaa0c55ad015; theme=dark; consent=yes",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
}
"""With Host, which wrk adds, ten field lines as a browser sends them."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request: `path` chooses the backend's answer, `body` is the size of a POST's content in bytes."""

    name: str
    title: str
    path: str = "/"
    fields: tuple[tuple[str, str], ...] = ()
    body: int = 0

    def script(self) -> str:
        """The Lua script that makes wrk send this request; empty when wrk does so by itself."""
        lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in self.fields]
        if self.body:
            lines += ['wrk.method = "POST"', f'wrk.body = string.rep("x", {self.body})']
        return "\n".join(lines)


CASES = (
    Case("minimal", "minimal requests"),
    Case("browser", "ten browser headers", fields=tuple(_BROWSER_FIELDS.items())),
    Case("10k", "10 KB response body", path="/10k"),
    Case("100k", "100 KB response body", path="/100k"),
    Case("post", "POST of 10 KB", path="/post", body=10_240),
)


class BadRun(Exception):
    """wrk ran, but its figures must not be used: answers that were not 2xx, socket errors, or no output at all."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk counted: requests answered, requests a second, and the 99th percentile of latency in milliseconds."""

    requests: int
    rate: float
    p99: float


_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}


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


def run(command: Sequence[str], case: Case, port: int, seconds: float, connections: int, folder: Path) -> Load:
    """Send requests of `case` to 127.0.0.1:`port` for `seconds` (whole ones) over `connections` kept connections."""
    script = folder / f"{case.name}.lua"
    script.write_text(case.script())
    arguments = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script)]
    done = subprocess.run(
        [*command, *arguments, f"http://127.0.0.1:{port}{case.path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds + 30,
        check=False,
    )
    return parse(done.stdout.decode(errors="replace"))
