"""tcp and tls checks through the checker: the connection, the handshake, or what is sent and expected in it."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.check.scripted import Script, Scripted, answering
from tests.check.test_check_checker import Bench, Benches, bench
from tests.check.test_check_talk_http import check, count
from tests.check.test_check_talk_https import AUTHORITY, TLS, serving
from upwell.check.probe import Verdict
from upwell.check.probes import PROBES
from upwell.check.probes.expect import MOST, ExpectProbe
from upwell.check.spec import PLUS, RESTY, CheckSpec

__all__ = ["bench"]  # a fixture, used by name

Peers = Callable[..., Scripted]


def banner(text: bytes) -> Script:
    """Speaks first, then listens."""

    def script(sock: socket.socket) -> None:
        sock.sendall(text)
        while sock.recv(65536):
            pass

    return script


def end(sock: socket.socket) -> None:
    """Closes at once."""


def reset(sock: socket.socket) -> None:
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def kinds(secure: bool) -> tuple[dict[str, object], ssl.SSLContext | None]:
    if secure:
        return {"type": "tls", "host": "app.test", "ca": AUTHORITY, "request": b""}, serving()
    return {"type": "tcp", "request": b""}, None


def why(b: Bench) -> str:
    b.until(lambda: count(b)[1] > 0)
    found = [re.search(r"in upstream \"u\": (.*) \((?:tcp|tls)\)$", line) for line in b.lines()]
    return next(one[1] for one in found if one)


secured = pytest.mark.parametrize("secure", [False, True])


@secured
def test_the_connection_is_the_answer(scripted: Peers, bench: Benches, secure: bool) -> None:
    changes, context = kinds(secure)
    for script in (end, banner(b"hello\r\n"), answering(b"")):
        one = scripted(script, context)
        b = bench(one.spec)
        check(b, **changes)
        b.until(lambda: count(b)[0] == 3)  # noqa: B023  # over before the next round
        assert count(b)[1] == 0


@secured
def test_what_is_expected_comes(scripted: Peers, bench: Benches, secure: bool) -> None:
    changes, context = kinds(secure)
    for script, words in (
        (banner(b"220 mail.test ESMTP\r\n"), {"expect": "^220 "}),
        (answering(b"+PONG\r\n"), {"request": b"PING\r\n", "expect": r"^\+PONG"}),
        (answering(b"anything"), {"request": b"PING\r\n"}),
        (banner(b"220-wait\r\n220 go\r\n"), {"request": b"QUIT\r\n", "expect": "(?m)^220 go"}),
    ):
        one = scripted(script, context)
        b = bench(one.spec)
        check(b, **changes, **words) if "request" not in words else check(b, **{**changes, **words})
        b.until(lambda: count(b)[0] == 3)  # noqa: B023  # over before the next round
        assert count(b)[1] == 0


@secured
@pytest.mark.parametrize(
    ("script", "expect", "words"),
    [
        (banner(b"554 no\r\n"), "^220 ", 'timeout after 0.3 s waiting for ~ "^220 "'),
        (answering(b"-ERR\r\n", kept=False), "PONG", 'connection closed after "-ERR\\x0D\\x0A", want "PONG"'),
        (answering(b"", kept=False), "PONG", 'connection closed, want "PONG"'),
        (answering(b"", kept=False), "", "connection closed, want an answer"),
        (banner(b"x" * 100_000), "[y]", f'no ~ "[y]" in {MOST} bytes, but "{"x" * 57}..."'),
    ],
)
def test_what_is_expected_does_not_come(
    scripted: Peers, bench: Benches, script: Script, expect: str, words: str, secure: bool
) -> None:
    changes, context = kinds(secure)
    one = scripted(script, context)
    b = bench(one.spec)
    check(b, **{**changes, "request": b"PING\r\n", "expect": expect, "timeout": 0.3 if "timeout" in words else 5.0})
    assert why(b) == words
    assert count(b)[0] == 0


def test_a_reset_is_a_failure_when_something_is_expected(scripted: Peers, bench: Benches) -> None:
    one = scripted(reset)
    b = bench(one.spec)
    check(b, type="tcp", request=b"PING\r\n", expect="PONG")
    assert why(b) == 'connection reset by peer waiting for "PONG"'


def test_a_handshake_that_is_not_trusted_fails_whatever_is_expected(scripted: Peers, bench: Benches) -> None:
    for expect in ("", "^220 "):
        one = scripted(banner(b"220 hello\r\n"), serving("expired"))
        b = bench(one.spec)
        check(b, **{**kinds(True)[0], "expect": expect})
        assert re.fullmatch(r"certificate expired \d+ days ago", why(b))


def test_a_tls_check_of_a_plain_peer_fails(scripted: Peers, bench: Benches) -> None:
    one = scripted(banner(b"220 hello\r\n"))
    b = bench(one.spec)
    check(b, **kinds(True)[0])
    assert why(b) == "TLS handshake failed: wrong version number"


@secured
def test_unix_sockets_and_ipv6(scripted: Peers, bench: Benches, tmp_path: Path, secure: bool) -> None:
    changes, context = kinds(secure)
    places: list[tuple[int, str | tuple[str, int]]] = [(socket.AF_UNIX, str(tmp_path / "s"))]
    if socket.has_ipv6:
        places.append((socket.AF_INET6, ("::1", 0)))
    for family, address in places:
        one = scripted(banner(b"220 hello\r\n"), context, family, address)
        b = bench(one.spec)
        check(b, **{**changes, "expect": "^220"})
        b.until(lambda: count(b)[0] == 2)  # noqa: B023  # over before the next round
        assert count(b)[1] == 0


def test_the_peers_of_a_handshake_see_its_end(scripted: Peers, bench: Benches) -> None:
    """A server that logs broken handshakes has nothing to log."""
    good: list[bytes] = []

    def script(sock: socket.socket) -> None:
        good.append(sock.recv(100))

    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        good.clear()
        one = scripted(script, serving(version=version))
        b = bench(one.spec)
        check(b, **kinds(True)[0])
        b.until(lambda: len(good) >= 2)
        assert set(good) == {b""}


def test_any_split_of_what_comes_will_do() -> None:
    for cut in range(7):
        probe = ExpectProbe(CheckSpec("u", "tcp", expect="P.NG", dialect=PLUS), "app:1")
        assert probe.open() == b""
        assert probe.feed(b"--+PONG"[:cut] or b"+") == b""
        assert probe.feed(b"--+PONG"[cut:]) == Verdict(True)
        assert probe.finished


@pytest.mark.parametrize(
    ("expect", "words"),
    [("^220", '~ "^220"'), (r"\x2bPONG\x0d", '"+PONG\\x0D"'), ("PONG", '"PONG"'), ("", "an answer")],
)
def test_the_expected_is_told_as_it_was_meant(expect: str, words: str) -> None:
    probe = ExpectProbe(CheckSpec("u", "tcp", b"?", expect=expect, dialect=PLUS), "app:1")
    assert probe.doing == f"waiting for {words}"


def test_a_pattern_without_end_is_a_failure() -> None:
    probe = ExpectProbe(CheckSpec("u", "tcp", expect="(a+)+$", dialect=PLUS), "app:1")
    probe.open()
    assert probe.feed(b"a" * 64 + b"b") == Verdict(False, "body", '~ "(a+)+$": match limit exceeded')


def test_an_expensive_search_is_not_begun_anew_for_ever() -> None:
    """A peer that sends byte by byte has all that came searched for each byte."""
    probe = ExpectProbe(CheckSpec("u", "tcp", expect="OK.*ready", dialect=PLUS), "app:1")
    for _ in range(2):  # a probe has its time for itself
        probe.open()
        told = probe.feed(b"OK" * 2000)
        assert told == b""
        for _ in range(1000):
            told = probe.feed(b"O")
            if told:
                break
        assert isinstance(told, Verdict)
        assert re.fullmatch(
            r'~ "OK\.\*ready": searching it piece by piece takes too long, after 4\d+ bytes "(OK)+O\.\.\."', told.why
        )
        assert (told.kind, probe.finished) == ("body", True)


def test_what_cannot_be_is_refused() -> None:
    for name in ("tcp", "tls"):
        with pytest.raises(ValueError, match="bad regular expression"):
            PROBES[name](CheckSpec("u", name, expect="(", dialect=PLUS), "app:1")
    with pytest.raises(ValueError, match="No such file"):
        PROBES["tls"](CheckSpec("u", "tls", ca=str(TLS / "none.pem"), dialect=PLUS), "app:1")


def test_lua_resty_s_tcp_is_the_connection_whatever_there_is_to_send() -> None:
    assert PROBES["tcp"](CheckSpec("u", "tcp", b"PING", expect="x", dialect=RESTY), "app:1").open() == Verdict(True)
