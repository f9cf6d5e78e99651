"""Which files Lua code came from: told of whatever loads them, written down, and compared with what is there later."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lua.conftest import Worker
from upwell.lua.loaded import LoadedFiles, list_of, unchanged


@pytest.mark.parametrize("how", ['require("one")', 'dofile("{path}")', 'loadfile("{path}")()'])
def test_every_way_to_load_a_file_is_told_of(tmp_path: Path, how: str) -> None:
    path = tmp_path / "one.lua"
    path.write_text('return "one"')
    worker = Worker(f"{tmp_path}/?.lua;;")
    assert worker.loaded == []
    assert worker.say(how.replace("{path}", str(path))) == "one"
    assert worker.loaded == [str(path)]


def test_modules_of_upwell_are_no_files() -> None:
    worker = Worker()
    assert worker.say('type(require("resty.upstream.healthcheck"))') == "table"
    assert worker.loaded == []


def test_a_module_that_is_missing_is_missed_as_ever() -> None:
    worker = Worker("/nowhere/?.lua")
    assert worker.say('(select(2, pcall(require, "gone")))').startswith("module 'gone' not found:")
    assert worker.say('select(2, loadfile("/nowhere/gone.lua"))').startswith("cannot open /nowhere/gone.lua")
    assert worker.loaded == ["/nowhere/gone.lua"]


def test_a_list_is_true_until_a_file_changes(tmp_path: Path) -> None:
    path = list_of(str(tmp_path), 3)
    assert unchanged(path)
    one, two = tmp_path / "one.lua", tmp_path / "two.lua"
    one.write_text("1")
    two.write_text("1")
    LoadedFiles(path).add(str(one))
    other = LoadedFiles(path)
    other.add(str(one))
    other.add(str(two))
    other.add(str(two))
    assert len(Path(path).read_text().splitlines()) == 2
    assert unchanged(path)
    one.write_text("2 2")
    assert not unchanged(path)
    # A worker that loads it now does not make the others' code newer.
    LoadedFiles(path).add(str(one))
    assert not unchanged(path)
    assert unchanged(list_of(str(tmp_path), 4))


def test_a_file_that_goes_or_comes_has_changed(tmp_path: Path) -> None:
    path = list_of(str(tmp_path), 1)
    file = tmp_path / "one.lua"
    LoadedFiles(path).add(str(file))
    assert unchanged(path)
    file.write_text("1")
    assert not unchanged(path)


@pytest.mark.parametrize("content", ["nonsense", "[]", "[1]", "{}", "null"])
def test_nonsense_in_a_list_is_no_proof(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list"
    path.write_text(f"{content}\n")
    assert not unchanged(str(path))


def test_all_workers_may_write_whoever_was_first(tmp_path: Path) -> None:
    path = list_of(str(tmp_path), 1)
    LoadedFiles(path).add("/a")
    assert os.stat(path).st_mode & 0o777 == 0o666


def test_a_folder_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    files = LoadedFiles(list_of(str(tmp_path / "gone"), 1))
    files.add("/a")
    files.add("/a")
