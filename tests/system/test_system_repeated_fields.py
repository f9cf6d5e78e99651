"""Response fields that come twice, beside nginx: which line passes, and what the error log says of the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Origin, ask, get, response
from upwell.contrib.processes import free_ports

NAMES = [
    "Date",
    "Server",
    "ETag",
    "Expires",
    "Last-Modified",
    "Location",
    "Refresh",
    "Content-Type",
    "X-Accel-Expires",
    "Cache-Control",
    "Vary",
    "Link",
    "Set-Cookie",
    "WWW-Authenticate",
    "Accept-Ranges",
    "X-Other",
]
_SAID = re.compile(r"upstream sent duplicate header line.*?(?=, client:)")


@dataclass
class Side:
    port: int
    log: Path


@pytest.fixture(scope="module")
def sides(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[tuple[Side, Side, Origin]]:
    made = []
    with Origin() as origin:
        for front, command in zip(free_ports(2), (nginx, None), strict=True):
            text = f"""
error_log logs/error.log warn;
events {{ }}
http {{
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://127.0.0.1:{origin.port};
            proxy_pass_header Server;
            proxy_pass_header Date;
        }}
        location /inner {{ return 200 inner; }}
    }}
}}
"""
            balancer = start_shared(text, [front], command) if command else start_shared(text, [front])
            made.append(Side(front, balancer.prefix / "logs" / "error.log"))
        yield made[0], made[1], origin


def _seen(side: Side, name: str) -> tuple[int, list[str], list[str], bytes]:
    before = len(side.log.read_bytes())
    answer = ask(side.port, get("/"))
    said = _SAID.findall(side.log.read_text("utf-8", "replace")[before:])
    return answer.status, [value for key, value in answer.fields if key.lower() == name.lower()], said, answer.body


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("values", [("one",), ("one", "two"), ("one", "two", "three")], ids=len)
def test_the_first_line_counts_and_the_log_names_the_others(
    sides: tuple[Side, Side, Origin], name: str, values: tuple[str, ...]
) -> None:
    *both, origin = sides
    origin.respond(response(b"content", *(f"{name}: {value}" for value in values)))
    nginx, upwell = (_seen(side, name) for side in both)
    assert upwell == nginx


@pytest.mark.parametrize("name", ["X-Accel-Redirect", "X-Accel-Limit-Rate"])
def test_of_two_wishes_the_first_is_fulfilled(sides: tuple[Side, Side, Origin], name: str) -> None:
    *both, origin = sides
    values = ("/inner", "/other") if name == "X-Accel-Redirect" else ("100000", "1")
    origin.respond(response(b"content", *(f"{name}: {value}" for value in values)))
    nginx, upwell = (_seen(side, name) for side in both)
    assert upwell == nginx
    assert upwell[3] == (b"inner" if name == "X-Accel-Redirect" else b"content")
