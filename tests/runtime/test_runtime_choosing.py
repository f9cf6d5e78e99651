"""Which peer a request of a client gets where its upstream hashes: the key's variables, the client's address."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, response

CONFIGURATION = """
upstream k { hash $arg_k; server 10.0.0.1:80; server 10.0.0.2:80; }
upstream c { hash "$arg_k$http_x" consistent; server 10.0.0.1:80; server 10.0.0.2:80; }
upstream b { hash $arg_k consistent bounded=1.25; server 10.0.0.1:80; server 10.0.0.2:80; }
upstream i { ip_hash; server 10.0.0.1:80; server 10.0.0.2:80; }
upstream r { random two; server 10.0.0.1:80; server 10.0.0.2:80; }
upstream u { hash $upstream_addr$uri; server 10.0.0.1:80; server 10.0.0.2:80; }
log_format tried "$upstream_addr";
access_log logs/access.log tried;
proxy_next_upstream error timeout http_500;
server {
    listen 127.0.0.1:8080;
    location / { proxy_pass http://$arg_u; }
    location /k { proxy_pass http://k; }
    location /i { proxy_pass http://i; }
    location /u { proxy_pass http://u; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, CONFIGURATION) as serving:
        yield serving


def _tried(serving: Serving, target: str, *fields: str, client: str = "192.0.2.1") -> list[str]:
    """The peers that a request for `target` tried, one after the other."""
    asking = serving.client((client, 50000))
    asking.send(get(target, *fields))
    for _ in serving.origins:
        for origin in serving.origins:
            for far in origin.connections:
                if far.taken():
                    far.send(serving.reply or response(b"fine"))
        serving.loop.run()
    assert asking.answer().status in (200, 500)
    return [address.removesuffix(":80") for address in serving.lines()[-1].decode().split(", ")]


def test_the_key_is_made_of_the_request(serving: Serving) -> None:
    # nginx: (crc32(key) >> 16 & 0x7fff) modulo the sum of the weights
    for key in ("a", "b", "c", "some longer one", "%41"):
        text = key.replace(" ", "+")
        number = (crc32(text.encode()) >> 16 & 0x7FFF) % 2
        assert _tried(serving, f"/k?k={text}") == [f"10.0.0.{number + 1}"]


@pytest.mark.parametrize("upstream", ["k", "c", "b"])
def test_an_upstream_that_a_variable_names_hashes_too(serving: Serving, upstream: str) -> None:
    asked = {key: {_tried(serving, f"/?u={upstream}&k={key}")[0] for _ in range(3)} for key in "abcdefghijkl"}
    assert {len(peers) for peers in asked.values()} == {1}
    assert len(set.union(*asked.values())) == 2


def test_several_variables_make_one_key(serving: Serving) -> None:
    whole = {n: _tried(serving, f"/?u=c&k=a{n}") for n in range(20)}
    assert whole == {n: _tried(serving, "/?u=c&k=a", f"X: {n}") for n in range(20)}
    assert len({tuple(peers) for peers in whole.values()}) == 2


def test_a_key_that_is_empty_goes_round(serving: Serving) -> None:
    assert [_tried(serving, "/k") for _ in range(4)] == [["10.0.0.1"], ["10.0.0.2"]] * 2


def test_the_next_peer_is_another_one_and_the_key_stays(serving: Serving) -> None:
    serving.reply = response(b"no", status="500 No")
    for target in ("/k?k=a", "/?u=c&k=a", "/?u=b&k=a", "/i", "/u", "/?u=r"):
        assert sorted(_tried(serving, target)) == ["10.0.0.1", "10.0.0.2"]


def test_ip_hash_takes_three_octets_of_four_and_all_sixteen_of_six(serving: Serving) -> None:
    def peer(address: str) -> str:
        (name,) = _tried(serving, "/i", client=address)
        return name

    assert len({peer(f"192.0.2.{last}") for last in range(0, 256, 15)}) == 1
    assert len({peer(f"192.0.{third}.1") for third in range(10)}) == 2
    assert len({peer(f"2001:db8::{last:x}") for last in range(10)}) == 2
    assert peer("fe80::1%lo") == peer("fe80::1")
