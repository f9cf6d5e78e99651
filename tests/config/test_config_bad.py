"""Wrong configurations: every error of each, in order, with its place (tests/cases/config/bad.txt)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from upwell.errors import ConfigError, ConfigErrors
from upwell.modules.load import load

_CASES = Path(__file__).parents[1] / "cases" / "config" / "bad.txt"


def _cases() -> list[tuple[str, str, list[str]]]:
    cases = []
    for part in re.split(r"^=== ", _CASES.read_text(), flags=re.MULTILINE)[1:]:
        name, _, rest = part.partition("\n")
        text, _, errors = rest.partition("---\n")
        cases.append((name, text, errors.strip().splitlines()))
    return cases


def _resolve(host: str) -> list[str]:
    raise OSError(f"no such host: {host}")


def _shown(error: ConfigError, folder: Path) -> str:
    message = error.message.replace(str(folder), "FOLDER")
    position = error.position
    if position is None:
        return f"{message} in -"
    file = Path(position.file).name
    place = f"{position.line}:{position.column}"
    return f"{message} in {place}" if file == "nginx.conf" else f"{message} in {file}:{place}"


@pytest.mark.parametrize(("name", "text", "errors"), _cases(), ids=[case[0] for case in _cases()])
def test_every_error_is_listed_with_its_place(name: str, text: str, errors: list[str], tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(text)
    (tmp_path / "self.conf").write_text("include self.conf;\n")
    (tmp_path / "bad.conf").write_text("env a;\nunknown 1;\nenv b\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path), resolve=_resolve)
    assert [_shown(error, tmp_path) for error in caught.value.errors] == errors


def test_the_cases_are_there() -> None:
    assert len(_cases()) > 20
    assert all(errors for _, _, errors in _cases())


def test_a_missing_file_is_told_in_the_words_of_nginx(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load("nosuch.conf", str(tmp_path))
    assert [str(error) for error in caught.value.errors] == [
        f'open() "{tmp_path}/nosuch.conf" failed (2: No such file or directory)'
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("daemon maybe;", 'invalid value "maybe" in "daemon" directive, it must be "on" or "off" in command line'),
        ("daemon on", 'unexpected end of parameter, expecting ";" in command line'),
        ("events { }", "block directives are not supported in -g option in command line"),
        ("foo bar;", 'unknown directive "foo" in command line'),
    ],
)
def test_errors_of_the_command_line_have_no_line(overrides: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("events {}\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path), overrides)
    assert [str(error) for error in caught.value.errors] == [message]


def test_an_override_that_the_file_repeats_is_a_duplicate(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("events {}\ndaemon on;\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path), "daemon off;")
    assert [error.message for error in caught.value.errors] == ['"daemon" directive is duplicate']


def test_errors_come_with_file_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("events {}\n  foo;\n")
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path))
    assert str(caught.value) == f'unknown directive "foo" in {tmp_path}/nginx.conf:2:3'


def test_blocks_without_end_do_not_crash(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("a {" * 5000)
    with pytest.raises(ConfigErrors) as caught:
        load("nginx.conf", str(tmp_path))
    assert "blocks are nested too deeply" in [error.message for error in caught.value.errors]
