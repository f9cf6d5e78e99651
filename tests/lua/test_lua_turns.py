"""lua_max_run_time: code that never returns is ended, whatever way it goes round, and other code is left as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import upwell.lua
from upwell.lua.turns import TURN, counted

FOLDER = Path(upwell.lua.__file__).parent
LIMIT = "Lua code has run for 0.05 seconds without waiting (lua_max_run_time)"

ENDLESS = {
    "while": "while true do end",
    "while with work": "local t = {} while true do t[1] = string.rep('x', 100) end",
    "repeat": "repeat local x = 1 until false",
    "for": "for i = 1, math.huge do end",
    "for in": "for _ in function() return 1 end do end",
    "goto": "::top:: goto top",
    "tail call": "local function f(x) return f(x + 1) end f(1)",
    "tail call of a method": "local t = {} function t:go() return self:go() end t:go()",
    "recursion": "local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end fib(80)",
    "an error that is caught": "while true do pcall(function() while true do end end) end",
    "an error that is handled": "while true do xpcall(function() while true do end end, function() end) end",
    "a coroutine": "local f = coroutine.wrap(function() while true do coroutine.yield() end end) repeat f() until nil",
    "a coroutine in vain": "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "a thread": "ngx.thread.spawn(function() while true do end end) while true do end",
    "a callback": "while true do string.gsub('aaaa', 'a', function() for i = 1, 10 do end end) end",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_code_that_never_returns_is_ended(make_worker: Any, source: str) -> None:
    worker = make_worker(max_run_time=0.05)
    request = worker.get(f"ngx.say('lost')\n{source}")
    assert (request.status, request.content) == (500, b"page 500")
    assert f"content_by_lua(nginx.conf:103):2: {LIMIT}" in request.log_text
    assert worker.say("'next'") == "next"


def test_a_module_is_ended_too(make_worker: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.lua").write_text(
        "local name = ...\nreturn { name = name, go = function()\nwhile true do end end }"
    )
    worker = make_worker(f"{tmp_path}/?.lua;;", max_run_time=0.05)
    assert worker.say("require('mine').name") == "mine"
    request = worker.get("require('mine').go()")
    assert request.status == 500
    assert f"mine.lua:3: {LIMIT}" in request.log_text


LOADERS = {
    "loadstring": "loadstring(source)",
    "loadstring with a name": "loadstring(source, '=mine')",
    "load": "load(source)",
    "load with an environment": "load(source, '=mine', 't', {math = math, string = string, ngx = ngx})",
    "load of pieces": "load(coroutine.wrap(function() for c in source:gmatch('.') do coroutine.yield(c) end end))",
    "loadfile": "loadfile(path)",
    "dofile": "function() dofile(path) end",
    "loadstring within loadstring": "loadstring('loadstring(...)()')",
}


@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS.keys())
def test_code_that_is_loaded_at_run_time_is_ended_too(make_worker: Any, tmp_path: Path, loader: str) -> None:
    endless = "local n = ...\nwhile n do end"
    (tmp_path / "mine.lua").write_text(f"{endless.replace('...', '1')}")
    worker = make_worker(max_run_time=0.05)
    begin = f"local source, path = [[{endless}]], '{tmp_path}/mine.lua'\nlocal f = assert({loader}) "
    if "function() dofile" in loader:
        begin = begin.replace("assert(", "(")
    request = worker.get(f"{begin} f([[while true do end]])")
    assert request.status == 500
    assert LIMIT in request.log_text


def test_what_loads_code_is_as_it_was(make_worker: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.lua").write_text("#! a line for a shell\nfor i = 1, 2 do end return here, ...")
    said = []
    for limit in (10.0, 0.0):
        worker = make_worker(max_run_time=limit)
        said.append(
            [
                re.sub("0x[0-9a-f]+", "0x", worker.say(line))
                for line in (
                    "loadstring('for i = 1, 2 do end return ...')(1, 2)",
                    "select('#', loadstring('for i = 1, 2 do end return ...')(nil, nil))",
                    "loadstring('while')",
                    "select('#', loadstring('while'))",
                    "select('#', loadstring('return 1'))",
                    "pcall(loadstring('do end x = nil + 1', '=named'))",
                    "pcall(loadstring('do end\\nx = nil + 1'))",
                    "load('do end return here', 'n', 't', {here = 'there'})()",
                    "setfenv(loadstring('do end return here'), {here = 'there'})()",
                    "pcall(load, {})",
                    "pcall(load)",
                    "select('#', pcall(load, 'return 1', 'n', 't', 5))",
                    "select('#', load(12))",
                    "load(function() error('no more') end)",
                    "load(function() return {} end)",
                    f"loadfile('{tmp_path}/mine.lua', 't', {{here = 5}})(6)",
                    "debug.getinfo(loadstring('do end', '=named')).short_src",
                    "debug.getinfo(loadstring('do end')).short_src",
                )
            ]
        )
    assert said[0] == said[1]


def test_a_timer_is_ended_too(make_worker: Any) -> None:
    worker = make_worker(max_run_time=0.05)
    worker.init("ngx.timer.at(0, function() while true do end end) ngx.timer.at(1, function() ran = true end)")
    worker.later.run(2)
    assert LIMIT in worker.log.text
    assert worker.say("ran") == "true"


def test_who_waits_begins_anew(make_worker: Any) -> None:
    worker = make_worker(max_run_time=0.05)
    request = worker.get(
        "for i = 1, 6 do local t = os.clock() + 0.02 while os.clock() < t do end ngx.sleep(1) end ngx.say('done')"
    )
    worker.later.run(10)
    assert request.content == b"done\n"


def test_the_start_of_a_worker_takes_the_time_it_needs(make_worker: Any) -> None:
    worker = make_worker(max_run_time=0.05)
    worker.init("local t = os.clock() + 0.2 while os.clock() < t do end ready = true")
    assert worker.say("ready") == "true"


def test_without_a_limit_nothing_is_counted(make_worker: Any) -> None:
    worker = make_worker(max_run_time=0.0)
    assert worker.say(f"pcall(function() for i = 1, 1e5 do end end), {TURN}") == "truenil"
    assert worker.vm._counts is False


AWKWARD = {
    "words in texts": """local s = "do return f() " .. 'repeat \\' do ' .. [[ while do ]] .. [=[ ]] do ]=] return #s""",
    "words in comments": "-- do return f(\n--[[ do\n repeat ]] --[==[ goto x ]==] return 1",
    "a text over lines": 'local s = "a\\\n do \\z\n   do" return #s',
    "words within words": "local undo, dot, repeats, returned = 1, 2, 3, 4 return undo + dot + repeats + returned",
    "a word as a name": "local goto, b = 1, 2 return goto + b",
    "a word as a name before another": "local b local goto b = 2 return b",
    "a parenthesis behind do": "local n = 0 for i = 1, 3 do (function() n = n + i end)() end return n",
    "a label at the end": "local n = 0 for i = 1, 4 do if i == 2 then goto next end n = n + i ::next:: end return n",
    "numbers": "local t = 0 for i = 0x1, 3e0 do t = t + .5e+1 end return t",
    "what follows return": "local t = {f = {g = function(s) return #s end}} return t.f.g 'abc' + t.f.g [[ab]]",
    "many upvalues": "local "
    + ", ".join(f"a{n}" for n in range(60))
    + " = 1 return (function() local t = 0 for i = 1, 3 do t = t + 1 end return t, "
    + ", ".join(f"a{n}" for n in range(60))
    + " end)()",
    "arguments": "local f = function(...) return select('#', ...) end return f(1, 2, nil)",
    "no more than a return": "return",
}


