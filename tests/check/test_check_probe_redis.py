"""The redis probe: only PONG passes, and everything else is told in the server's own words."""

from __future__ import annotations

import pytest

from tests.check.talking import talk, told, why
from upwell.check.probes.redis import RedisProbe
from upwell.check.spec import PLUS, CheckSpec


@pytest.fixture
def probe() -> RedisProbe:
    return RedisProbe(CheckSpec("u", "redis", dialect=PLUS), "r:6379")


def test_ping_and_pong(probe: RedisProbe) -> None:
    assert talk(probe, b"+PONG\r\n") == (b"*1\r\n$4\r\nPING\r\n", (True, "", "", 0, "", b""))
    assert told(probe, b"+PONG\r\n").passed


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"-NOAUTH Authentication required.\r\n", "status: NOAUTH Authentication required."),
        (
            b"-LOADING Redis is loading the dataset in memory\r\n",
            "status: LOADING Redis is loading the dataset in memory",
        ),
        (b"-\r\n", "status: an error without words"),
        (b"-ERR \x1b[2J\r\n", "status: ERR \\x1B[2J"),
        (b"+OK\r\n", 'protocol: reply "OK" to PING, want "PONG"'),
        (b"+PONG \r\n", 'protocol: reply "PONG " to PING, want "PONG"'),
        (b"HTTP/1.1 400 Bad Request\r\n", 'protocol: not Redis: the reply begins with "H"'),
        (b"+PONG\n", "closed: connection closed before the reply to PING"),
        (b"+PON", "closed: connection closed before the reply to PING"),
        (b"", "closed: connection closed before the reply to PING"),
        (b"+" + b"x" * 1022 + b"\r\n", "protocol: reply to PING too long"),
        (b"+" + b"x" * 5000, "protocol: reply to PING too long"),
    ],
)
def test_each_way_to_fail(probe: RedisProbe, answer: bytes, words: str) -> None:
    assert why(probe, answer) == words


def test_the_longest_words_are_cut(probe: RedisProbe) -> None:
    assert len(why(probe, b"-" + b"x" * 1000 + b"\r\n")) < 180


def test_a_connection_is_kept_unless_more_came_than_was_asked_for(probe: RedisProbe) -> None:
    def kept(answer: bytes, again: bool = False) -> tuple[bool, bool]:
        return talk(probe, answer, again=again)[1].passed, probe.reusable

    assert kept(b"+PONG\r\n") == (True, True)
    assert kept(b"+PONG\r\n", again=True) == (True, True)
    assert kept(b"+PONG\r\n+PONG\r\n") == (True, False)
    assert kept(b"-NOAUTH\r\n") == (False, False)
