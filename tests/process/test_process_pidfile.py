"""The pid file is whole or not there, and only its owner removes it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from upwell.process import pidfile


def test_write_read_remove(tmp_path: Path) -> None:
    path = tmp_path / "p.pid"
    path.write_text("stale and much longer than a number")
    pidfile.write(str(path), 4711)
    assert path.read_text() == "4711\n"
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert pidfile.read(str(path)) == 4711
    assert os.listdir(tmp_path) == ["p.pid"]
    pidfile.remove(str(path), 4711)
    assert os.listdir(tmp_path) == []
    pidfile.remove(str(path), 4711)


def test_another_masters_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "p.pid"
    pidfile.write(str(path), 1)
    pidfile.remove(str(path), 2)
    assert path.exists()


def test_a_link_or_device_is_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("")
    link.symlink_to(target)
    pidfile.write(str(link), 7)
    pidfile.remove(str(link), 7)
    assert link.is_symlink()
    assert target.read_text() == "7\n"
    pidfile.write(os.devnull, 7)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pidfile.write(str(tmp_path / "no" / "p.pid"), 1)
    with pytest.raises(FileNotFoundError):
        pidfile.check(str(tmp_path / "no" / "p.pid"))


def test_check_leaves_things_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "p.pid"
    pidfile.check(str(path))
    assert not path.exists()
    path.write_text("1\n")
    pidfile.check(str(path))
    assert path.read_text() == "1\n"


@pytest.mark.parametrize("content", ["", "x", "-1\n", "0\n", "00", "1 2\n", "99999999999999999999\n"])
def test_what_is_no_pid(tmp_path: Path, content: str) -> None:
    path = tmp_path / "p.pid"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{content.strip()}$"):
        pidfile.read(str(path))
