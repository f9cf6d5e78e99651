"""Passwords against the lines of a user file, the file itself, and that nobody waits for somebody else's hash."""

from __future__ import annotations

import asyncio
import hmac
import os
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from upwell.modules import passwords
from upwell.modules.aside import Aside
from upwell.modules.passwords import Known, NoCrypt, is_slow, matches
from upwell.modules.user_file import UserFiles
from upwell.proxy.exchange import Exchange

_LINES = {
    "plain": b"{PLAIN}secret",
    "sha": b"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
    "ssha": b"{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0",
    "apr1": b"$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0",
    "md5": b"$1$saltsalt$9xy1btjgzLYfb7hivXtC//",
    "sha256": b"$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA",
    "sha512": b"$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1",
    "bcrypt": b"$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
    "des": b"abNANd1rDfiNc",
}


@pytest.mark.parametrize("line", _LINES.values(), ids=_LINES)
def test_only_the_right_password_matches(line: bytes) -> None:
    assert matches(b"secret", line)
    for wrong in (b"", b"secre", b"Secret", b"secret ", line):
        assert not matches(wrong, line)
    assert is_slow(line) == line.startswith((b"$", b"ab"))


@pytest.mark.parametrize(
    "line", [b"secret", b"", b"*", b"!", b"*0", b"*1", b"x", b"$", b"$9$x$y", b"{SSHA}secret", b"{MD5}"]
)
def test_what_is_no_hash_matches_nothing(line: bytes) -> None:
    for password in (b"secret", b"", line, b"*0", b"*1", b"*"):
        with suppress(NoCrypt):  # a libcrypt that answers nothing for what it does not know: a 500
            assert not matches(password, line)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to hold it against")
def test_apr1_is_openssl_s() -> None:
    for salt in ("a", "saltsalt"):
        for password in ("", "x", "0123456789abcdef", "a long one " * 7, "\u00fcber"):
            done = subprocess.run(
                ["openssl", "passwd", "-apr1", "-salt", salt, password], capture_output=True, check=True, timeout=60
            )
            assert matches(password.encode(), done.stdout.strip()), (salt, password)


def test_comparing_goes_through_compare_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def compare(one: bytes, other: bytes) -> bool:
        asked.append(one)
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for line in _LINES.values():
        assert not matches(b"secret", line)
    assert len(asked) == len(_LINES)


def test_known_is_of_password_and_line_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Known()
    known.add(b"secret", b"line")
    assert (b"secret", b"line") in known
    assert (b"secret", b"other") not in known
    assert (b"other", b"line") not in known
    assert (b"esecret", b"lin") not in known
    assert (b"secret", b"line") not in Known()
    monkeypatch.setattr(passwords, "_MOST_KNOWN", 2)
    known.add(b"1", b"line")
    assert (b"secret", b"line") in known  # used last
    known.add(b"2", b"line")
    assert (b"1", b"line") not in known
    assert (b"secret", b"line") in known


def test_a_file_is_read_again_when_it_is_another(tmp_path: Path) -> None:
    files, path = UserFiles(), tmp_path / "users"
    name = os.fsencode(path)
    with pytest.raises(FileNotFoundError):
        files.users(name)
    path.write_bytes(b"one:1\n")
    assert files.users(name) == {b"one": b"1"}
    path.write_bytes(b"two:2\n")  # as long, maybe within one tick of the clock
    assert files.users(name) == {b"two": b"2"}
    (tmp_path / "new").write_bytes(b"six:6\n")
    (tmp_path / "new").rename(path)
    assert files.users(name) == {b"six": b"6"}
    path.unlink()
    with pytest.raises(FileNotFoundError):
        files.users(name)


def test_a_settled_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = UserFiles(), tmp_path / "users"
    path.write_bytes(b"one:1\n")
    later = time.time_ns() + 60_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    first = files.users(os.fsencode(path))
    assert files.users(os.fsencode(path)) is first
    os.utime(path, (1, 1))
    assert files.users(os.fsencode(path)) is not first


class _Waiting:
    """As much of an exchange as `Aside` knows."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.client = SimpleNamespace(loop=loop)
        self.abortable = False
        self.done = asyncio.Event()
        self.steps: Any = None
        self.result: object = None

    def start(self, coro: Any) -> None:
        self.steps = coro.__await__()
        self.resume()

    def resume(self) -> None:
        try:
            next(self.steps)
        except StopIteration as end:
            self.result = end.value
            self.done.set()
        except ValueError as error:
            self.result = error
            self.done.set()


def test_others_go_on_while_a_hash_is_made() -> None:
    async def go() -> None:
        aside, loop = Aside(), asyncio.get_running_loop()
        held, slow, quick, failing = threading.Event(), _Waiting(loop), _Waiting(loop), _Waiting(loop)

        def fail() -> None:
            raise ValueError("wrong")

        slow.start(aside.run(cast("Exchange", slow), held.wait))
        assert slow.abortable
        quick.start(aside.run(cast("Exchange", quick), lambda: "quick"))
        await quick.done.wait()  # the loop turns, and so does the other thread
        failing.start(aside.run(cast("Exchange", failing), fail))
        await failing.done.wait()
        assert (quick.result, str(failing.result), slow.done.is_set()) == ("quick", "wrong", False)
        held.set()
        await slow.done.wait()
        assert slow.result is True
        assert not slow.abortable

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_client_that_left_is_not_resumed() -> None:
    async def go() -> None:
        aside, loop = Aside(), asyncio.get_running_loop()
        held, gone, other = threading.Event(), _Waiting(loop), _Waiting(loop)
        gone.start(aside.run(cast("Exchange", gone), held.wait))
        gone.steps.close()
        held.set()
        other.start(aside.run(cast("Exchange", other), lambda: None))
        await other.done.wait()
        assert not gone.done.is_set()

    asyncio.run(asyncio.wait_for(go(), 60))
