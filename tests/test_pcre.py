"""The bound on a match: a bad pattern ends in time, a good one is let alone, and no alarm outlives its match."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, response
from upwell import pcre

BAD = re.compile(rb"^/(a+)+$")
TEXT = b"/" + b"a" * 60 + b"!"


def test_a_catastrophic_match_ends_in_time() -> None:
    begun = time.process_time()
    for pattern, text in (
        (BAD, TEXT),
        (re.compile(rb"(x+x+)+y"), b"x" * 60),
        (re.compile(rb"(a|aa)+$"), b"a" * 90 + b"b"),
    ):
        with pytest.raises(pcre.PatternTimeout):
            pcre.search(pattern, text)
    with pytest.raises(pcre.PatternTimeout):
        pcre.bounded(BAD.match, TEXT)
    assert time.process_time() - begun < 3.0
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_a_match_is_what_re_gives() -> None:
    text = b"/images/" + b"x" * 40 + b".png"
    for pattern in (rb"\.(png|gif)$", rb"^/other"):
        regex = re.compile(pattern)
        found, expected = pcre.search(regex, text), regex.search(text)
        assert (found and found.span(1)) == (expected and expected.span(1))
    found = pcre.bounded(re.compile(rb"x").search, text, 20)
    assert found is not None
    assert found.start() == 20
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_an_alarm_without_a_match_does_nothing() -> None:
    pcre.search(BAD, b"/" + b"a" * 40)
    signal.raise_signal(signal.SIGVTALRM)


def test_an_alarm_of_an_earlier_match_does_not_end_a_later_one() -> None:
    def find(text: bytes, place: int) -> None:
        signal.raise_signal(signal.SIGVTALRM)

    assert pcre.bounded(find, TEXT) is None


def test_an_error_inside_disarms() -> None:
    def find(text: bytes, place: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        pcre.bounded(find, TEXT)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    signal.raise_signal(signal.SIGVTALRM)


@pytest.mark.parametrize(
    "pattern", [b"^((a+)+)+$", b"^(a+)+$", b"^(?:(a|aa)+)+$", b"^(?=((a*)*)*b)", b"^a*a*a*a*a*a*a*a*a*a*$"]
)
def test_a_short_subject_is_no_way_round_the_limit(pattern: bytes) -> None:
    regex = pcre.compile_pattern(pattern, 0)
    began = time.process_time()
    for text in (b"a" * 19 + b"b", b"a" * 15 + b"b"):
        with contextlib.suppress(pcre.PatternTimeout):
            pcre.search(regex, text)
        with contextlib.suppress(pcre.PatternTimeout):
            pcre.bounded(regex.match, text)
    assert time.process_time() - began < 5.0  # four bounds of 0.1 s, where one match took minutes


def test_there_is_no_limit_in_other_threads() -> None:
    armed: list[float] = []

    def find(text: bytes, place: int) -> None:
        armed.append(signal.getitimer(signal.ITIMER_VIRTUAL)[0])

    thread = threading.Thread(target=pcre.bounded, args=(find, TEXT))
    thread.start()
    thread.join()
    assert armed == [0.0]
    pcre.bounded(find, TEXT)
    assert armed[1] > 0.0


def test_the_search_for_a_location_is_bounded(tmp_path: Path) -> None:
    with Serving(tmp_path, "server { listen 8080; location ~ ^/(a+)+$ { return 204; } }") as serving:
        assert serving.ask(get(TEXT.decode())).status == 500
        assert "PatternTimeout: match limit exceeded" in "\n".join(serving.log.lines)
        assert serving.ask(get("/" + "a" * 60)).status == 204
        assert serving.ask(get("/other" + "b" * 40)).status == 404


def test_the_search_for_a_server_is_bounded(tmp_path: Path) -> None:
    servers = "server { listen 8080; return 204; } server { listen 8080; server_name ~^(a+)+$; return 205; }"
    with Serving(tmp_path, servers) as serving:
        for host, status in (("a" * 60 + "!", 500), ("a" * 60 + "!", 500), ("a" * 60, 205), ("b" * 60, 204)):
            assert serving.ask(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).status == status


def test_a_redirect_s_rewriting_is_bounded(tmp_path: Path) -> None:
    location = "location / { proxy_pass http://10.0.0.1; proxy_redirect ~^/(a+)+$ /mine; }"
    with Serving(tmp_path, f"server {{ listen 8080; {location} }}") as serving:
        for place, status in ((TEXT.decode(), 500), ("/" + "a" * 60, 302), ("/other" + "b" * 40, 302)):
            serving.reply = response(b"", f"Location: {place}", status="302 Found")
            assert serving.ask(get()).status == status
