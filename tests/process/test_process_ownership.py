"""What the master gives away is what it means to give: no link of somebody else leads it to another file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.process.stub_master import StubPlan
from upwell.log import ErrorLog
from upwell.process import pidfile
from upwell.process.generation import NotPrepared, make_folders
from upwell.process.journal import Journal, make_folder_of
from upwell.process.ownership import hand_over

_NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@as_root
def test_a_file_and_a_folder_become_the_users(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    (tmp_path / "folder").mkdir()
    for name in ("log", "folder"):
        hand_over(str(tmp_path / name), _NOBODY)
        assert (tmp_path / name).stat().st_uid == _NOBODY
        hand_over(str(tmp_path / name), _NOBODY)


@as_root
def test_our_own_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "log").symlink_to("real")
    hand_over(str(tmp_path / "log"), _NOBODY)
    assert (tmp_path / "real").stat().st_uid == _NOBODY


@as_root
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_of_somebody_else_is_not(tmp_path: Path, is_folder: bool) -> None:
    secret = tmp_path / "secret"
    secret.mkdir() if is_folder else secret.write_text("root's")
    (tmp_path / "log").symlink_to("secret")
    os.lchown(tmp_path / "log", _NOBODY, -1)
    with pytest.raises(PermissionError):
        hand_over(str(tmp_path / "log"), _NOBODY)
    assert secret.stat().st_uid == 0


@as_root
def test_a_file_with_another_name_is_not_given_away(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root's")
    os.link(tmp_path / "secret", tmp_path / "log")
    with pytest.raises(PermissionError):
        hand_over(str(tmp_path / "log"), _NOBODY)
    assert (tmp_path / "secret").stat().st_uid == 0


@as_root
def test_a_pipe_or_device_stays_whose_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    hand_over(str(tmp_path / "log"), _NOBODY)
    assert (tmp_path / "log").stat().st_uid == 0
    hand_over(os.devnull, _NOBODY)
    assert os.stat(os.devnull).st_uid == 0


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hand_over(str(tmp_path / "log"), os.geteuid())


def test_the_pid_file_follows_no_link_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("as it was")
    (tmp_path / "p.pid.4711").symlink_to("victim")
    pidfile.write(str(tmp_path / "p.pid"), 4711)
    assert (tmp_path / "p.pid").read_text() == "4711\n"
    assert (tmp_path / "victim").read_text() == "as it was"


def test_the_folder_for_logs_is_nobody_else_s_to_write(tmp_path: Path) -> None:
    before = os.umask(0)  # as a process may have been started with
    try:
        make_folder_of(str(tmp_path / "logs" / "error.log"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "logs").stat().st_mode) == 0o755


def test_a_file_in_the_place_of_a_folder_is_refused_and_not_given_away(tmp_path: Path) -> None:
    """nginx gives it to the workers' user; -t does the same, and both find nothing wrong."""
    path = tmp_path / "file"
    path.write_text("")
    log = ErrorLog(str(tmp_path / "log"))
    log.open()
    with pytest.raises(NotPrepared):
        make_folders(StubPlan("", (), (), folders=(str(path),)), Journal([log], echo=False), [])
    os.close(log.fd)
    assert path.stat().st_uid == os.geteuid()
    assert f'mkdir() "{path}" failed (17: File exists)' in (tmp_path / "log").read_text()
