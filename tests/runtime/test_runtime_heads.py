"""Heads that are read as the named server wants: the same at any split of the bytes and wherever Host stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving

CONFIGURATION = """
upstream o { server 10.0.0.1:80; }
access_log off;
large_client_header_buffers 2 2k;
server { listen 127.0.0.1:8080 default_server; location / { proxy_pass http://o; } }
server {
    listen 127.0.0.1:8080;
    server_name named *.named ~^n(?<number>[0-9]+)$;
    underscores_in_headers on;
    large_client_header_buffers 4 8k;
    location / { proxy_pass http://o; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, CONFIGURATION) as made:
        yield made


def _status(serving: Serving, head: bytes, cuts: list[int]) -> int:
    client = serving.client()
    for start, end in zip([0, *cuts], [*cuts, len(head)], strict=True):
        client.send(head[start:end])
    for far in serving.origins[0].connections:
        if far.taken():
            far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    return client.answer().status


@pytest.mark.parametrize("host", ["named", "a.named", "n7", "NAMED:8080", "default"])
@pytest.mark.parametrize("place", ["first", "last", "target"])
def test_all_fields_are_read_as_the_named_server_wants(serving: Serving, host: str, place: str) -> None:
    lines = ["A_b: 1", "C: 2"]
    lines.insert({"first": 0, "last": 2, "target": 1}[place], f"Host: {host if place != 'target' else 'default'}")
    target = f"http://{host}/" if place == "target" else "/"
    client = serving.client()
    client.send("\r\n".join([f"GET {target} HTTP/1.1", *lines, "", ""]).encode())
    assert (b"A_b: 1\r\n" in serving.origins[0].last.received) == (host != "default")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"Host: named", b"A: " + b"1" * 3000], 200),
        ([b"Host: other", b"A: " + b"1" * 3000], 494),
        ([b"A: " + b"1" * 3000, b"Host: named"], 494),  # nobody has been named when it comes
        ([b"A: " + b"1" * 1500, b"Host: named"], 200),
        ([b"Host: named", b"A: " + b"1" * 9000], 494),
        ([b"Host: na/med", b"A: 1"], 400),
        ([b"Host: named", b"Host: named"], 400),
        ([b"X-Host: named", b"A: 1"], 400),
    ],
)
def test_a_head_is_the_same_at_any_split(serving: Serving, lines: list[bytes], status: int) -> None:
    head = b"\r\n".join([b"GET / HTTP/1.1", *lines, b"", b""])
    shown = {494: 400}.get(status, status)
    assert _status(serving, head, []) == shown
    host = head.find(b"Host")
    for cut in (
        1,
        10,
        16,
        17,
        18,
        host + 2,
        host + 9,
        host + 11,
        host + 12,
        host + 13,
        1000,
        2040,
        2100,
        len(head) - 1,
    ):
        if cut < len(head):
            assert _status(serving, head, [cut]) == shown, cut


def test_servers_that_do_not_differ_cost_nothing(serving: Serving, tmp_path: Path) -> None:
    assert serving.runtime._endpoints[0].parse is not None
    alike = CONFIGURATION.replace("large_client_header_buffers 4 8k;", "").replace("underscores_in_headers on;", "")
    (tmp_path / "other").mkdir()
    with Serving(tmp_path / "other", alike) as other:
        assert other.runtime._endpoints[0].parse is None
