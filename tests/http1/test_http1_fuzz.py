"""The fuzzer's short run, and that it would find what it looks for."""

from __future__ import annotations

from random import Random

import pytest

from fuzz import http1


def test_a_second_of_fuzzing_finds_nothing() -> None:
    assert http1.run(1.0, seed=20261122) > 100


def test_the_fuzzer_bites(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(data: bytes, reader: object) -> None:
        raise IndexError

    monkeypatch.setattr(http1, "parse_response_head", careless)
    with pytest.raises(http1.Finding, match="let out IndexError"):
        http1.run(5.0, seed=1)


def test_the_fuzzer_sees_that_h11_reads_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_alike", lambda *_: False)
    with pytest.raises(http1.Finding, match="h11 reads"):
        http1.check(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Random(1))
