"""limit_rate and its kin on a clock that stands still: how much is sent when, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import Client, get, response

CONFIGURATION = r"""
upstream one { server 10.0.0.1:80; }
log_format rate "$uri $status $limit_rate $request_completion";
access_log logs/access.log rate;
server {
    listen 127.0.0.1:8080;
    server_name localhost;
    proxy_buffers 2 4k;
    proxy_busy_buffers_size 4k;
    proxy_buffer_size 4k;
    location / { proxy_pass http://one; }
    location /slow { proxy_pass http://one; limit_rate 1000; }
    location /slow/off { proxy_pass http://one; limit_rate 0; }
    location /after { proxy_pass http://one; limit_rate 1000; limit_rate_after 3000; }
    location /variable { proxy_pass http://one; limit_rate $http_x_rate; limit_rate_after $http_x_after; }
    location /set { set $limit_rate 2000; proxy_pass http://one; limit_rate 1000; }
    location /set/odd { set $limit_rate $http_x_rate; proxy_pass http://one; }
    location /ignored { proxy_pass http://one; proxy_ignore_headers X-Accel-Limit-Rate; }
    location /peer { proxy_pass http://one; proxy_limit_rate 1000; }
    location /peer/unbuffered { proxy_pass http://one; proxy_limit_rate 1000; proxy_buffering off; }
    location /both { proxy_pass http://one; proxy_limit_rate 1000; limit_rate 500; limit_rate_after 10000; }
    location /text { limit_rate 1k; return 200 "0123456789"; }
    location /page { limit_rate 100; return 404; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


def _answered(serving: Serving, path: str, *fields: str, body: int = 10_000, answer: tuple[str, ...] = ()) -> Client:
    client = serving.client()
    client.send(get(path, *fields))
    serving.origins[0].last.send(response(b"x" * body, *answer))
    return client


@pytest.mark.parametrize(
    ("path", "fields", "answer", "at_once", "a_second"),
    [
        ("/slow", (), (), 1000, 1000),
        ("/after", (), (), 4000, 1000),
        ("/variable", ("X-Rate: 2k",), (), 2048, 2048),
        ("/variable", ("X-Rate: 500", "X-After: 1k"), (), 1524, 500),
        ("/set", (), (), 2000, 2000),
        ("/", (), ("X-Accel-Limit-Rate: 1500",), 1500, 1500),
        ("/slow", (), ("X-Accel-Limit-Rate: 1500",), 1500, 1500),
        ("/peer", (), (), 1000, 1000),
        ("/both", (), (), 1000, 1000),
    ],
)
def test_so_many_bytes_a_second(
    serving: Serving, path: str, fields: tuple[str, ...], answer: tuple[str, ...], at_once: int, a_second: int
) -> None:
    with serving:
        client = _answered(serving, path, *fields, answer=answer)
        seen = len(client.far.received)
        assert seen == at_once
        for _ in range(2):
            serving.loop.advance(1)
            assert len(client.far.received) - seen == pytest.approx(a_second, rel=0.11)
            seen = len(client.far.received)
        serving.loop.advance(60)
        whole = client.answer()
        assert (whole.complete, len(whole.body)) == (True, 10_000)


@pytest.mark.parametrize(
    ("path", "fields", "answer"),
    [
        ("/", (), ()),
        ("/slow/off", (), ()),
        ("/variable", (), ()),
        ("/variable", ("X-Rate: 0",), ()),
        ("/variable", ("X-Rate: much",), ()),
        ("/set/odd", ("X-Rate: much",), ()),
        ("/slow", (), ("X-Accel-Limit-Rate: 0",)),
        ("/ignored", (), ("X-Accel-Limit-Rate: 1",)),
        ("/", (), ("X-Accel-Limit-Rate: 1k",)),
        ("/peer/unbuffered", (), ()),
    ],
)
def test_where_there_is_no_rate_all_is_sent_at_once(
    serving: Serving, path: str, fields: tuple[str, ...], answer: tuple[str, ...]
) -> None:
    with serving:
        assert len(_answered(serving, path, *fields, answer=answer).answer().body) == 10_000


@pytest.mark.parametrize("path", ["/variable", "/set/odd"])
def test_a_rate_that_is_none_is_told(serving: Serving, path: str) -> None:
    with serving:
        _answered(serving, path, "X-Rate: much")
        assert any('"much"' in line for line in serving.log.lines)


def test_less_than_a_second_of_bytes_does_not_wait(serving: Serving) -> None:
    with serving:
        assert serving.ask(get("/text")).body == b"0123456789"


def test_an_error_page_is_paced_too(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/page"))
        assert len(client.far.received) == 100
        serving.loop.advance(10)
        assert client.answer().complete


def test_a_head_alone_is_not_held_back(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/page", method="HEAD"))
        assert client.answer("HEAD").complete


def test_the_next_request_waits_and_is_not_paced(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/slow") + get("/"))
        far = serving.origins[0].last
        far.send(response(b"x" * 3000))
        assert far.taken().count(b"GET ") == 1
        assert serving.lines() == []
        serving.loop.advance(3)
        assert len(client.answer().body) == 3000
        assert serving.lines() == [b"/slow 200 1000 OK"]
        far.send(response(b"y" * 9000))
        assert len(client.answer().body) == 9000


def test_a_peer_is_held_while_the_client_may_not_have_more(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/peer"))
        far = serving.origins[0].last
        far.send(response(b"x" * 50_000, length=100_000))
        assert not far.reading()
        serving.loop.advance(55)
        assert far.reading()
        far.send(b"x" * 50_000)
        serving.loop.advance(60)
        assert len(client.answer().body) == 100_000


def test_a_client_that_takes_nothing_is_given_up(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.far.stall()
        client.send(get("/variable", "X-Rate: 100k"))
        far = serving.origins[0].last
        far.send(response(b"x" * 300_000))
        serving.loop.advance(50)
        assert not client.far.closed()
        serving.loop.advance(70)
        assert client.far.closed()
        assert far.closed()
        assert serving.lines() == [b"/variable 200 102400 "]


def test_a_client_that_leaves_is_forgotten(serving: Serving) -> None:
    with serving:
        client = _answered(serving, "/slow")
        client.far.reset()
        assert serving.lines() == [b"/slow 200 1000 "]
        serving.loop.advance(5)


def test_an_answer_cut_short_ends_in_a_cut_connection(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/slow"))
        far = serving.origins[0].last
        far.send(response(b"x" * 3000, length=5000))
        far.finish()
        serving.loop.advance(10)
        assert client.far.closed()
        assert not client.answer().complete
