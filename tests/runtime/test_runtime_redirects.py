"""Internal redirects as they are seen from the peers and in the log; what happens to connections and to content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import CHUNKED, LAST, chunks, get, post, response

CONFIGURATION = r"""
upstream one { server 10.0.0.1:80; }
upstream two { server 10.0.0.2:80; }
upstream nobody { server 10.0.0.1:80 down; }
upstream both { server 10.0.0.1:80; server 10.0.0.2:80; }
log_format tries "$uri|$upstream_addr|$upstream_status|$upstream_http_x_from|$sent_http_x_from|$status";
access_log logs/access.log tries;
server {
    listen 127.0.0.1:8080;
    server_name localhost;
    recursive_error_pages off;
    location / { proxy_pass http://one; }
    location /text { return 200 "text"; }
    location /two { proxy_pass http://two; }
    location @two { proxy_pass http://two; }
    proxy_request_buffering off;
    location /on { proxy_pass http://one; proxy_intercept_errors on; error_page 404 /two; error_page 500 /text; }
    location /named { proxy_pass http://one; proxy_intercept_errors on; error_page 404 = @two; }
    location /next { proxy_pass http://both; proxy_next_upstream http_500; error_page 500 /two;
        proxy_intercept_errors on; }
    location /nobody { proxy_pass http://nobody; }
    location /nobody/two { proxy_pass http://nobody; error_page 502 = /two; }
    location /cycle { error_page 404 /cycle; recursive_error_pages on; return 404; }
    location /twice { error_page 404 /once; return 404; }
    location /once { error_page 403 /text; return 403; }
    location /recursive { error_page 404 /further; return 404; }
    location /further { error_page 404 /text; recursive_error_pages on; return 403; }
    location /lua { content_by_lua_block { ngx.exit(404) } error_page 404 /text; }
    location /lua/access { access_by_lua_block { ngx.exit(403) } error_page 403 =200 /text; proxy_pass http://one; }
    location /lua/fault { content_by_lua_block { error("x") } error_page 500 /two; }
    location /lua/capture { content_by_lua_block {
        local answer = ngx.location.capture("/on/a")
        ngx.print(answer.status, " ", answer.body)
    } }
    location @why { proxy_pass http://two; proxy_set_header X-Why "$upstream_status $upstream_http_x_from"; }
    location /why { proxy_pass http://both; proxy_set_header X-Why $upstream_status; proxy_next_upstream http_500;
        proxy_intercept_errors on; error_page 503 @why; }
    location /status { error_page 404 /status/page; return 404; location = /status/page { return 200 "$status"; } }
    location /status/address { error_page 404 =301 http://other/$status; return 404; }
    location /status/text { return 203 "$status"; }
    location /status/moved { return 302 http://other/$status; }
    location /large { client_max_body_size 4; proxy_pass http://one; error_page 413 /two; }
    error_page 400 /text;
}
server {
    listen 127.0.0.1:8080;
    server_name chunks;
    error_page 400 /two;
    location /two { proxy_pass http://two; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


def test_tries_of_another_upstream_stand_behind_a_colon(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/on"))
        serving.origins[0].last.send(response(b"no", "X-From: one", status="404 Not Found"))
        serving.origins[1].last.send(response(b"yes", "X-From: two"))
        answer = client.answer()
        assert (answer.status, answer.body) == (404, b"yes")
        assert serving.lines() == [b"/two|10.0.0.1:80 : 10.0.0.2:80|404 : 200|two|two|404"]


def test_tries_before_and_after_a_redirect(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/next"))
        serving.origins[0].last.send(response(b"", status="500 No"))
        serving.origins[1].last.send(response(b"", status="500 No"))
        serving.origins[1].last.send(response(b"yes"))
        assert client.answer().body == b"yes"
        [line] = serving.lines()
        assert line.startswith(b"/two|10.0.0.1:80, 10.0.0.2:80 : 10.0.0.2:80|500, 500 : 200|")


def test_the_answer_that_was_not_passed_on_is_known_to_the_log_alone(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/on"))
        serving.origins[0].last.send(response(b"no", "X-From: one", status="500 No"))
        assert client.answer().body == b"text"
        assert serving.lines() == [b"/text|10.0.0.1:80|500|one|-|500"]


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (response(b"all of it", status="404 Not Found"), True),
        (response(b"", status="404 Not Found"), True),
        (response(b"a part", status="404 Not Found", length=100), False),
        (CHUNKED.replace(b"200 OK", b"404 No") + chunks(b"all") + LAST, True),
        (CHUNKED.replace(b"200 OK", b"404 No") + chunks(b"a part"), False),
        (CHUNKED.replace(b"200 OK", b"404 No") + b"nonsense\r\n", False),
        (response(b"all of it", "Connection: close", status="404 Not Found"), False),
        (response(b"all of it", status="404 Not Found") + b"and more", False),
        (b"HTTP/1.1 404 No\r\n\r\nuntil the end", False),
    ],
)
def test_the_first_peers_connection_is_kept_where_its_answer_has_ended(
    serving: Serving, answer: bytes, kept: bool
) -> None:
    with serving:
        client = serving.client()
        client.send(get("/on"))
        first = serving.origins[0].last
        first.send(answer)
        assert first.closed() is not kept
        serving.origins[1].last.send(response(b"yes"))
        assert client.answer().body == b"yes"
        client.send(get("/"))
        assert len(serving.origins[0].connections) == (1 if kept else 2)


def test_content_is_sent_once_more_to_a_named_location(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(post(b"content", path="/named"))
        serving.origins[0].last.send(response(b"no", status="404 Not Found"))
        assert serving.origins[1].last.taken().endswith(b"Content-Length: 7\r\n\r\ncontent")
        serving.origins[1].last.send(response(b"yes"))
        assert (client.answer().status, client.protocol.exchange) == (200, None)


def test_content_that_is_not_held_cannot_go_to_a_named_location(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(post(b"x" * 20_000, path="/named", length=40_000))
        client.send(b"x" * 20_000)
        serving.origins[0].last.send(response(b"no", status="404 Not Found"))
        assert client.answer().status == 500
        assert not serving.origins[1].connections


def test_content_that_is_not_held_does_not_follow_to_a_uri(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(post(b"x" * 20_000, path="/on", length=40_000))
        client.send(b"x" * 10_000)
        serving.origins[0].last.send(response(b"no", status="404 Not Found"))
        asked = serving.origins[1].last.taken()
        assert asked.startswith(b"GET /two ")
        assert b"Content-Length: 0\r\n" in asked
        serving.origins[1].last.send(response(b"yes"))
        assert client.answer().body == b"yes"
        client.send(b"x" * 10_000 + get("/text"))
        assert client.answer().body == b"text"


def test_content_that_is_too_large_is_read_past_after_its_page(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(post(b"too large", path="/large"))
        assert b"too large" not in serving.origins[1].last.taken()
        serving.origins[1].last.send(response(b"page"))
        answer = client.answer()
        assert (answer.status, answer.body, answer.field("Connection")) == (413, b"page", "close")


def test_a_client_that_waits_for_100_continue_is_not_kept_after_a_refusal(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/large", "Content-Length: 9", "Expect: 100-continue", method="POST"))
        serving.origins[1].last.send(response(b"page"))
        answer = client.answer()
        assert (answer.status, answer.interim, answer.field("Connection")) == (413, [], "close")


def test_bad_chunks_have_their_page_and_end_the_connection(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/", "Transfer-Encoding: chunked", method="POST") + b"nonsense\r\n")
        answer = client.answer()
        assert (answer.status, answer.body, answer.field("Connection")) == (400, b"text", "close")


def test_a_page_from_a_peer_for_bad_chunks_is_asked_for_once(serving: Serving) -> None:
    with serving:
        client = serving.client()
        asking = get("/", "Transfer-Encoding: chunked", method="POST").replace(b"Host: test", b"Host: chunks")
        client.send(asking + b"nonsense\r\n")
        peers = [far for origin in serving.origins for far in origin.connections]
        assert len(peers) == 1
        assert peers[0].taken().count(b"GET /two ") == 1
        peers[0].send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
        answer = client.answer()
        assert (answer.status, answer.body, answer.field("Connection")) == (400, b"page", "close")


def test_a_head_that_cannot_be_read_has_its_page(serving: Serving) -> None:
    with serving:
        answer = serving.ask(b"GET / HTTP/1.1\r\n\r\n")
        assert (answer.status, answer.body) == (400, b"text")


def test_a_cycle_ends(serving: Serving) -> None:
    with serving:
        assert serving.ask(get("/cycle")).status == 500
        assert any("redirection cycle while internally redirecting" in line for line in serving.log.lines)


def test_an_error_page_has_none_unless_recursive(serving: Serving) -> None:
    with serving:
        answer = serving.ask(get("/twice"))
        assert (answer.status, b"403 Forbidden" in answer.body) == (403, True)


def test_whether_pages_are_recursive_is_asked_of_the_first_location(serving: Serving) -> None:
    with serving:
        answer = serving.ask(get("/recursive"))
        assert (answer.status, b"403 Forbidden" in answer.body) == (403, True)


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/lua", 404, b"text"), ("/lua/access", 200, b"text")],
)
def test_lua_handlers_have_error_pages(serving: Serving, path: str, status: int, body: bytes) -> None:
    with serving:
        answer = serving.ask(get(path))
        assert (answer.status, answer.body) == (status, body)
        assert not serving.origins[0].connections


def test_a_fault_in_lua_has_its_error_page(serving: Serving) -> None:
    with serving:
        answer = serving.ask(get("/lua/fault"))
        assert (answer.status, answer.body.startswith(b"GET /two ")) == (500, True)


def test_a_subrequest_is_redirected_too(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/lua/capture"))
        serving.origins[0].last.send(response(b"no", status="404 Not Found"))
        serving.origins[1].last.send(response(b"yes"))
        assert client.answer().body == b"404 yes"


def test_a_client_that_leaves_is_not_waited_for_after_a_redirect(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/on"))
        serving.origins[0].last.send(response(b"no", status="404 Not Found"))
        client.far.reset()
        assert serving.origins[1].last.closed()
        assert serving.lines()[0].endswith(b"|499")


def test_an_upstream_without_peers_is_named_where_a_peer_would_be(serving: Serving) -> None:
    with serving:
        assert serving.ask(get("/nobody")).status == 502
        assert serving.ask(get("/nobody/two")).body.startswith(b"GET /two ")
        assert serving.lines() == [b"/nobody|nobody|502|-|-|502", b"/two|nobody : 10.0.0.2:80|502 : 200|-|-|200"]


def test_the_status_is_known_to_the_page_that_answers_it(serving: Serving) -> None:
    with serving:
        answer = serving.ask(get("/status"))
        assert (answer.status, answer.body) == (404, b"404")
        answer = serving.ask(get("/status/text"))
        assert (answer.status, answer.body) == (203, b"203")
        assert serving.ask(get("/status/address")).field("Location") == "http://other/301"
        assert serving.ask(get("/status/moved")).field("Location") == "http://other/302"


def test_a_peers_own_number_is_logged_as_it_went_out(serving: Serving) -> None:
    with serving:
        serving.reply = response(b"", status="494 Odd")
        assert serving.ask(get("/")).status == 494
        assert serving.lines()[0].endswith(b"|494")
        serving.reply = response(b"", "X-Accel-Buffering: no", status="494 Odd")  # read through the filters
        assert serving.ask(get("/")).status == 494


def test_a_request_to_a_peer_knows_the_tries_of_the_locations_before(serving: Serving) -> None:
    with serving:
        client = serving.client()
        client.send(get("/why"))
        first, second = serving.origins
        asked = first.last.taken()
        assert b"X-Why" not in asked
        first.last.send(response(b"", status="500 No"))
        assert second.last.taken() == asked
        second.last.send(response(b"", "X-From: 2", status="503 No"))
        assert b"\r\nX-Why: 500, 503 \r\n" in second.last.taken()
        second.last.send(response(b"yes"))
        assert client.answer().body == b"yes"
        assert serving.lines()[0].startswith(b"/why|10.0.0.1:80, 10.0.0.2:80 : 10.0.0.2:80|500, 503 : 200|")
