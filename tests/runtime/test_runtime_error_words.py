"""What the error log says of faulty peers and clients, and how severe it is: nginx's words and levels."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import Origin

_HTTP = """
error_log logs/said.log info;
log_format tries "$status $proxy_host [$upstream_addr] [$upstream_status] $upstream_cache_status";
access_log logs/asked.log tries;
proxy_next_upstream off;
server {
    listen 8080;
    location / { proxy_pass http://10.0.0.1; }
    location /small/ { client_max_body_size 16; proxy_pass http://10.0.0.1; }
    location /small-here/ { client_max_body_size 16; return 200; }
    location /cached { return 200 "[$upstream_cache_status]"; }
    location /nobody/ { set $name nobody.invalid; proxy_pass http://$name; }
    location /second/ { set $name nobody.invalid; proxy_pass http://$name; error_page 502 = @second; }
    location @second { proxy_pass http://10.0.0.1; }
}
"""
_MORE = '[warn] upstream sent more data than specified in "Content-Length" header while reading upstream'
_CHUNKED = "Transfer-Encoding: chunked"


def _request(path: str, *fields: str, method: str = "GET") -> bytes:
    lines = "".join(f"{line}\r\n" for line in ("Host: x", *fields))
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()


def _answer(head: str, content: bytes) -> bytes:
    return f"HTTP/1.1 {head}\r\n\r\n".encode() + content


def _said(serving: Serving) -> str:
    return (serving.folder / "logs" / "said.log").read_text("utf-8")


def _asked(serving: Serving) -> str:
    return (serving.folder / "logs" / "asked.log").read_text("utf-8").splitlines()[-1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (_answer("200 OK\r\nContent-Length: 3", b"abcdef"), _MORE),
        (_answer("200 OK\r\nContent-Length: 0", b"abc"), _MORE),
        (_answer("304 Not Modified\r\nContent-Length: 3", b"abc"), _MORE),
        (_answer("204 No Content", b"abc"), _MORE),
        (
            _answer(f"200 OK\r\n{_CHUNKED}", b"3\r\nabc\r\n0\r\n\r\nxyz"),
            "[warn] upstream sent data after final chunk while reading upstream",
        ),
        (
            _answer(f"200 OK\r\n{_CHUNKED}", b"zz\r\nabc\r\n"),
            "[error] upstream sent invalid chunked response while reading upstream",
        ),
        (
            _answer("200 OK\r\nContent-Length: 3\r\ncontent-length: 4", b"abc"),
            '[error] upstream sent duplicate header line: "content-length: 4", previous value: "Content-Length: 3" '
            "while reading response header from upstream",
        ),
        (
            _answer("200 OK\r\nContent-Length: -3", b"abc"),
            '[error] upstream sent invalid "Content-Length" header: "Content-Length: -3" while reading response header '
            "from upstream",
        ),
    ],
)
def test_a_faulty_answer_is_named(tmp_path: Path, answer: bytes, words: str) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        serving.reply = answer
        serving.ask(_request("/"))
        assert _one_line(serving) == words


def test_more_than_announced_is_named_when_it_comes_later(tmp_path: Path) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        client = serving.client()
        client.send(_request("/"))
        peer = serving.origins[0].last
        peer.send(_answer("200 OK\r\nContent-Length: 3", b"ab"))
        peer.send(b"cdef")
        assert client.answer().body == b"abc"
        assert _one_line(serving) == _MORE
        assert peer.closed()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_right_answer_and_content_behind_a_head_request_are_no_matter(tmp_path: Path, method: str) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        serving.reply = _answer("200 OK\r\nContent-Length: 3", b"abc")
        serving.ask(_request("/", method=method))
        assert "upstream" not in _said(serving)


def _one_line(serving: Serving) -> str:
    """The level and the words of the only line."""
    (line,) = _said(serving).splitlines()
    level = line.split(" ", 3)[2]
    return f"{level} {line.partition(': *')[2].partition(' ')[2].partition(', client: ')[0]}"


def _pieces(serving: Serving, *pieces: bytes) -> int:
    client = serving.client()
    for piece in pieces:
        client.send(piece)
    return client.answer("POST").status


@pytest.mark.parametrize(
    ("pieces", "sizes"),
    [
        ((b"20\r\n%b\r\n0\r\n\r\n" % (b"a" * 32),), "0+32"),
        ((b"", b"20\r\n%b\r\n0\r\n\r\n" % (b"a" * 32)), "0+32"),
        ((b"", b"8\r\naaaaaaaa\r\n", b"20\r\n%b\r\n" % (b"a" * 32)), "8+32"),
    ],
)
def test_too_large_a_chunked_body_is_an_error_with_its_size(
    tmp_path: Path, pieces: tuple[bytes, ...], sizes: str
) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        head = _request("/small/", _CHUNKED, method="POST")
        assert _pieces(serving, head + pieces[0], *pieces[1:]) == 413
        assert _one_line(serving) == f"[error] client intended to send too large chunked body: {sizes} bytes"
        assert _asked(serving) == "413 10.0.0.1 [-] [-] -"


def test_too_large_a_body_of_known_length_meets_no_peer(tmp_path: Path) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        assert _pieces(serving, _request("/small/", "Content-Length: 50", method="POST")) == 413
        assert _one_line(serving) == "[error] client intended to send too large body: 50 bytes"
        assert _asked(serving) == "413 - [-] [-] -"


@pytest.mark.parametrize(
    ("path", "pieces"),
    [("/", (b"zz\r\n",)), ("/", (b"", b"2\r\naa\r\n", b"zz\r\n")), ("/small-here/", (b"zz\r\n",))],
)
def test_bad_chunks_of_a_client_are_an_error_of_its_body(tmp_path: Path, path: str, pieces: tuple[bytes, ...]) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        head = _request(path, _CHUNKED, method="POST")
        assert _pieces(serving, head + pieces[0], *pieces[1:]) == 400
        assert _one_line(serving) == "[error] client sent invalid chunked body"


def test_a_client_that_leaves_in_its_body_is_no_error(tmp_path: Path) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        client = serving.client()
        client.send(_request("/", "Content-Length: 5", method="POST") + b"ab")
        client.far.finish()
        assert _one_line(serving) == "[info] client prematurely closed connection"


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (("X-One: 1", "X-Long: " + "a" * 9000), "X-Long: aaaa"),
        ([f"X-{number}: " + "a" * 4000 for number in range(20)], "X-8: aaaa"),
        (("X-\x7f" + "a" * 9000,), "X-\\x7Faaaa"),
    ],
)
@pytest.mark.parametrize("split", [None, 8600])
def test_the_line_that_is_too_long_is_named(
    tmp_path: Path, lines: tuple[str, ...], named: str, split: int | None
) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        head = _request("/", *lines)
        pieces = (head,) if split is None else (head[:split], head[split:])
        assert _pieces(serving, *pieces) == 400
        said = _one_line(serving)
        assert said.startswith(f'[info] client sent too long header line: "{named}')
        assert said.endswith('aaa..." while reading client request headers')


def test_a_path_that_is_not_there_is_critical_and_named(tmp_path: Path) -> None:
    with Serving(tmp_path, _HTTP.replace("10.0.0.1; }", "unix:/run/peer.sock; }", 1)) as serving:
        origin = Origin(serving.loop, "/run/peer.sock")  # type: ignore[arg-type]  # a path is an address too
        origin.mode = "no path"
        assert serving.ask(_request("/")).status == 502
        assert _one_line(serving) == (
            "[crit] connect() to unix:/run/peer.sock failed (2: No such file or directory) while connecting to upstream"
        )


@pytest.mark.parametrize("path", ["unix:/run/peer.sock", "10.0.0.1"])
def test_a_peer_that_refuses_is_an_error(tmp_path: Path, path: str) -> None:
    with Serving(tmp_path, _HTTP.replace("10.0.0.1; }", f"{path}; }}", 1)) as serving:
        unix = path.startswith("unix:")
        origin = Origin(serving.loop, path[5:]) if unix else serving.origins[0]  # type: ignore[arg-type]  # as above
        origin.mode = "refuse"
        assert serving.ask(_request("/")).status == 502
        whom = f" to {path}" if unix else ""
        assert _one_line(serving) == (
            f"[error] connect(){whom} failed (111: Connection refused) while connecting to upstream"
        )


def test_there_is_no_cache_status(tmp_path: Path) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        assert serving.ask(_request("/cached")).body == b"[]"
        assert _asked(serving) == "200 - [-] [-] -"


def test_an_upstream_that_cannot_be_found_counts_where_another_follows(tmp_path: Path) -> None:
    with Serving(tmp_path, _HTTP) as serving:
        assert serving.ask(_request("/second/")).status == 200
        assert _asked(serving) == "200 10.0.0.1 [, 10.0.0.1:80] [-, 200] -"
        assert serving.ask(_request("/nobody/")).status == 502
        assert _asked(serving) == "502 nobody.invalid [-] [-] -"
