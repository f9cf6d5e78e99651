"""Sizes and times as nginx reads them (nginx -t was asked for each)."""

from __future__ import annotations

import pytest

from upwell.units import parse_offset, parse_seconds, parse_size, parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("100ms5", 5.1),
        ("5s6", 11.0),
        ("1s1ms", 1.001),
        ("1m 5s", 65.0),
        ("5s ", 5.0),
        ("1w1d1h1m1s1ms", 694_861.001),
        ("106751991167d", 106_751_991_167 * 86_400.0),
    ],
)
def test_a_time(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "m", "1y", "1M", "1m1m", "5ss", "1 m", "5 6s", "106751991168d", "9" * 19])
def test_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}$"):
        parse_time(text)


def test_seconds_go_to_years_and_not_to_milliseconds() -> None:
    assert parse_seconds("1y1M1w1d1h1m1s1") == 34_822_862.0
    assert parse_seconds("9223372036854775807s") == float(1 << 63)
    for text in ("5ms", "1M1y", "9223372036854775808", "9223372036854775807s1"):
        with pytest.raises(ValueError, match=f"^{text}$"):
            parse_seconds(text)


def test_a_size_has_63_bits() -> None:
    assert parse_size("9223372036854775807") == (1 << 63) - 1
    assert parse_offset("8589934591g") == 8_589_934_591 << 30
    for text in ("9223372036854775808", "8589934592g", "9007199254740992k", "99999999999999999999"):
        with pytest.raises(ValueError, match=f"^{text}$"):
            parse_size(text)
        with pytest.raises(ValueError, match=f"^{text}$"):
            parse_offset(text)


def test_only_offsets_go_to_gigabytes() -> None:
    assert parse_offset("1G") == parse_size("1024M") == parse_size("1048576k")
    for text in ("1g", "1G", "g"):
        with pytest.raises(ValueError, match=f"^{text}$"):
            parse_size(text)
