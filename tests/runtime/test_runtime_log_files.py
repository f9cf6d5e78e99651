"""Access-log files that take less than they are given: full disks and pipes. No line is torn, and nobody waits."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.wire.joined import Log, Loop
from upwell.runtime.logs import AccessLogFile

_F_SETPIPE_SZ = 1031


def _line(number: int, size: int = 100) -> bytes:
    return b"%06d " % number + b"x" * (size - 8) + b"\n"


class Opened:
    """One access log on a loop whose clock stands still, with its error log."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.loop = Loop()
        self.log = Log()
        self.file = AccessLogFile(str(path), **settings)
        self.file.open()
        self.file.use(cast("Any", self.loop), self.log)

    def write(self, *lines: bytes) -> None:
        for line in lines:
            self.file.write(line)
        self.loop.run()


@contextmanager
def _no_file_larger_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A FIFO that takes one page, and the descriptor of its reader."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, _F_SETPIPE_SZ, 4096)
    yield path, reader
    os.close(reader)


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 20)
    except BlockingIOError:
        return b""


def test_a_disk_that_fills_up_in_the_middle_of_a_line_gets_the_rest_of_it_first(tmp_path: Path) -> None:
    path = tmp_path / "log"
    opened = Opened(path)
    with _no_file_larger_than(250):
        opened.write(_line(1), _line(2), _line(3), _line(4))
        assert path.read_bytes() == (_line(1) + _line(2) + _line(3))[:250]
        opened.write(_line(5))
        opened.write(_line(6))
        assert opened.file.lost == 3
    opened.write(_line(7))
    assert path.read_bytes() == _line(1) + _line(2) + _line(3) + _line(7)
    opened.write(_line(8))
    assert path.read_bytes().endswith(_line(7) + _line(8))
    # Said once, and once more that it is over.
    assert opened.log.lines == [
        f'write() to "{path}" failed (27: File too large)',
        f'"{path}" takes lines again, 3 were lost',
    ]


def test_a_disk_that_is_full_between_two_lines_loses_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / "log"
    opened = Opened(path)
    with _no_file_larger_than(200):
        opened.write(_line(1), _line(2))
        opened.write(_line(3))
    opened.write(_line(4))
    assert path.read_bytes() == _line(1) + _line(2) + _line(4)
    assert opened.file.lost == 1


def test_the_rest_of_a_line_does_not_go_into_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    opened = Opened(path)
    with _no_file_larger_than(150):
        opened.write(_line(1), _line(2), _line(3))
        path.rename(tmp_path / "old")
        opened.file.reopen()
    opened.write(_line(4))
    assert path.read_bytes() == _line(4)
    assert (tmp_path / "old").read_bytes() == (_line(1) + _line(2))[:150]


def test_a_slow_reader_of_a_pipe_gets_every_line_whole(pipe: tuple[Path, int]) -> None:
    path, reader = pipe
    opened = Opened(path)
    sent = [_line(number) for number in range(1000)]
    got = b""
    for at in range(0, len(sent), 7):
        opened.write(*sent[at : at + 7])
        if at % 5 == 0:
            got += _read(reader)
            opened.loop.advance(0.1)
    while more := _read(reader):
        got += more
        opened.loop.advance(0.2)
    assert got == b"".join(sent)
    assert (opened.file.lost, opened.log.lines) == (0, [])


def test_a_line_longer_than_a_pipe_takes_at_once_is_whole_too(pipe: tuple[Path, int]) -> None:
    path, reader = pipe
    opened = Opened(path)
    sent = [_line(1, 3000), _line(2, 9000), _line(3)]
    opened.write(*sent)
    got = b""
    while more := _read(reader):
        got += more
        opened.loop.advance(0.2)
    assert got == b"".join(sent)


def test_a_reader_of_a_pipe_that_stops_costs_lines_but_no_more_memory(pipe: tuple[Path, int]) -> None:
    path, reader = pipe
    opened = Opened(path)
    for number in range(30_000):
        opened.write(_line(number))
        if number % 1000 == 0:
            opened.loop.advance(0.1)
    opened.loop.advance(0.1)
    assert len(opened.file._rest) <= 1 << 20
    assert opened.file.lost > 19_000
    assert opened.log.lines == [f'write() to "{path}" failed (11: Resource temporarily unavailable)']
    got = b""
    while more := _read(reader):
        got += more
        opened.loop.advance(0.2)
    assert {len(line) for line in got.splitlines(keepends=True)} == {100}
    assert got.startswith(_line(0) + _line(1))


def test_a_pipe_without_a_reader_stops_nobody(pipe: tuple[Path, int]) -> None:
    path, reader = pipe
    opened = Opened(path)
    second = os.dup(reader)
    os.close(reader)
    os.close(second)
    opened.write(_line(1))
    opened.write(_line(2))
    assert opened.file.lost == 2
    assert opened.log.lines == [f'write() to "{path}" failed (32: Broken pipe)']
    os.dup2(os.open("/dev/null", os.O_RDONLY), reader)  # for the fixture to close


def test_a_buffered_log_keeps_its_lines_whole_as_well(tmp_path: Path) -> None:
    path = tmp_path / "log"
    opened = Opened(path, buffer=1000, flush=5.0)
    with _no_file_larger_than(550):
        opened.write(*(_line(number) for number in range(10)))
        assert path.stat().st_size == 550
    opened.write(_line(10))
    opened.loop.advance(6)
    assert path.read_bytes() == b"".join(_line(number) for number in (0, 1, 2, 3, 4, 5, 10))
