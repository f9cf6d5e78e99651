"""What is asked of every proxy, the goals that go with it, and what a load generator says of a run."""

from __future__ import annotations

from dataclasses import dataclass

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
    """One kind of request: `path` chooses the app's answer, `body` is the size of a POST's content in bytes.

    `connections` is an upper limit where many would only fill memory; `upgrade` is a WebSocket instead of requests.
    """

    name: str
    title: str
    path: str = "/"
    fields: tuple[tuple[str, str], ...] = ()
    body: int = 0
    connections: int = 1024
    upgrade: bool = False


CASES = (
    Case("minimal", "minimal requests"),
    Case("browser", "ten browser headers", fields=tuple(_BROWSER_FIELDS.items())),
    Case("10k", "10 KB answer", path="/10k"),
    Case("100k", "100 KB answer", path="/100k"),
    Case("10m", "10 MB answer", path="/10m", connections=8),
    Case("post", "POST of 10 KB", path="/post", body=10_240),
    Case("post1m", "POST of 1 MB", path="/post", body=1_048_576, connections=16),
    Case("newconn", "new connection for each", fields=(("Connection", "close"),)),
    Case("websocket", "WebSocket echo of 32 bytes", path="/echo", upgrade=True),
)

GOALS = (
    ("browser", "nginx", 1.0),
    ("browser", "envoy", 1 / 2),
    ("browser", "caddy", 1 / 3),
    ("10k", "nginx", 1.0),
    ("100k", "nginx", 1.0),
    ("10m", "nginx", 1.0),
    ("post", "nginx", 1.1),
    ("post1m", "nginx", 1.1),
    ("newconn", "nginx", 1.2),
    ("websocket", "nginx", 1.2),
)
"""Case, whose CPU time a request is the measure, and upwell's share of it at most."""

IDLE_GOAL_KB = 8.0
LATENCY_GOAL = 1.5
WORKERS_GOAL = 1.8


class BadRun(Exception):
    """A run whose figures must not be used: answers that were not as expected, socket errors, or no output at all."""


class Refused(BadRun):
    """The proxy answered, but would not do it: no 101 to a request to upgrade."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a load generator counted: requests answered, requests a second, and p99 of latency in milliseconds."""

    requests: int
    rate: float
    p99: float


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of `values` do not exceed. Raises BadRun without values."""
    if not values:
        raise BadRun("nothing was answered")
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
