"""Which server's settings a head is read by, beside nginx: those of the default server or of the one that is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.beside import Outcome, outcome
from tests.system.conftest import StartBalancer
from tests.system.wire import Origin, response
from upwell.contrib.processes import free_ports

PAIRS = {
    # directives of the default server and of the one that is named
    "underscores": ("", "underscores_in_headers on;"),
    "no underscores": ("underscores_in_headers on;", "underscores_in_headers off;"),
    "invalid": ("", "ignore_invalid_headers off;"),
    "none invalid": ("ignore_invalid_headers off;", "ignore_invalid_headers on;"),
    "more fields": ("max_headers 6;", "max_headers 20;"),
    "fewer fields": ("max_headers 20;", "max_headers 6;"),
    "larger": ("large_client_header_buffers 2 2k;", "large_client_header_buffers 4 8k;"),
    "smaller": ("large_client_header_buffers 4 8k;", "large_client_header_buffers 2 2k;"),
    "more buffers": ("large_client_header_buffers 2 2k;", "large_client_header_buffers 8 2k;"),
    "slashes": ("", "merge_slashes off;"),
    "no slashes": ("merge_slashes off;", "merge_slashes on;"),
    "alike": ("underscores_in_headers on;", "underscores_in_headers on;"),
}
FIELDS = {
    "an underscore": "A_b: 1\r\n",
    "an odd name": "A!b: 1\r\n",
    "ten fields": "A: 1\r\n" * 10,
    "a long one": f"A: {'1' * 3000}\r\n",
    "four of some length": f"A: {'1' * 1500}\r\n" * 4,
    "nothing": "",
}
TARGETS = {"by Host": ("//a", "{host}"), "by the target": ("http://{host}//a", "x")}


@pytest.fixture(scope="module")
def ports(nginx: tuple[str, ...], start_shared: StartBalancer) -> Iterator[tuple[dict[str, tuple[int, int]], Origin]]:
    with Origin(response(b"fine")) as origin:
        sides = [dict(zip(PAIRS, free_ports(len(PAIRS)), strict=True)) for _ in range(2)]
        for side, command in zip(sides, (nginx, None), strict=True):
            servers = "".join(
                f"""
    server {{
        listen 127.0.0.1:{side[name]}{" default_server" if number == 0 else ""};
        server_name {("default", "named")[number]};
        {directives}
        location / {{ proxy_pass http://127.0.0.1:{origin.port}; }}
        location = /a {{ return 200 merged; }}
    }}"""
                for name, pair in PAIRS.items()
                for number, directives in enumerate(pair)
            )
            text = f"events {{ }}\nhttp {{ {servers} }}\n"
            start_shared(text, list(side.values()), command) if command else start_shared(text, list(side.values()))
        found = {name: (sides[0][name], sides[1][name]) for name in PAIRS}
        yield found, origin


def _outcomes(
    ports: tuple[dict[str, tuple[int, int]], Origin], pair: str, target: str, host: str, fields: str
) -> list[Outcome]:
    found, origin = ports
    asked, named = (text.format(host=host) for text in TARGETS[target])
    request = f"GET {asked} HTTP/1.1\r\nHost: {named}\r\n{FIELDS[fields]}\r\n".encode()
    return [outcome(port, request, origin) for port in found[pair]]


@pytest.mark.parametrize("host", ["default", "named", "unknown"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_named_server_s_settings_count_from_the_host_on(
    ports: tuple[dict[str, tuple[int, int]], Origin], pair: str, target: str, host: str
) -> None:
    for fields in FIELDS:
        nginx, upwell = _outcomes(ports, pair, target, host, fields)
        assert upwell == nginx, fields
