"""SECURITY.md promises nothing that no test holds: each test that it names is there, and each measure names one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_TEXT = (_ROOT / "SECURITY.md").read_text()
_NAMED = re.findall(r"`(tests/[\w/.]+)::(\w+)`", _TEXT)


@cache
def _tests(path: str) -> frozenset[str]:
    tree = ast.parse((_ROOT / path).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_tests_are_named() -> None:
    assert len(_NAMED) > 30
    assert len(_NAMED) == _TEXT.count("::"), "one is written otherwise than the others"


@pytest.mark.parametrize(("path", "name"), sorted(set(_NAMED)))
def test_a_named_test_is_there(path: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in _tests(path)


def test_each_measure_names_a_test() -> None:
    measured = [table for table in re.findall(r"(?:^\|.*\n)+", _TEXT, re.MULTILINE) if "held by" in table]
    assert len(measured) >= 4
    for table in measured:
        for row in table.splitlines()[2:]:
            assert "::test_" in row.split("|")[-2], row


def test_what_is_said_of_names_is_what_is_done() -> None:
    """The words in a field's name that make its value a secret."""
    from upwell.http1.syntax import SECRET_NAME

    words = SECRET_NAME.pattern.decode().split("|")
    (said,) = re.findall(r"whose name has (.*?) in it", _TEXT)
    assert re.findall(r"`(\w+)`", said) == words
