"""Request targets as nginx takes them apart, and paths as it escapes them."""

from __future__ import annotations

import pytest

from tests.http1.reading import cases, wire
from upwell.errors import MessageError
from upwell.http1.target import escape_uri, normalise, parse_target

TARGETS = cases("targets")


@pytest.mark.parametrize(("target", "uri", "args", "path", "host"), TARGETS["accepted"])
def test_a_target_is_taken_apart(target: str, uri: str, args: str, path: str, host: str) -> None:
    taken = parse_target(wire(target))
    assert (taken.uri, taken.args, taken.path) == (wire(uri), wire(args), wire(path))
    assert taken.host == (None if host == "-" else wire(host))


@pytest.mark.parametrize("target", TARGETS["refused"])
def test_what_is_no_target_is_400(target: str) -> None:
    with pytest.raises(MessageError) as caught:
        parse_target(wire(target))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("path", "uri"),
    [(b"/a//b", b"/a//b"), (b"//", b"//"), (b"//a", b"//a"), (b"/a//../b", b"/a/b"), (b"/a/./b", b"/a/b")],
)
def test_slashes_stay_where_they_are_told_to(path: bytes, uri: bytes) -> None:
    assert normalise(path, merge_slashes=False) == uri
    assert parse_target(path, merge_slashes=False).uri == uri


@pytest.mark.parametrize(("uri", "escaped"), TARGETS["escaped"])
def test_a_path_is_escaped(uri: str, escaped: str) -> None:
    assert escape_uri(wire(uri)) == wire(escaped)
