"""Who may import whom: the import graph of src/upwell, read from the source and held to docs' layers.

`violations` is the checker; the last tests show it trees that break each rule, so that it is known to bite.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "upwell"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"cli"}),
    frozenset({"process"}),
    frozenset({"runtime"}),
    frozenset({"modules"}),
    frozenset({"config", "lua", "contrib"}),
    frozenset({"proxy", "check"}),
    frozenset({"peers", "resolve"}),
    frozenset({"http1", "zone"}),
    frozenset({"errors", "units", "log", "pcre", "version"}),
)
"""From left to right; a package imports only from sets further right, and itself. Packages of one set are strangers,
but for the last one, whose modules are single files that know each other's names."""

ENTRY = frozenset({"__main__", "upwell"})
"""`python -m upwell` and the public API import whatever they offer."""

IMPURE = frozenset({"asyncio", "socket", "time", "random", "uvloop", "threading", "subprocess", "secrets"})
PURE = (
    "http1",
    "peers",
    "config",
    "check.spec",
    "check.schedule",
    "check.match",
    "check.rules",
    "process.actions",
    "process.supervisor",
    "resolve.spec",
    "resolve.message",
    "resolve.query",
    "resolve.lookup",
    "resolve.resolver",
)
"""What decides without I/O, clock or chance."""


def modules(source: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """(dotted name below the package, the package that its relative imports start from, syntax tree) of each file."""
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        package = parts[:-1]
        if parts[-1] == "__init__":
            parts = package
        yield ".".join(parts) or "upwell", ".".join(package), ast.parse(path.read_text(), str(path))


def imports(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of everything that a module imports, wherever in it, also for type checking only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = ["upwell", *(package.split(".") if package else [])]
                outer = outer[: len(outer) - (node.level - 1)]
                base = ".".join([*outer, *([base] if base else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def layer_of(name: str) -> int | None:
    """The index in LAYERS of the package that the dotted `name` (below upwell) is in."""
    top = name.split(".")[0]
    return next((index for index, layer in enumerate(LAYERS) if top in layer), None)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def violations(source: Path) -> list[str]:
    """Every import that the design forbids, as `module:line imports what: why`."""
    found = []
    for name, package, tree in modules(source):
        if name in ENTRY:
            continue
        mine = layer_of(name)
        if mine is None:
            found.append(f"{name} is in no layer")
            continue
        top = name.split(".")[0]
        pure = is_within(name, PURE)
        for line, imported in imports(tree, package):
            root, _, rest = imported.partition(".")
            if pure and root in IMPURE:
                found.append(f"{name}:{line} imports {root}: it is to be pure")
            if root != "upwell":
                continue
            other = rest.split(".")[0]
            theirs = layer_of(rest)
            if theirs is None:
                found.append(f"{name}:{line} imports {imported}: that is in no layer")
            elif theirs < mine:
                found.append(f"{name}:{line} imports {imported}: that is to the left of it")
            elif theirs == mine and other != top and mine != len(LAYERS) - 1:
                found.append(f"{name}:{line} imports {imported}: siblings do not know each other")
    return found


def test_layers_hold() -> None:
    assert violations(SOURCE) == []


def test_every_package_is_in_a_layer() -> None:
    names = {path.stem if path.is_file() else path.name for path in SOURCE.iterdir() if _is_code(path)}
    assert [name for name in sorted(names - {"__init__", "__main__"}) if layer_of(name) is None] == []


def _is_code(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))


@pytest.mark.parametrize("package", PURE)
def test_what_is_to_be_pure_is_there(package: str) -> None:
    """A rule about a module that was renamed would hold for nothing."""
    path = SOURCE / package.replace(".", "/")
    assert path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("peers/x.py", "from upwell.proxy.exchange import Exchange", "to the left"),
        ("proxy/x.py", "import upwell.config.model", "to the left"),
        ("config/x.py", "from upwell import modules", "to the left"),
        ("log.py", "from upwell.http1.head import parse", "to the left"),
        ("check/x.py", "from upwell.proxy.suspension import suspend", "siblings"),
        ("zone/x.py", "from upwell.http1 import head", "siblings"),
        ("lua/api/x.py", "def f():\n    from upwell.config.source import Source", "siblings"),
        ("lua/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import upwell.contrib.demo", "siblings"),
        ("peers/balancers/x.py", "from ...check import spec", "to the left"),
        ("peers/x.py", "import random", "pure"),
        ("peers/x.py", "from upwell.resolve.spec import Found", "siblings"),
        ("resolve/lookup.py", "import socket", "pure"),
        ("peers/balancers/x.py", "from random import choice", "pure"),
        ("http1/x.py", "import asyncio.events", "pure"),
        ("check/schedule.py", "from time import monotonic", "pure"),
        ("process/supervisor.py", "import socket", "pure"),
        ("config/dialects/nginx/x.py", "import time", "pure"),
        ("strange/x.py", "", "in no layer"),
        ("proxy/x.py", "import upwell.strange", "in no layer"),
    ],
)
def test_the_checker_bites(tmp_path: Path, file: str, code: str, complaint: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    [found] = violations(tmp_path)
    assert complaint in found
    assert found.startswith(file.removesuffix(".py").replace("/", "."))


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("cli.py", "from upwell.contrib.demo import main"),
        ("process/x.py", "from upwell.runtime.build import plan\nimport time"),
        ("proxy/x.py", "from upwell.peers.upstream import Upstream\nfrom upwell.errors import ConfigError"),
        ("proxy/x.py", "import upwell.proxy.y\nfrom . import y\nfrom .y import z"),
        ("resolve/sockets.py", "import socket"),
        ("check/checker.py", "import time, socket"),
        ("units.py", "from upwell.errors import ConfigError"),
        ("__main__.py", "from upwell.cli import main"),
        ("__init__.py", "from upwell.check.checker import Checker"),
    ],
)
def test_the_checker_lets_good_trees_pass(tmp_path: Path, file: str, code: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code)
    assert violations(tmp_path) == []


def test_the_impure_are_modules() -> None:
    """A misspelt name would forbid nothing."""
    assert (IMPURE - {"uvloop"}) <= sys.stdlib_module_names
