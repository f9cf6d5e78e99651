"""Handlers from start to end: the guide's pages, globals, errors, exits, waiting."""

from __future__ import annotations

from typing import Any

import pytest

from upwell.errors import MessageError
from upwell.log import ERROR, WARN
from upwell.lua import phase
from upwell.lua.bridge import LuaFailure

STATUS = """
                local hc = require "resty.upstream.healthcheck"
                ngx.say("Nginx Worker PID: ", ngx.worker.pid())
                ngx.print(hc.status_page())
"""
METRICS = """
                local hc = require "resty.upstream.healthcheck"
                st , err = hc.prometheus_status_page()
                if not st then
                    ngx.say(err)
                    return
                end
                ngx.print(st)
"""


def test_the_guides_status_page(worker: Any) -> None:
    request = worker.get(STATUS)
    first, rest = request.content.split(b"\n", 1)
    assert first.startswith(b"Nginx Worker PID: ")
    assert rest == (
        b"Upstream tomcat_upstream (NO checkers)\n    Primary Peers\n"
        b"        127.0.0.1:81 UP\n        127.0.0.1:82 UP\n    Backup Peers\n\n"
        b"Upstream nginx_upstream (NO checkers)\n    Primary Peers\n"
        b"        127.0.0.1:83 UP\n        127.0.0.1:84 DOWN\n    Backup Peers\n        127.0.0.1:85 UP\n"
    )
    assert (request.status, request.content_type, request.finished) == (200, b"text/plain", True)


def test_a_global_written_by_one_request_is_not_there_for_the_next(worker: Any, make_request: Any) -> None:
    handler = worker.content(METRICS)
    assert make_request(worker).run(handler).content.startswith(b"# HELP nginx_upstream_status_info The running status")
    assert worker.say("tostring(st)") == "nil"


def test_globals_of_init_worker_are_there_for_all(worker: Any) -> None:
    worker.init("answer = 42")
    assert worker.say("answer") == "42"


def test_an_error_is_a_500_and_a_line_with_file_and_line(worker: Any) -> None:
    request = worker.get("local a = 1\nerror('broken')")
    assert request.status == 500
    level, line = request.log_lines[0]
    assert level == ERROR
    assert line.startswith(
        "lua entry thread aborted: runtime error: content_by_lua(nginx.conf:103):2: broken\n"
        "stack traceback:\ncoroutine 0:\n\t[C]: in function 'error'\n\tcontent_by_lua(nginx.conf:103):2: in"
    )
    assert worker.say("'alive'") == "alive"


@pytest.mark.parametrize("value", ["nil", "{}", "function() end", "setmetatable({}, {__tostring = error})"])
def test_an_error_that_is_no_text(worker: Any, value: str) -> None:
    request = worker.get(f"error({value})")
    assert request.status == 500
    assert "runtime error: unknown reason" in request.log_text


def test_an_error_after_content_that_is_not_on_its_way_is_still_a_500(worker: Any) -> None:
    request = worker.get("ngx.say('half') error('x')")
    assert (request.status, request.content) == (500, b"page 500")


def test_an_error_after_content_was_sent_cuts_the_answer(worker: Any) -> None:
    request = worker.get("ngx.say('half') ngx.flush(true) error('x')")
    assert request.content == b"half\n"
    assert request.aborted


def test_source_that_does_not_compile_is_a_500_each_time(worker: Any, make_request: Any) -> None:
    handler = worker.content("local = 1")
    for _ in range(2):
        request = make_request(worker).run(handler)
        assert request.status == 500
        assert "failed to load inlined Lua code: content_by_lua(nginx.conf:103):1:" in request.log_text


def test_errors_at_the_start_of_a_worker(worker: Any) -> None:
    worker.init("local x = nil + 1")
    assert (
        "init_worker_by_lua error: init_worker_by_lua(nginx.conf:9):1: attempt to perform arithmetic" in worker.log.text
    )
    with pytest.raises(LuaFailure, match="init_by_lua error"):
        phase.run_init(worker.vm, worker.vm.compile("error('no')", "=init_by_lua"))


def test_sleep_lets_other_requests_go_on(worker: Any) -> None:
    slow = worker.get("ngx.say('a') ngx.sleep(0.5) ngx.say('b')")
    assert (slow.content, slow.ended, slow.sleeps) == (b"a\n", False, [0.5])
    assert worker.say("'other'") == "other"
    worker.later.run(0.5)
    assert (slow.content, slow.ended) == (b"a\nb\n", True)


