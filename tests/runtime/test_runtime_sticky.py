"""`sticky`: cookie, route and learn in one worker, in memory."""

from __future__ import annotations

from pathlib import Path

from tests.runtime.serving import Serving
from tests.wire.joined import Answer, get, response

ROUTES = """
log_format addr $upstream_addr;
access_log logs/access.log addr;
upstream u {
    server 10.0.0.1:80 route=a;
    server 10.0.0.2:80 route=b%s;
    %s
}
server { listen 127.0.0.1:8080; location / { proxy_pass http://u; } }
"""


def serving(folder: Path, sticky: str, second: str = "") -> Serving:
    return Serving(folder, ROUTES % (second, sticky))


def cookies(answer: Answer) -> list[str]:
    return [value for name, value in answer.fields if name.lower() == "set-cookie"]


def asked(served: Serving) -> list[str]:
    """The number of the peer of each request so far."""
    return [line.decode().removeprefix("10.0.0.")[0] for line in served.lines()]


def test_a_cookie_names_the_peer_and_binds_to_it(tmp_path: Path) -> None:
    with serving(tmp_path, "sticky cookie srv path=/x;") as served:
        served.reply = response(b"hello", "Set-Cookie: own=1")
        assert cookies(served.ask(get("/"))) == ["srv=a; path=/x", "own=1"]
        for _ in range(3):
            answer = served.ask(get("/", "Cookie: x=y; srv=b"))
            assert cookies(answer) == ["srv=b; path=/x", "own=1"]
            assert (answer.status, answer.body) == (200, b"hello")
        assert cookies(served.ask(get("/", "Cookie: srv=nobody")))[0].startswith(("srv=a", "srv=b"))
        assert asked(served)[:4] == ["1", "2", "2", "2"]


def test_a_peer_that_fails_gives_the_session_to_another_with_one_cookie(tmp_path: Path) -> None:
    with serving(tmp_path, "sticky cookie srv;") as served:
        client = served.client()
        client.send(get("/", "Cookie: srv=b"))
        served.origins[1].connections[-1].finish()
        served.origins[0].connections[-1].send(response(b"a"))
        served.loop.run()
        assert cookies(client.answer()) == ["srv=a"]


def test_the_cookie_of_the_last_peer_is_set_with_an_error(tmp_path: Path) -> None:
    with serving(tmp_path, "sticky cookie srv;") as served:
        client = served.client()
        client.send(get("/", "Cookie: srv=b"))
        served.origins[1].connections[-1].finish()
        served.origins[0].connections[-1].finish()
        served.loop.run()
        answer = client.answer()
        assert (answer.status, cookies(answer)) == (502, ["srv=a"])
        answer = served.ask(get("/", "Cookie: srv=b"))  # nobody is left to be tried
        assert (answer.status, cookies(answer)) == (502, [])


def test_a_draining_peer_keeps_its_sessions_and_gets_no_others(tmp_path: Path) -> None:
    with serving(tmp_path, "sticky route $arg_none $cookie_r $arg_r;", " drain") as served:
        for _ in range(3):
            assert cookies(served.ask(get("/"))) == []
        served.ask(get("/?r=b"))
        served.ask(get("/?r=a", "Cookie: r=b"))
        served.ask(get("/?none=&r=b"))
        served.ask(get("/?r=x"))
        assert asked(served) == ["1", "1", "1", "2", "2", "2", "1"]


LEARN = "sticky learn create=$upstream_cookie_sid create=$upstream_http_x_sid lookup=$cookie_sid lookup=$arg_sid %s;"


def learning(folder: Path, more: str = "zone=z:64k") -> Serving:
    return serving(folder, LEARN % more)


def test_a_session_is_learnt_from_an_answer_and_found_again(tmp_path: Path) -> None:
    with learning(tmp_path) as served:
        served.ask(get("/"))
        served.reply = response(b"x", "Set-Cookie: sid=one; Path=/")
        served.ask(get("/"))
        served.reply = response(b"x", "X-Sid: two")
        served.ask(get("/"))
        served.reply = response(b"x")
        for _ in range(3):
            assert cookies(served.ask(get("/?sid=two", "Cookie: sid=one"))) == []
            served.ask(get("/?sid=two"))
            served.ask(get("/?sid=three"))
        told = asked(served)
        assert told[:3] == ["1", "2", "1"]
        assert told[3::3] == ["2"] * 3
        assert told[4::3] == ["1"] * 3


def test_a_session_moves_to_the_peer_that_answers(tmp_path: Path) -> None:
    with learning(tmp_path, "zone=z:64k; keepalive 0") as served:
        served.reply = response(b"x", "X-Sid: s")
        served.ask(get("/"))
        client = served.client()
        client.send(get("/?sid=s"))
        served.origins[0].connections[-1].finish()
        served.origins[1].connections[-1].send(response(b"x"))
        assert client.answer().status == 200
        served.loop.advance(11.0)
        served.reply = response(b"x")
        for _ in range(3):
            served.ask(get("/?sid=s"))
        assert asked(served)[-3:] == ["2"] * 3


def begun(served: Serving, sent: bytes) -> None:
    """A request that got the head of its answer and none of its content."""
    served.client().send(get("/"))
    far = served.origins[0].connections[-1]
    far.taken()
    far.send(sent)
    served.loop.run()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Sid: s\r\n\r\n"


def test_a_session_is_known_when_the_answer_is_over(tmp_path: Path) -> None:
    with learning(tmp_path) as served:
        begun(served, HEAD)
        first = served.origins[0].connections[-1]
        assert [served.ask(get("/?sid=s")).status for _ in range(2)] == [200, 200]
        first.send(b"12345")
        served.loop.run()
        for _ in range(2):
            served.ask(get("/?sid=s"))
        assert asked(served) == ["2", "1", "1", "1", "1"]


def test_a_session_is_known_with_the_head_if_that_is_asked_for(tmp_path: Path) -> None:
    with learning(tmp_path, "zone=z:64k header") as served:
        begun(served, HEAD)
        for _ in range(3):
            served.ask(get("/?sid=s"))
        assert asked(served) == ["1", "1", "1"]
        served.origins[0].connections[-1].send(b"12345")


def test_an_answer_that_goes_to_the_next_peer_teaches_nothing(tmp_path: Path) -> None:
    configuration = ROUTES % ("", LEARN % "zone=z:64k header")
    configuration = configuration.replace("proxy_pass http://u;", "proxy_pass http://u; proxy_next_upstream http_500;")
    with Serving(tmp_path, configuration.replace("route=a", "route=a max_fails=0")) as served:
        client = served.client()
        client.send(get("/"))
        served.origins[0].connections[-1].send(response(b"x", "X-Sid: s", status="500 x"))
        served.origins[1].connections[-1].send(response(b"x"))
        served.loop.run()
        assert client.answer().status == 200
        served.ask(get("/?sid=s"))
        served.ask(get("/?sid=s"))
        assert len(set(asked(served)[1:])) == 2


def test_upstreams_without_sessions_are_as_ever(tmp_path: Path) -> None:
    configuration = ROUTES % ("", "sticky cookie srv;") + (
        "upstream plain { server 10.0.0.1:80; } server { listen 127.0.0.2:8080;"
        " location / { proxy_pass http://plain; } }"
    )
    with Serving(tmp_path, configuration.replace("http://u;", "http://plain;")) as served:
        assert cookies(served.ask(get("/", "Cookie: srv=b"))) == []
