"""The cases of tests/cases/http1: TOML files whose strings stand for bytes, one character each."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent.parent / "cases" / "http1"


def cases(name: str) -> dict[str, Any]:
    """What `name`.toml says."""
    with (CASES / f"{name}.toml").open("rb") as file:
        return tomllib.load(file)


def wire(text: str) -> bytes:
    return text.encode("latin-1")
