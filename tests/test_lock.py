"""The lock files hold what pyproject.toml asks for, with hashes; and the audit takes no silence for a good answer."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.audit import FAULTS, FINE, NOT_AUDITED, run

_ROOT = Path(__file__).parent.parent
_LOCKS = ("dev", "tools")


def _locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """Each package in a lock file, and how many hashes it has."""
    text = (_ROOT / "requirements" / f"{name}.txt").read_text().replace("\\\n", " ")
    found: dict[str, tuple[Requirement, int]] = {}
    for line in text.splitlines():
        words = line.split("#")[0]
        if not words.strip() or words.startswith(" "):
            continue
        one = Requirement(words.split("--hash=")[0])
        found[canonicalize_name(one.name)] = one, words.count("--hash=sha256:")
    return found


def _wanted(name: str) -> list[Requirement]:
    if name == "tools":
        lines = (_ROOT / "requirements" / "tools.in").read_text().splitlines()
    else:
        project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
        lines = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
        lines += [*project["build-system"]["requires"], *(_ROOT / "requirements" / "build.in").read_text().splitlines()]
    return [Requirement(text) for text in (line.partition("#")[0].strip() for line in lines) if text]


@pytest.mark.parametrize("name", _LOCKS)
def test_each_package_is_of_one_version_with_hashes(name: str) -> None:
    for package, (requirement, hashes) in _locked(name).items():
        assert [one.operator for one in requirement.specifier] == ["=="], package
        assert hashes, package


@pytest.mark.parametrize("name", _LOCKS)
def test_the_lock_is_in_the_ranges(name: str) -> None:
    locked = _locked(name)
    for wanted in _wanted(name):
        assert canonicalize_name(wanted.name) in locked, f"{wanted.name} is not locked: make lock"
        (version,) = locked[canonicalize_name(wanted.name)][0].specifier
        assert wanted.specifier.contains(version.version), f"{wanted} is locked as {version}: make lock"


def test_users_get_ranges() -> None:
    for wanted in _wanted("dev"):
        assert [one.operator for one in wanted.specifier] == [">="], wanted


def _auditor(tmp_path: Path, said: object, code: int = 0) -> list[str]:
    """A pip-audit that reports this."""
    script = tmp_path / "auditor.py"
    text = said if isinstance(said, str) else json.dumps(said)
    script.write_text(f"import sys\nprint({text!r})\nprint('went wrong', file=sys.stderr)\nsys.exit({code})\n")
    return [sys.executable, str(script)]


_GOOD = {"name": "a", "version": "1", "vulns": []}
_BAD = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
_SKIPPED = {"name": "c", "skip_reason": "could not be audited"}


@pytest.mark.parametrize(
    ("report", "code", "words"),
    [
        ({"dependencies": [_GOOD]}, FINE, "Nothing is known against 1 packages."),
        ({"dependencies": [_GOOD, _BAD]}, FAULTS, "b 2: CVE-1, mended in 3"),
        ({"dependencies": [_SKIPPED, _BAD]}, FAULTS, "CVE-1"),
        ({"dependencies": [_GOOD, _SKIPPED]}, NOT_AUDITED, "NOT AUDITED: 1 packages"),
        ({"dependencies": []}, NOT_AUDITED, "looked at nothing"),
        ("no JSON", NOT_AUDITED, "pip-audit says: went wrong"),
        ("{}", NOT_AUDITED, "NOT AUDITED"),
    ],
)
def test_only_an_answer_is_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], report: object, code: int, words: str
) -> None:
    assert run(_auditor(tmp_path, report), ["x.txt"]) == code
    out, err = capsys.readouterr()
    assert words in (err if code == NOT_AUDITED else out)


def test_no_pip_audit_is_no_answer_either(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["/nowhere/pip-audit"], ["x.txt"]) == NOT_AUDITED
    assert "No such file" in capsys.readouterr().err
