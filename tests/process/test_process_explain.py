"""`upwell explain`: what it says of every dialect (tests/cases/explain), and how it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CASES = Path(__file__).parents[1] / "cases" / "explain"
_BAD = "events {}\nhttp { server { location / { health_check; } } }\n"
_GOOD = "events {}\nhttp { upstream app { server 127.0.0.1:81; } }\n"


def explain(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "upwell", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


@pytest.mark.parametrize("path", sorted(_CASES.glob("*.conf")), ids=lambda path: path.stem)
def test_what_is_said_is_as_written_down(path: Path) -> None:
    done = explain(str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == path.with_suffix(".txt").read_text()


def test_lua_code_that_fails_says_so_and_the_rest_is_explained() -> None:
    done = explain(str(_CASES / "lua_fails.conf"))
    assert done.returncode == 0
    assert "attempt to concatenate a nil value" in done.stderr
    assert "check: http GET /" in done.stdout


def test_errors_are_told_as_by_the_test_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "bad.conf").write_text(_BAD)
    done = explain("bad.conf", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f'nginx: [emerg] "health_check" must be in a location with "proxy_pass" in {tmp_path}/bad.conf:2:30',
        f"nginx: configuration file {tmp_path}/bad.conf test failed",
    ]


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = explain("nosuch.conf", cwd=tmp_path)
    assert done.returncode == 1
    assert f'open() "{tmp_path}/nosuch.conf" failed (2: No such file or directory)' in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["conf/nginx.conf"], ["-p", "PREFIX"], ["-p", "PREFIX", "-c", "conf/nginx.conf"], ["-pPREFIX", "conf/nginx.conf"]],
    ids=" ".join,
)
def test_the_file_is_named_by_itself_or_as_for_nginx(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "nginx.conf").write_text(_GOOD)
    before = sorted(os.listdir(tmp_path))
    done = explain(*(argument.replace("PREFIX", str(tmp_path)) for argument in arguments), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("upstream app (nginx.conf:2): 1 peer\n")
    assert sorted(os.listdir(tmp_path)) == before  # no log, no pid file


def test_the_directives_of_the_command_line_count(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(_GOOD)
    assert "  pcre_jit on (command line)\n" in explain("-g", "pcre_jit on;", "nginx.conf", cwd=tmp_path).stdout


@pytest.mark.parametrize("arguments", [["-x"], ["a.conf", "b.conf"], ["-c"]], ids=" ".join)
def test_a_command_line_that_makes_no_sense_shows_the_usage(arguments: list[str], tmp_path: Path) -> None:
    done = explain(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "upwell explain" in done.stderr
    assert done.stdout == ""


def test_a_list_that_a_file_keeps_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("events {}\nhttp { upstream app { state /nowhere/lists/app; } }\n")
    done = explain("nginx.conf", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "upstream app (nginx.conf:2): 0 peers\n" in done.stdout
    assert "  The list of peers is kept in /nowhere/lists/app, which is written anew" in done.stdout
