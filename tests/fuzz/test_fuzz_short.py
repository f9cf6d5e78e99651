"""Each fuzzer's short run, the same cases each time; and that each fuzzer would find what it looks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

from fuzz import __main__ as command
from fuzz import configuration, framing, heads
from fuzz.running import Finding, Found, mutant, once, pieces, run
from tests.wire.joined import response
from upwell.errors import ConfigError, ConfigErrors, MessageError
from upwell.http1 import head
from upwell.http1.framing import ChunkedReader
from upwell.http1.syntax import FIELD_LINE
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.upstream import UpstreamConnection

_CASES = {"heads": 4_000, "framing": 500, "configuration": 300}
_SEED = 20261122


@pytest.mark.parametrize("name", command.FUZZERS)
def test_a_short_run_finds_nothing(name: str) -> None:
    assert run(command.FUZZERS[name], _SEED, cases=_CASES[name]) == _CASES[name]


@pytest.mark.parametrize("name", command.FUZZERS)
def test_a_run_is_bounded_by_time_and_says_what_it_did(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([name, "--seconds", "0.05", "--seed", "1"]) == 0
    done = re.fullmatch(rf"{name}: seed 1, (\d+) cases: nothing found\n", capsys.readouterr().out)
    assert done is not None
    assert int(done[1]) > 0


def test_a_finding_names_the_case_to_have_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_at_times(random: Random) -> None:
        if random.randrange(20) == 0:
            raise Finding("a rule", b"data")

    monkeypatch.setitem(command.FUZZERS, "heads", fails_at_times)
    assert command.main(["heads", "--seconds", "5", "--seed", "3"]) == 1
    again = re.search(r"^again: python -m fuzz (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert again is not None
    assert command.main(again[1].split()) == 1
    assert "a rule: b'data'" in capsys.readouterr().out


def test_a_name_that_is_no_fuzzer_is_refused() -> None:
    with pytest.raises(SystemExit):
        command.main(["nonsense"])


def test_mutants_differ_and_pieces_are_the_whole() -> None:
    random = Random(1)
    made = {mutant(random, b"GET / HTTP/1.1\r\n\r\n", (b"x", b"\r\n")) for _ in range(200)}
    assert len(made) > 100
    for data in made:
        assert b"".join(pieces(random, data)) == data


# What they look for: a fault is put into upwell, and the fuzzer must come upon it.

puts_a_fault_in = pytest.mark.pure_only(reason="compiled functions call each other straight: no fault can be put in")


@contextmanager
def _found(match: str) -> Iterator[None]:
    with pytest.raises(Found, match=match):
        yield


def test_heads_finds_another_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(data: bytes, reader: object) -> None:
        raise IndexError

    monkeypatch.setattr(heads, "parse_response_head", careless)
    with _found("let out IndexError"):
        run(heads.case, _SEED, cases=100)


@puts_a_fault_in
def test_heads_finds_a_blank_before_the_colon(monkeypatch: pytest.MonkeyPatch) -> None:
    loose = FIELD_LINE.pattern.replace(rb"):[ \t]*", rb")[ \t]*:[ \t]*", 1)
    monkeypatch.setattr("upwell.http1.fields.FIELD_LINE", re.compile(loose))
    with _found("h11"):
        run(heads.case, _SEED, cases=20_000)


@puts_a_fault_in
def test_heads_finds_a_memory_that_mixes_heads_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(dict[bytes, object]):
        def get(self, key: bytes, default: object = None) -> object:
            return super().get(key[:16], default)

        def __setitem__(self, key: bytes, value: object) -> None:
            super().__setitem__(key[:16], value)

    for reader in (*heads._REQUEST_READERS, heads._RESPONSE_READER):
        monkeypatch.setattr(reader, "heads", Forgetful())
    with _found("depends on its cuts or on memory"):
        run(heads.case, _SEED, cases=2_000)


@puts_a_fault_in
def test_heads_finds_a_reading_that_depends_on_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_check_partial", lambda *_: (_ for _ in ()).throw(MessageError(400, "impatient")))
    with _found("depends on its cuts or on memory"):
        run(heads.case, _SEED, cases=2_000)


@puts_a_fault_in
def test_framing_finds_a_connection_that_is_kept_with_something_behind_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    relayed = UpstreamConnection._pass_on

    def careless(connection: UpstreamConnection, data: bytes) -> bool:
        done = relayed(connection, data)
        connection.reusable = done
        return done

    monkeypatch.setattr(UpstreamConnection, "_pass_on", careless)
    with _found("kept though the answer did not end cleanly|outlives"):
        run(framing.case, _SEED, cases=2_000)


@puts_a_fault_in
def test_framing_finds_a_chunk_that_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = ChunkedReader.feed

    def careless(reader: ChunkedReader, data: bytes) -> tuple[bytes, bytes | None]:
        try:
            return feed(reader, data)
        except MessageError:
            reader.complete = True
            return b"", b""

    monkeypatch.setattr(ChunkedReader, "feed", careless)
    with _found("Finding"):
        run(framing.case, _SEED, cases=2_000)


@puts_a_fault_in
def test_framing_finds_an_answer_that_is_taken_for_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = UpstreamConnection.connection_lost

    def careless(connection: UpstreamConnection, error: Exception | None) -> None:
        exchange = connection.exchange
        if exchange is not None and exchange.head_sent:
            connection.close()
            exchange.resume()
        else:
            lost(connection, error)

    monkeypatch.setattr(UpstreamConnection, "connection_lost", careless)
    with _found("takes .* for complete"):
        run(framing.case, _SEED, cases=2_000)


@puts_a_fault_in
def test_framing_finds_a_connection_that_lives_on_after_an_early_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    give = Keepalive.give

    def careless(pool: Keepalive, connection: UpstreamConnection) -> None:
        connection.reusable = connection.reusable or not connection._content_sent
        give(pool, connection)

    monkeypatch.setattr(Keepalive, "give", careless)
    with _found("outlives an answer to a part of a request"):
        run(framing.case, _SEED, cases=2_000)


def test_framing_lets_good_messages_pass() -> None:
    """Else it would be no wonder that it finds nothing."""
    random = Random(1)
    for data in framing._RESPONSES:
        for method in ("GET", "HEAD"):
            message, rest = framing.read_response(data, method, True)
            assert message is not None
            assert message.complete
            assert rest == b"" or method == "HEAD" or message.start == (b"204",)
        framing.check_response(data, random)
    whole = b"".join(framing._REQUESTS)
    messages, judged = framing.read_requests(whole)
    assert judged
    assert [message.complete for message in messages] == [True] * len(framing._REQUESTS)
    framing.check_requests(whole, random)


def test_framing_is_not_content_with_an_answer_to_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "response", lambda *_, **__: response(b"another"))
    with pytest.raises(Finding):
        framing.check_requests(framing._REQUESTS[0], Random(1))


def test_configuration_finds_another_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*_: object, **__: object) -> None:
        raise KeyError("settings")

    monkeypatch.setattr(configuration, "load", careless)
    with _found("let out KeyError"):
        once(configuration.case, 1, 1)


def test_configuration_finds_an_error_without_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def placeless(*_: object, **__: object) -> None:
        raise ConfigErrors([ConfigError("somewhere")])

    monkeypatch.setattr(configuration, "load", placeless)
    with _found("without a place"):
        once(configuration.case, 1, 1)


def test_configuration_finds_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(*_: object, **__: object) -> None:
        while True:
            pass

    monkeypatch.setattr(configuration, "load", endless)
    monkeypatch.setattr(configuration, "_PATIENCE", 0.05)
    with _found("not done in"):
        once(configuration.case, 1, 1)


@pytest.mark.parametrize("text", [b"events {}\nerror_log a\0b;\n", b"events {}\nhttp { lua_package_path 'a\0'; }\n"])
def test_nul_is_refused_with_its_place(text: bytes) -> None:
    """It was the first finding: a path with NUL is a ValueError to open()."""
    configuration.check(text)
    configuration.check(text.replace(b"\0", b""))