@pytest.mark.parametrize("source", AWKWARD.values(), ids=AWKWARD.keys())
def test_code_does_what_it_did(make_worker: Any, source: str) -> None:
    body = f"local value = (function() {source}\nend)() ngx.say(tostring(value))"
    with_limit, without = make_worker().get(body), make_worker(max_run_time=0.0).get(body)
    assert with_limit.status == 200, with_limit.log_text
    assert with_limit.content == without.content


def test_errors_keep_their_lines(make_worker: Any) -> None:
    source = "local x = 1\nfor i = 1, 2 do\n  repeat\n    x = nil + 1\n  until true\nend"
    lines = [make_worker(max_run_time=limit).get(source).log_lines for limit in (10.0, 0.0)]
    assert lines[0] == lines[1]
    assert "content_by_lua(nginx.conf:103):4: attempt to perform arithmetic on a nil value" in lines[0][0][1]


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.lua")), ids=lambda path: path.name)
def test_what_is_added_can_be_taken_away_and_compiles(make_worker: Any, path: Path) -> None:
    source = path.read_text()
    made = counted(source)
    assert re.sub(rf" {TURN}\(\);(?!return|goto)|{TURN}\(\);", "", made) == source
    assert make_worker().vm.compile(f"local {TURN} = function() end {made}", "=x").error is None
