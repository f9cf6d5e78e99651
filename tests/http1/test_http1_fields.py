"""Field sections and hosts: what is remembered, joined, framed and left out."""

from __future__ import annotations

import pytest

from tests.http1.reading import cases, wire
from upwell.errors import MessageError
from upwell.http1.fields import FieldReader, check_host

HOSTS = cases("hosts")


@pytest.mark.parametrize(("value", "name", "port"), HOSTS["accepted"])
def test_a_host_has_a_name_and_a_port(value: str, name: str, port: str) -> None:
    assert check_host(wire(value)) == (wire(name), wire(port))


@pytest.mark.parametrize("value", HOSTS["refused"])
def test_what_is_no_host_is_400(value: str) -> None:
    with pytest.raises(MessageError) as caught:
        check_host(wire(value))
    assert caught.value.status == 400


def test_several_lines_of_one_name_are_joined_in_their_order() -> None:
    section = FieldReader().read(b"X: 1\r\nCookie: a=b\r\nx: 2\r\nCookie: c=d\r\nX: 3\r\n")
    assert section.values == {b"x": b"1, 2, 3", b"cookie": b"a=b; c=d"}
    assert len(section.fields) == 5


def test_connection_says_who_goes_no_further() -> None:
    section = FieldReader().read(b"Connection: close, X-A\r\nX-A: 1\r\nx-a: 2\r\nX-B: 3\r\nTE: x\r\n")
    assert section.close
    assert not section.keep_alive
    assert section.wires_without(frozenset()) == [b"Connection: close, X-A\r\n", b"X-B: 3\r\n", b"TE: x\r\n"]
    assert section.wires_without(frozenset((b"te", b"connection"))) == [b"X-B: 3\r\n"]


@pytest.mark.parametrize(
    ("value", "close", "keep_alive"),
    [
        (b"close", True, False),
        (b"CLOSE", True, False),
        (b" , close ,, ", True, False),
        (b"keep-alive", False, True),
        (b"Keep-Alive, close", True, False),
        (b"closed", False, False),
        (b"not-close", False, False),
        (b"", False, False),
    ],
)
def test_connection_is_a_list(value: bytes, close: bool, keep_alive: bool) -> None:
    section = FieldReader().read(b"Connection: " + value + b"\r\n")
    assert (section.close, section.keep_alive) == (close, keep_alive)


def test_bytes_that_return_give_the_same_section_but_other_bytes_never() -> None:
    reader = FieldReader()
    assert reader.read(b"X: 1\r\n").values == {b"x": b"1"}
    one = reader.read(b"X: 1\r\n")
    assert reader.read(b"X: 1\r\n") is one
    assert reader.read(b"X: 2\r\n").values == {b"x": b"2"}
    assert reader.read(b"x: 1\r\n").wires == (b"x: 1\r\n",)


def test_the_memory_is_bounded_and_forgetting_changes_nothing() -> None:
    reader = FieldReader()
    for number in range(10_000):
        assert reader.read(b"X: %d\r\nY: %d\r\n" % (number, number)).values[b"x"] == b"%d" % number
    assert len(reader._sections) <= 1024
    assert len(reader._lines) <= 4096
    large = b"X: " + b"x" * 4000 + b"\r\n"
    assert reader.read(large).values[b"x"] == b"x" * 4000
    assert large not in reader._sections


def test_a_bad_line_is_bad_however_often_it_comes() -> None:
    reader = FieldReader()
    for _ in range(3):
        with pytest.raises(MessageError):
            reader.read(b"X : y\r\n")
        with pytest.raises(MessageError):
            reader.read(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")


def test_a_line_has_a_length_and_whoever_reads_says_the_status() -> None:
    line = b"X: " + b"x" * 97
    assert FieldReader(max_line=100).read(line + b"\r\n").fields
    for status in (494, 400):
        with pytest.raises(MessageError) as caught:
            FieldReader(max_line=99, too_large=status).read(line + b"\r\n")
        assert caught.value.status == status
