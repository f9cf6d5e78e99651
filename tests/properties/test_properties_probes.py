"""Every probe of a protocol of its own, against hostile bytes: always bytes or a verdict, the same however they are
cut, and never more kept than a bound."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from h2.settings import SettingCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.check.test_check_probe_fastcgi import response as fastcgi
from tests.check.test_check_probe_grpc import Server as GrpcServer
from tests.check.test_check_probe_mysql import DENIED, greeting
from tests.check.test_check_probe_postgres import NOBODY, SASL
from tests.check.test_check_probe_ssl_hello import HELLO
from upwell.check.probe import KINDS, Idling, Probe, Verdict
from upwell.check.probes import PROBES
from upwell.check.spec import PLUS, TENGINE, CheckSpec

BOUND = 1 << 17
"""Bytes that a probe may hold of what it was sent."""


def grpc() -> bytes:
    server, probe = GrpcServer(), made("grpc", 0.0)
    first = probe.open()
    assert isinstance(first, bytes)
    return server.take(first)


ANSWERS: dict[str, Callable[[], bytes]] = {
    "ajp": lambda: b"AB\0\1\x09",
    "fastcgi": lambda: fastcgi(stderr=b"note", padding=3),
    "grpc": grpc,
    "mysql": lambda: greeting() + DENIED,
    "postgres": lambda: NOBODY + SASL,
    "redis": lambda: b"-LOADING Redis\r\n+PONG\r\n",
    "ssl_hello": lambda: HELLO,
}


def made(name: str, keep: float) -> Probe:
    dialect = TENGINE if name in ("ajp", "fastcgi", "ssl_hello") else PLUS
    return PROBES[name](CheckSpec("u", name, dialect=dialect, keepalive_time=keep), "app:1")


def result(probe: Probe, pieces: list[bytes]) -> Verdict | None:
    """The first verdict on `pieces`; None if they were not enough for one."""
    answer = probe.open()
    for piece in pieces:
        if isinstance(answer, Verdict):
            break
        answer = probe.feed(piece)
        held = sum(len(value) for value in attributes(probe) if isinstance(value, bytes))
        assert held < BOUND
    if not isinstance(answer, Verdict):
        return None
    assert answer.passed == (answer.kind == "") == (answer.why == "")
    assert answer.passed or answer.kind in KINDS
    assert len(answer.why) < 240
    assert answer.why.isprintable()
    return answer


def attributes(probe: Probe) -> list[object]:
    return [getattr(probe, name) for name in getattr(type(probe), "__slots__", ())]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in cuts} | {0, len(data)})
    return [data[low:high] for low, high in itertools.pairwise(places)]


edits = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from(("set", "cut", "insert")), st.binary(max_size=6)), max_size=4
)
cuts = st.lists(st.integers(0, 400), max_size=8)


def edited(data: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    for place, how, content in changes:
        at = place % (len(data) + 1)
        gone = len(content) if how != "insert" else 0
        data = data[:at] + (b"" if how == "cut" else content) + data[at + gone :]
    return data


every = pytest.mark.parametrize("name", sorted(ANSWERS))
keeps = st.sampled_from((0.0, 60.0))


def test_all_that_are_not_about_http_are_here() -> None:
    assert set(ANSWERS) >= set(PROBES) - {"http", "https", "tcp", "tls"}


@every
@given(data=st.binary(max_size=400), cuts=cuts, keep=keeps)
def test_random_bytes(name: str, data: bytes, cuts: list[int], keep: float) -> None:
    probe = made(name, keep)
    whole = result(probe, [data] if data else [])
    assert result(probe, cut(data, cuts)) == whole
    # The end is always one.
    assert result(probe, [*cut(data, cuts), b""]) is not None


@every
@given(changes=edits, cuts=cuts, keep=keeps)
@settings(max_examples=300)
def test_answers_that_are_a_little_wrong(
    name: str, changes: list[tuple[int, str, bytes]], cuts: list[int], keep: float
) -> None:
    data = edited(ANSWERS[name](), changes)
    probe = made(name, keep)
    whole = result(probe, [data] if data else [])
    pieces = result(probe, cut(data, cuts))
    if name == "grpc" and keep:
        # What the probe owes the server when it ends depends on what it could pay before.
        assert (whole and whole._replace(farewell=b"")) == (pieces and pieces._replace(farewell=b""))
    else:
        assert pieces == whole
    assert result(probe, [*cut(data, cuts), b""]) is not None


@every
@given(seed=st.binary(min_size=1, max_size=40))
@settings(max_examples=30)
def test_an_endless_answer_is_not_kept(name: str, seed: bytes) -> None:
    piece = seed * (8192 // len(seed))
    result(made(name, 60.0), [ANSWERS[name]()[:-1]] + [piece] * 160)
    result(made(name, 60.0), [piece] * 160)


@given(changes=edits, cuts=cuts)
def test_whatever_comes_on_a_kept_connection_nothing_is_raised(
    changes: list[tuple[int, str, bytes]], cuts: list[int]
) -> None:
    server, probe = GrpcServer(), made("grpc", 60.0)
    assert isinstance(probe, Idling)
    first = probe.open()
    assert isinstance(first, bytes)
    verdict = probe.feed(server.take(first))
    assert isinstance(verdict, Verdict)
    server.take(verdict.farewell)
    server.conn.ping(b"12345678")
    server.conn.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 7})
    for piece in cut(edited(server.conn.data_to_send(), changes), cuts):
        answer = probe.idle(piece)
        if answer is None:
            return
    # It may be asked again on what is left, and then too there is bytes or a verdict.
    assert probe.again()
    assert isinstance(probe.feed(ANSWERS["grpc"]()), bytes | Verdict)
