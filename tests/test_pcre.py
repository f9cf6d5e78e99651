"""The bound on a match: a bad pattern ends in time, a good one is let alone, and no alarm outlives its match."""

from __future__ import annotations

import re
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from upwell import pcre
from upwell.config.template import Template
from upwell.modules.proxy import Redirect
from upwell.modules.server import ServerName
from upwell.runtime.locations import Level, Locations, Place
from upwell.runtime.proxying import _redirect
from upwell.runtime.servers import Names

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


def test_the_search_for_a_location_is_bounded() -> None:
    bad = Place("~", b"^/(a+)+$", BAD, cast(Any, "bad"))
    locations = Locations(Level.of([bad]), cast(Any, "default"))
    with pytest.raises(pcre.PatternTimeout):
        locations.match(cast(Any, SimpleNamespace(uri=TEXT)))
    other: Any = locations.match(cast(Any, SimpleNamespace(uri=b"/other" + b"b" * 40)))
    assert other == "default"


def test_the_search_for_a_server_is_bounded() -> None:
    names = Names(cast(Any, "default"))
    names.add(ServerName("regex", "^/(a+)+$", BAD), cast(Any, "bad"))
    for _ in range(2):
        with pytest.raises(pcre.PatternTimeout):
            names.match(cast(Any, SimpleNamespace(host=TEXT)))


def test_a_redirect_s_rewriting_is_bounded() -> None:
    rewrite = _redirect(Redirect(None, BAD, Template(("/mine",))))
    with pytest.raises(pcre.PatternTimeout):
        rewrite(cast(Any, SimpleNamespace(match=None)), TEXT)
