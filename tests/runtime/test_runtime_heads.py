"""Heads that are read as the named server wants: the same at any split of the bytes and wherever Host stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from upwell.http1.limits import Counted

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


def test_too_many_lines_before_the_host_are_too_many_at_any_split(tmp_path: Path) -> None:
    text = CONFIGURATION.replace("underscores_in_headers on;", "max_headers 9;").replace(
        "access_log off;", "max_headers 3;"
    )
    with Serving(tmp_path, text) as serving:
        for before, behind, status in ((3, 5, 400), (2, 5, 200), (0, 8, 200), (0, 9, 400)):
            head = b"GET / HTTP/1.1\r\n%bHost: named\r\n%b\r\n" % (b"A: 1\r\n" * before, b"B: 2\r\n" * behind)
            assert _status(serving, head, []) == status, (before, behind)
            assert _status(serving, head, list(range(1, len(head)))) == status, (before, behind)


def test_a_head_that_comes_byte_by_byte_is_not_searched_from_its_start_each_time(serving: Serving) -> None:
    parse = serving.runtime._endpoints[0].parse
    assert parse is not None
    client = serving.client().protocol
    data = b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 20
    counted = Counted()
    for end in range(1, len(data) + 1):
        assert parse(client, data[:end], end - 1, counted) is None
        if end > 16:
            assert counted.host_line == data.rfind(b"\r\n", 0, end)  # the line that begins here may still be Host
    data += b"Host: named\r\nA_b: 1\r\n"
    assert parse(client, data, len(data) - 30, counted) is None
    chosen = counted.chosen
    head = parse(client, data + b"\r\n", len(data), counted)
    assert head is not None
    assert b"a_b" in head.section.values
    assert counted.chosen is chosen is not None


def test_servers_that_do_not_differ_cost_nothing(serving: Serving, tmp_path: Path) -> None:
    assert serving.runtime._endpoints[0].parse is not None
    alike = CONFIGURATION.replace("large_client_header_buffers 4 8k;", "").replace("underscores_in_headers on;", "")
    (tmp_path / "other").mkdir()
    with Serving(tmp_path / "other", alike) as other:
        assert other.runtime._endpoints[0].parse is None