def test_sleep_inside_pcall_and_coroutines(worker: Any) -> None:
    request = worker.get("""
        local log = {}
        local co = coroutine.create(function(a)
            log[#log + 1] = a
            ngx.sleep(1)
            local b = coroutine.yield("mine")
            log[#log + 1] = b
            ngx.sleep(1)
            return "end"
        end)
        local _, first = coroutine.resume(co, "in")
        local ok, second = pcall(function() ngx.sleep(1) local _, v = coroutine.resume(co, "again") return v end)
        local gen = coroutine.wrap(function() for i = 1, 2 do ngx.sleep(0.1) coroutine.yield(i) end end)
        ngx.say(first, " ", second, " ", log[1], " ", log[2], " ", coroutine.status(co), " ", gen(), gen())
        local ok, err = pcall(function() ngx.sleep(0.1) error("late", 0) end)
        ngx.say(ok, err)
    """)
    worker.later.run(10)
    assert request.content == b"mine end in again dead 12\nfalselate\n"
    assert request.sleeps == [1, 1, 1, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("seconds", ["0/0", "1/0", "-1", "'x'", "{}", "2^80"])
def test_sleep_refuses_what_is_no_duration(shared_worker: Any, seconds: str) -> None:
    assert shared_worker.say(f"pcall(ngx.sleep, {seconds})").startswith("false")


def test_light_threads_run_beside_each_other(worker: Any) -> None:
    request = worker.get("""
        local function task(name, delay) ngx.sleep(delay) return name, delay end
        local slow, fast = ngx.thread.spawn(task, "slow", 3), ngx.thread.spawn(task, "fast", 1)
        local ok, name = ngx.thread.wait(slow, fast)
        ngx.say(ok, name)
        ngx.say(select(2, ngx.thread.wait(slow)))
        local bad = ngx.thread.spawn(function() error("oops", 0) end)
        ngx.say(ngx.thread.wait(bad))
    """)
    worker.later.run(3.1)
    assert request.content == b"truefast\nslow3\nfalseoops\n"
    assert request.ended
    assert "lua user thread aborted: runtime error: oops" in request.log_text


def test_a_request_ends_only_when_its_threads_have(worker: Any) -> None:
    request = worker.get("ngx.thread.spawn(function() ngx.sleep(1) ngx.say('late') end) ngx.say('first')")
    assert not request.ended
    worker.later.run(1)
    assert request.content == b"first\nlate\n"


def test_exit_in_a_thread_ends_the_request(worker: Any) -> None:
    request = worker.get("ngx.thread.spawn(function() ngx.exit(403) end) ngx.sleep(5) ngx.say('no')")
    assert (request.status, request.ended, request.sleeps) == (403, True, [])


def test_kill_stops_a_thread(worker: Any) -> None:
    request = worker.get("""
        local t = ngx.thread.spawn(function() ngx.sleep(1) ngx.say('no') end)
        ngx.say(ngx.thread.kill(t), " ", ngx.thread.kill(coroutine.create(print)))
    """)
    assert request.content == b"1 nilkiller not parent\n"
    assert request.ended


def test_threads_are_let_go_with_the_request_that_never_went_on(worker: Any) -> None:
    request = worker.get("ngx.thread.spawn(ngx.sleep, 9) ngx.sleep(9)")
    request._coro.close()
    assert not request.ended
    assert worker.say("'alive'") == "alive"


@pytest.mark.parametrize(
    ("source", "status", "content"),
    [
        ("ngx.exit(404)", 404, b"page 404"),
        ("ngx.exit(ngx.HTTP_OK) ngx.say('no')", 200, b""),
        ("ngx.status = 410 ngx.say('gone') ngx.exit(ngx.HTTP_OK)", 410, b"gone\n"),
        ("ngx.say('x') ngx.exit(ngx.OK)", 200, b"x\n"),
        ("ngx.exit(204)", 204, b""),
        ("return", 200, b""),
        ("ngx.status = 503", 503, b""),
        ("pcall(ngx.exit, 403) ngx.say('no')", 403, b"page 403"),
        ("coroutine.wrap(function() ngx.exit(402) end)() ngx.say('no')", 402, b"page 402"),
        ("ngx.say('a') ngx.eof() ngx.say('b')", 200, b"a\n"),
    ],
)
def test_exit_of_content(worker: Any, source: str, status: int, content: bytes) -> None:
    request = worker.get(source)
    assert (request.status, request.content, request.ended, request.finished) == (status, content, True, True)
    assert not request.aborted


@pytest.mark.parametrize("status", [408, 444, 499, -1])
def test_exit_that_closes_the_connection(worker: Any, status: int) -> None:
    assert worker.get(f"ngx.exit({status})").aborted


def test_exit_with_another_status_after_the_head(worker: Any) -> None:
    request = worker.get("ngx.say('x') ngx.exit(500)")
    assert (request.status, request.content) == (200, b"x\n")
    assert "attempt to set status 500 via ngx.exit after sending out the response status 200" in request.log_text


def test_redirect(worker: Any) -> None:
    request = worker.get("ngx.header.x_y = 1 return ngx.redirect('/login?a=b', 301)")
    assert (request.status, sorted(request.out)) == (301, [(b"Location", b"/login?a=b"), (b"x-y", b"1")])
    assert worker.get("ngx.redirect('/')").status == 302
    assert "unsafe redirect uri" in worker.say("pcall(ngx.redirect, '/a\\r\\nX: y')")
    assert "are allowed" in worker.say("pcall(ngx.redirect, '/', 200)")


@pytest.mark.parametrize(
    ("source", "passes", "status"),
    [
        ("if ngx.var.remote_addr == '127.0.0.1' then return end ngx.exit(403)", True, 0),
        ("ngx.exit(ngx.HTTP_FORBIDDEN)", False, 403),
        ("ngx.exit(ngx.OK)", True, 0),
        ("ngx.exit(ngx.DECLINED)", True, 0),
        ("ngx.say('own answer') ngx.exit(200)", False, 200),
        ("ngx.status = 418 ngx.say('own answer')", False, 418),
        ("error('x')", False, 500),
        ("return ngx.redirect('/x')", False, 302),
    ],
)
def test_access(worker: Any, make_request: Any, source: str, passes: bool, status: int) -> None:
    request = make_request(worker).run(worker.access(source))
    assert request.ended
    assert (request.result, request.finished, request.status) == (None, not passes, status)


def test_ctx_lives_as_long_as_the_request(worker: Any, make_request: Any) -> None:
    request = make_request(worker).run(worker.access("ngx.ctx.user = 'ann'"))
    request.run(worker.content("ngx.say(ngx.ctx.user) ngx.ctx = {user = 'bob'}"))
    record = phase.log_handler(
        worker.vm, worker.vm.compile("ngx.log(ngx.WARN, ngx.ctx.user, ngx.status)", "=log_by_lua")
    )
    record(request)
    assert request.content == b"ann\n"
    assert request.log_lines == [(WARN, "[lua] log_by_lua:1: bob200")]
    assert worker.say("tostring(ngx.ctx.user)") == "nil"


def test_header_filter_and_set(worker: Any, make_request: Any) -> None:
    request = make_request(worker)
    compiled = worker.vm.compile(
        "ngx.header['X-Seen'] = ngx.header.x_from ngx.header.x_from = nil ngx.status = 201", "=h"
    )
    request.out = [(b"X-From", b"peer")]
    run = phase.run_of(worker.vm, request)
    run.said = True  # as when content_by_lua* said something
    phase.header_filter(worker.vm, compiled)(request)
    assert (request.out, request.status) == ([(b"X-Seen", b"peer")], 201)
    value = phase.set_handler(
        worker.vm, worker.vm.compile("return ngx.arg[1] .. ngx.arg[2] .. #ngx.arg[3]", "=set_by_lua")
    )
    assert value(request, [b"a", b"b", b"ccc"]) == b"ab3"
    wrong = phase.set_handler(worker.vm, worker.vm.compile("return ngx.arg[1] .. 'x'", "=set_by_lua"))
    with pytest.raises(MessageError) as raised:
        wrong(request, [])
    assert raised.value.status == 500
    assert "failed to run set_by_lua*: set_by_lua:1: attempt to concatenate" in request.log_text
    nothing = phase.set_handler(worker.vm, worker.vm.compile("local x = 1", "=set_by_lua"))
    assert nothing(request, []) == b""


def test_an_answer_that_could_not_be_filtered_does_not_go_out(worker: Any, make_request: Any) -> None:
    request = make_request(worker)
    for source in ("error('x')", "local = 1", "coroutine.yield()"):
        with pytest.raises(MessageError) as raised:
            phase.header_filter(worker.vm, worker.vm.compile(source, "=header_filter_by_lua"))(request)
        assert raised.value.status == 500
    assert "failed to run header_filter_by_lua*: header_filter_by_lua:1: x\nstack traceback:" in request.log_text


@pytest.mark.parametrize("call", ["ngx.sleep(0)", "ngx.say('x')", "ngx.location.capture('/')", "ngx.req.read_body()"])
def test_what_a_log_handler_may_not(worker: Any, make_request: Any, call: str) -> None:
    request = make_request(worker)
    phase.log_handler(worker.vm, worker.vm.compile(call, "=log_by_lua"))(request)
    assert "API disabled in the context of log_by_lua*" in request.log_text


@pytest.mark.parametrize(
    "call", ["ngx.say('x')", "ngx.sleep(1)", "ngx.exit(1)", "ngx.req.get_method()", "return ngx.var.uri"]
)
def test_what_init_worker_may_not(worker: Any, call: str) -> None:
    worker.init(call)
    assert "API disabled in the context of init_worker_by_lua*" in worker.log.text


def test_http10_answers_get_their_length(worker: Any, make_request: Any) -> None:
    request = make_request(worker)
    request.version = 10
    request.run(worker.content("ngx.say('a') ngx.sleep(1) ngx.say('b', ngx.headers_sent)"))
    assert not request.head_sent
    worker.later.run(1)
    assert (request.content, request.content_length) == (b"a\nbfalse\n", 9)


def test_capture(worker: Any) -> None:
    worker.locations[b"/inner"] = worker.content("""
        ngx.sleep(1)
        ngx.status = 201
        ngx.header["X-Inner"] = {"1", "2"}
        ngx.print(ngx.req.get_method(), " ", ngx.var.args, " ", tostring(ngx.is_subrequest), ngx.ctx.shared)
    """)
    worker.locations[b"/quick"] = worker.content(
        "ngx.print('quick', ngx.ctx.n, ngx.req.read_body(), ngx.req.get_body_data())"
    )
    request = worker.get("""
        local options = { args = { b = "x y" }, method = ngx.HTTP_POST, ctx = { shared = 7 } }
        local r = ngx.location.capture("/inner?a=1", options)
        ngx.say(r.status, r.body, " ", r.header["X-Inner"][2], tostring(r.truncated))
        local one, two = ngx.location.capture_multi{ {"/inner"}, {"/quick", { ctx = { n = 5 }, body = "b" }} }
        ngx.say(one.status, two.status, two.body, one.body)
    """)
    worker.later.run(5)
    assert request.content == b"201POST a=1&b=x%20y true7 2false\n201200quick5nilbGET  truenil\n"


def test_capture_refuses(worker: Any) -> None:
    assert "unsafe uri" in worker.say("pcall(ngx.location.capture, '/../etc')")
    assert "unsupported HTTP method" in worker.say("pcall(ngx.location.capture, '/', {method = 3})")
    assert "at least one subrequest" in worker.say("pcall(ngx.location.capture_multi, {})")


def test_read_body(worker: Any) -> None:
    request = worker.get(
        "ngx.say(ngx.req.get_body_data()) ngx.req.read_body() "
        "ngx.say(ngx.req.get_body_data(), ngx.req.get_post_args().b)",
        method=b"POST",
        body=b"a=1&b=%20x",
    )
    assert request.content == b"nil\na=1&b=%20x x\n"
    assert worker.say("ngx.req.read_body() or ngx.req.get_body_data()") == "nil"


def test_server_and_date_may_be_set_but_not_framing(worker: Any) -> None:
    request = worker.get(
        "ngx.header.Server = {'a', 'mine'} ngx.header.Date = 'today' ngx.header.Connection = 'upgrade'"
        " ngx.header.transfer_encoding = 'gzip' ngx.say('x')"
    )
    assert request.out == [(b"Server", b"mine"), (b"Date", b"today")]
    assert "ngx.header.connection is upwell's own" in request.log_text
    assert "ngx.header.transfer-encoding is upwell's own" in request.log_text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ngx.exit, 1000", "no such status: 1000"),
        ("ngx.exit, 99", "no such status: 99"),
        ("ngx.exit, -3", "no such status: -3"),
        ("ngx.exit, 1e300", "no such status: too large"),
        ("function() ngx.header[''] = 'a' end", "without a name"),
        ("function() ngx.header.content_length = ('9'):rep(5000) end", "bad content-length value"),
        ("function() ngx.header.content_length = ('9'):rep(19) end", "bad content-length value"),
    ],
)
def test_what_would_spoil_the_head_is_a_lua_error(worker: Any, code: str, message: str) -> None:
    request = worker.get(f"local ok, wrong = pcall({code}) ngx.print(tostring(ok), wrong)")
    assert request.content.startswith(b"false")
    assert message.encode() in request.content
    assert request.out == []
    assert request.content_length is None
