"""Good configurations against golden trees (tests/cases/config/good): what each level gives itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from upwell.config.model import Block
from upwell.config.template import Template
from upwell.errors import Position
from upwell.modules.load import load
from upwell.version import VERSION

_GOOD = Path(__file__).parents[1] / "cases" / "config" / "good"


def _resolve(host: str) -> list[str]:
    return {"name": ["10.0.0.1", "10.0.0.2", "fd00::1"]}[host]


def _show(value: Any) -> str:
    """A value in one line: dataclasses with what differs from their defaults, positions left out."""
    if isinstance(value, Template):
        return f"`{value}`"
    if isinstance(value, re.Pattern):
        return f"/{value.pattern!r}/{'i' if value.flags & re.IGNORECASE else ''}"
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(map(_show, value))) + "}"
    if isinstance(value, Mapping):
        return f"<{len(value)} entries>"
    if isinstance(value, tuple) and not isinstance(value, Position):
        return "(" + ", ".join(map(_show, value)) + ")"
    if is_dataclass(value):
        shown = []
        for item in fields(value):
            content = getattr(value, item.name)
            if item.name != "position" and content != item.default:
                shown.append(f"{item.name}={_show(content)}")
        return f"{type(value).__name__}({', '.join(shown)})"
    return repr(value) if not isinstance(value, float) else f"{value:g}s"


def _tree(block: Block, depth: int = 0) -> Iterator[str]:
    yield "    " * depth + " ".join((block.kind, *block.args))
    for settings, own in sorted(block.given(), key=lambda pair: pair[0].__name__):
        if settings.__name__.startswith("_"):
            continue
        for name, value in own.items():
            yield "    " * depth + f"  {settings.__name__}.{name} = {_show(value)}"
    for child in block.children:
        yield from _tree(child, depth + 1)


@pytest.mark.parametrize("path", sorted(_GOOD.glob("*.conf")), ids=lambda path: path.stem)
def test_the_tree_is_as_written_down(path: Path, request: pytest.FixtureRequest) -> None:
    config = load(path.name, str(_GOOD), resolve=_resolve)
    tree = "\n".join(_tree(config.main)).replace(str(_GOOD), "PREFIX") + "\n"
    tree = tree.replace(f"upwell/{VERSION}", "upwell/VERSION")
    assert tree == path.with_suffix(".tree").read_text()
