"""Each area of the API and each module to require is whole: its Lua file loads and uses what Python gives, no more."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import upwell.lua
from upwell.lua import api

FOLDER = Path(upwell.lua.__file__).parent
LUA = {path.relative_to(FOLDER).as_posix(): path.read_text() for path in FOLDER.rglob("*.lua")}


@pytest.mark.parametrize("area", api.API, ids=lambda area: str(area.__name__.rpartition(".")[2]))
def test_what_python_gives_is_used(shared_worker: Any, area: ModuleType) -> None:
    assert f"api/{area.__name__.rpartition('.')[2]}.lua" in LUA
    # Some names are put together: ngx.now is py["clock_now"], and codec.lua lists its functions as strings.
    text = "".join(LUA.values())
    for name in area.functions(shared_worker.vm):
        assert re.search(rf'\bpy\.{name}\b|"{name.removeprefix("clock_")}"', text), name


def test_what_lua_uses_is_given(shared_worker: Any) -> None:
    given = {"count_turns", "loads_file", "log_line", "may_wait", "monotonic"}
    for area in api.API:
        given |= set(area.functions(shared_worker.vm))
    for path, text in LUA.items():
        assert set(re.findall(r"\bpy\.([a-z_0-9]+)", text)) <= given, path


def test_upwells_own_lua_uses_no_globals_and_no_methods_of_strings() -> None:
    """What user code can replace must not be looked up: everything comes from `base`."""
    for path, text in LUA.items():
        if path != "sandbox.lua":
            assert not re.search(r"[\w\])]:[a-z]+\(", re.sub(r"--.*|\"[^\"]*\"|'[^']*'", "", text)), path


@pytest.mark.parametrize("module", ["ngx.upstream", "resty.upstream.healthcheck", "cjson", "cjson.safe", "resty.core"])
def test_every_module_loads(shared_worker: Any, module: str) -> None:
    assert shared_worker.say(f"type(require '{module}')") == "table"
