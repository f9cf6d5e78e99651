"""The ngx.* functions that give values: text, time, codecs, request, headers, variables, regex, JSON, dictionaries."""

from __future__ import annotations

import os
from typing import Any

import pytest

EXPRESSIONS = [
    # say and print
    ("'a', 1, 1.5, -0.1, true, false, nil, ngx.null, {1, {'x', 2}}", "a11.5-0.1truefalsenilnull1x2"),
    ("2^53, ' ', 1e300, ' ', 1/0, ' ', 10/2", "9.007199254741e+15 1e+300 inf 5"),
    ("{}", ""),
    (
        "pcall(ngx.say, {a = 1})",
        "falsecontent_by_lua(nginx.conf:103):1: bad argument #1 to 'say' (non-array table found)",
    ),
    (
        "select(2, pcall(ngx.print, 1, print))",
        "content_by_lua(nginx.conf:103):1: bad argument #2 to 'print' "
        "(string, number, boolean, nil, ngx.null, or array table expected, but got function)",
    ),
    # constants
    ("ngx.OK, ngx.ERROR, ngx.AGAIN, ngx.DONE, ngx.DECLINED", "0-1-2-4-5"),
    ("ngx.STDERR, ngx.EMERG, ngx.ALERT, ngx.CRIT, ngx.ERR, ngx.WARN, ngx.NOTICE, ngx.INFO, ngx.DEBUG", "012345678"),
    ("ngx.HTTP_GET, ' ', ngx.HTTP_TRACE, ' ', ngx.HTTP_SPECIAL_RESPONSE, ' ', ngx.HTTP_CLOSE", "2 32768 300 444"),
    ("ngx.config.nginx_version >= 1031000, ngx.config.ngx_lua_version >= 10000, ngx.config.subsystem", "truetruehttp"),
    ("ngx.config.debug, ngx.config.prefix()", "false/srv/upwell/"),
    ("ngx.worker.id(), ngx.worker.count(), ngx.worker.exiting()", "12false"),
    ("ngx.get_phase(), ngx.is_subrequest", "contentfalse"),
    ("type(ngx.null), tostring(ngx.null), ngx.null == nil", "userdatanullfalse"),
    # escaping and digests (values from RFC 3986, RFC 4648, RFC 1321, FIPS 180, RFC 2202)
    ("ngx.escape_uri('a b/é?&~-._')", "a%20b%2F%C3%A9%3F%26~-._"),
    ("ngx.escape_uri('/a b/é?', 0)", "/a%20b/%C3%A9%3F"),
    ("ngx.unescape_uri('b%20r56+7%zz%')", "b r56 7%zz%"),
    ("ngx.encode_args({foo = 3, ['b r'] = 'hello world'}):find('b%%20r=hello%%20world') ~= nil", "true"),
    ("ngx.encode_args({baz = {32, 'hello'}, a = true, b = false}):gsub('&', ' '):len()", "18"),
    ("ngx.decode_args('a=1&b&a=2&=x').a[2], ngx.decode_args('a=1&b').b", "2true"),
    ("select(2, ngx.decode_args('a=1&b=2&c=3', 2))", "truncated"),
    (
        "pcall(ngx.encode_args, {a = print})",
        "falsecontent_by_lua(nginx.conf:103):1: attempt to use function as query arg value",
    ),
    (
        "ngx.encode_base64('foob'), ngx.encode_base64('foob', true), "
        "ngx.decode_base64('Zm9vYg=='), ngx.decode_base64('Zm9vYg')",
        "Zm9vYg==Zm9vYgfoobfoob",
    ),
    ("ngx.decode_base64('!'), ngx.decode_base64('a'), ngx.encode_base64(nil)", "nilnil"),
    ("ngx.md5('abc')", "900150983cd24fb0d6963f7d28e17f72"),
    (
        "#ngx.md5_bin('abc'), #ngx.sha1_bin('abc'), ngx.crc32_short('123456789'), ' ', ngx.crc32_long('')",
        "16203421780262 0",
    ),
    ("ngx.encode_base64(ngx.hmac_sha1('Jefe', 'what do ya want for nothing?'))", "7/zfauXrL6LSdBbV8YTfnCWafHk="),
    ("ngx.quote_sql_str([[it's \\ \"]])", "'it\\'s \\\\ \\\"'"),
    # time
    ("ngx.time(), ' ', ngx.now()", "1700000000 1700000000.25"),
    ("ngx.http_time(1290079655)", "Thu, 18 Nov 2010 11:27:35 GMT"),
    ("ngx.cookie_time(1547549824)", "Tue, 15-Jan-19 10:57:04 GMT"),
    ("ngx.parse_http_time('Thu, 18 Nov 2010 11:27:35 GMT'), ngx.parse_http_time('now')", "1290079655nil"),
    ("ngx.utctime(), ' ', #ngx.localtime(), #ngx.today()", "2023-11-14 22:13:20 1910"),
    ("ngx.update_time()", ""),
    # the request
    (
        "ngx.req.get_method(), ngx.req.http_version(), ngx.req.is_internal(), ngx.req.start_time()",
        "GET1.1false1700000000.25",
    ),
    ("ngx.req.get_headers().host, ngx.req.get_headers().x_a[2], ngx.req.get_headers()['X-A'][1]", "localhost21"),
    ("ngx.req.get_headers(1).x_a, select(2, ngx.req.get_headers(1))", "niltruncated"),
    ("ngx.req.get_headers(0, true)['X-A'], ngx.req.get_headers(0, true)['x-a'][1]", "nil1"),
    ("ngx.req.raw_header(true)", "host: localhost\r\nx-a: 1\r\nx-a: 2\r\n\r\n"),
    ("ngx.var.uri, ngx.var.nothing, ngx.var.remote_addr, ngx.var[1]", "/nil127.0.0.1nil"),
    # regular expressions
    ("ngx.re.match('hello, 1234', '([0-9])[0-9]+')[0], ngx.re.match('hello, 1234', '([0-9])[0-9]+')[1]", "12341"),
    ("ngx.re.match('hello, world', '(world)|(hello)|(?<named>howdy)')[1]", "false"),
    ("ngx.re.match('hello, 1234', '(?<first>[a-z]+), (?P<num>\\\\d+)').num", "1234"),
    ("ngx.re.match('x', 'y')", "nil"),
    ("ngx.re.find('hello, 1234', '([0-9]+)', 'jo')", "811"),
    ("ngx.re.find('hello, 1234', '([0-9])([0-9]+)', 'jo', nil, 2)", "911"),
    ("ngx.re.find('a', '(a)', '', nil, 2)", "nilnilnth out of bound"),
    ("ngx.re.gsub('hello, world', '([a-z])[a-z]+', '[$0,$1]', 'i')", "[hello,h], [world,w]2"),
    ("ngx.re.sub('hello, 1234', '[0-9]', '${0}0$$')", "hello, 10$2341"),
    ("ngx.re.gsub('abc', '', '-')", "-a-b-c-4"),
    ("ngx.re.gsub('abc', 'B', function(m) return '<' .. m[0] .. '>' end, 'i')", "a<b>c1"),
    ("ngx.re.gsub('abc', '', function() return '.' end)", ".a.b.c.4"),
    ("ngx.re.sub('abc', 'x', 'y')", "abc0"),
    (
        "select(2, pcall(ngx.re.sub, 'abc', 'b', '$x'))",
        'content_by_lua(nginx.conf:103):1: attempt to use invalid capturing variable in "$x"',
    ),
    (
        "select(2, ngx.re.match('a', '(?R)'))",
        'pcre_compile() failed: recursion is not supported by upwell\'s regex engine in "(?R)"',
    ),
    ("pcall(ngx.re.match, 'a', 'a', 'z')", 'falsecontent_by_lua(nginx.conf:103):1: unknown flag "z" (flags "z")'),
    (
        "pcall(ngx.re.match, 'a', 'a', 'd')",
        'falsecontent_by_lua(nginx.conf:103):1: the regex option "d" (DFA mode) is not supported by upwell',
    ),
    (
        "ngx.re.match('a\\nb', 'a$', 'm')[0], ngx.re.match('a\\nb', 'a.b', 's')[0] == 'a\\nb', "
        "ngx.re.match('ab', 'b', 'a')",
        "atruenil",
    ),
    ("ngx.re.match('é!', '^.!', 'u')[0]", "é!"),
    ("ngx.re.match('ab', ' a b # both', 'x')[0]", "ab"),
    # JSON
    ("require('cjson').encode({a = {1, 2, {x = ngx.null}}})", '{"a":[1,2,{"x":null}]}'),
    ("require('cjson').encode('\\t\"\\\\é')", '"\\t\\"\\\\é"'),
    ("require('cjson').encode({}), require('cjson').encode(require('cjson').empty_array)", "{}[]"),
    ("require('cjson').decode('[1, {\"a\": null}, \"\\\\u00e9\"]')[3]", "é"),
    ("require('cjson').decode('{\"a\": null}').a == ngx.null", "true"),
    (
        "require('cjson.safe').decode('{')",
        "nilcontent_by_lua(nginx.conf:103):1: Expected value but found invalid token at character 2",
    ),
    (
        "require('cjson.safe').encode(print)",
        "nilcontent_by_lua(nginx.conf:103):1: Cannot serialise function: type not supported",
    ),
    (
        "require('cjson.safe').encode(0/0)",
        "nilcontent_by_lua(nginx.conf:103):1: Cannot serialise number: must not be NaN or Infinity",
    ),
    # what is not there
    (
        "pcall(function() return ngx.socket.tcp() end)",
        "falsecontent_by_lua(nginx.conf:103):1: ngx.socket.tcp is not supported by upwell",
    ),
    (
        "pcall(function() return ngx.exec('/x') end)",
        "falsecontent_by_lua(nginx.conf:103):1: ngx.exec is not supported by upwell",
    ),
    (
        "pcall(function() return ngx.req.socket() end)",
        "falsecontent_by_lua(nginx.conf:103):1: ngx.req.socket is not supported by upwell",
    ),
    ("ngx.nothing, ngx.shared.nothing", "nilnil"),
]


@pytest.mark.parametrize(("expression", "text"), EXPRESSIONS)
def test_expression(shared_worker: Any, expression: str, text: str) -> None:
    assert shared_worker.say(expression) == text


def test_worker_pid(shared_worker: Any) -> None:
    assert shared_worker.say("ngx.worker.pid()") == str(os.getpid())


def test_regex_context_moves_on(shared_worker: Any) -> None:
    request = shared_worker.get("""
        local ctx = {}
        for _ = 1, 3 do
            local m = ngx.re.match("1234, hello", "[0-9a-z]+", "", ctx)
            ngx.say(m and m[0], " ", ctx.pos)
        end
        ctx = { pos = 2 }
        local from, to = ngx.re.find("aaa", "a", "", ctx)
        ngx.say(from, to, " ", ctx.pos)
        local found = {}
        for m in ngx.re.gmatch("ab1c", "(?<letter>[a-z])") do found[#found + 1] = m.letter end
        ngx.say(found)
        local reused = {}
        ngx.say(ngx.re.match("x", "x", "", nil, reused) == reused, reused[0])
    """)
    assert request.content == b"1234 5\nhello 12\nnil 12\n22 3\nabc\ntruex\n"


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("ngx.header.x_my_header = 'a'", [(b"x-my-header", b"a")]),
        ("ngx.header['X-My'] = {'a', 2}", [(b"X-My", b"a"), (b"X-My", b"2")]),
        ("ngx.header.x = 'a' ngx.header.X = nil", []),
        ("ngx.header.x = 'a' ngx.header.x = {}", []),
        ("ngx.header.location = {'/a', '/b'}", [(b"location", b"/b")]),
        ("ngx.header.x = 'a\\r\\nSet-Cookie: b'", [(b"x", b"a%0D%0ASet-Cookie: b")]),
        ("ngx.header['x\\r\\ny'] = 1", [(b"x%0D%0Ay", b"1")]),
        ("ngx.header.a = true ngx.header.b = 1.5", [(b"a", b"true"), (b"b", b"1.5")]),
    ],
)
def test_header_written(shared_worker: Any, source: str, out: list[tuple[bytes, bytes]]) -> None:
    assert shared_worker.get(source).out == out


def test_header_read(shared_worker: Any) -> None:
    request = shared_worker.get("""
        ngx.header["Set-Cookie"] = {"a", "b"}
        ngx.header.content_type = "application/json"
        ngx.header.content_length = 42
        local all = ngx.resp.get_headers()
        local lines = { type(ngx.header["set-cookie"]), ngx.header.set_cookie[2], tostring(ngx.header.nothing),
            ngx.header["Content-Type"], ngx.header.content_length, all.set_cookie[1], all["Content-Type"] }
        ngx.header.content_length = nil
        ngx.say(table.concat(lines, " "))
        ngx.header.late = 1
        ngx.status = 404
    """)
    assert request.content == b"table b nil application/json 42 a application/json\n"
    assert (request.content_type, request.status) == (b"application/json", 200)
    assert "attempt to set ngx.header.late after sending out response headers" in request.log_text
    assert "attempt to set ngx.status after sending out response headers" in request.log_text


def test_content_type_taken_away(shared_worker: Any) -> None:
    assert shared_worker.get("ngx.header.content_type = nil ngx.say('x')").content_type is None


@pytest.mark.parametrize("status", ["0", "99", "1000", "0/0", "{}", "'x'", "1e300"])
def test_status_refused(shared_worker: Any, status: str) -> None:
    assert shared_worker.say(f"pcall(function() ngx.status = {status} end)").startswith("false")


def test_request_changed(shared_worker: Any) -> None:
    request = shared_worker.get("""
        ngx.req.set_method(ngx.HTTP_PUT)
        ngx.req.set_header("X-New", {"1", "2"})
        ngx.req.set_header("X_A", "a\\nb")
        ngx.req.clear_header("Host")
        ngx.req.set_uri_args({a = "b c"})
        ngx.req.set_uri("/other place")
        ngx.say(ngx.req.get_method(), ngx.var.args, ngx.req.get_uri_args().a, ngx.var.uri)
    """)
    assert request.content == b"PUTa=b%20cb c/other place\n"
    assert request.fields == ((b"x-new", b"1"), (b"x-new", b"2"), (b"x-a", b"a%0Ab"))
    assert request.path == b"/other%20place?a=b%20c"


def test_variables_written(shared_worker: Any, make_request: Any) -> None:
    request = make_request(shared_worker)
    request.variables = {"mine": b""}
    request.run(shared_worker.content("ngx.var.mine = 7 ngx.var.args = 'q=1' ngx.say(ngx.var.mine, ngx.var.args)"))
    assert request.content == b"7q=1\n"
    assert "not found for writing" in shared_worker.say("pcall(function() ngx.var.other = 1 end)")


def test_log_lines(shared_worker: Any) -> None:
    request = shared_worker.get("""
        ngx.log(ngx.ERR, "a ", 1, nil, true)
        local function helper() print("from ", "print") end
        helper()
        ngx.log(ngx.WARN, setmetatable({}, { __tostring = function() return "own" end }))
    """)
    assert request.log_lines == [
        (4, "[lua] content_by_lua(nginx.conf:103):2: a 1niltrue"),
        (6, "[lua] content_by_lua(nginx.conf:103):3: helper(): from print"),
        (5, "[lua] content_by_lua(nginx.conf:103):5: own"),
    ]
    for wrong in ("9", "-1", "'x'", "0/0"):
        assert shared_worker.say(f"pcall(ngx.log, {wrong}, 'x')").startswith("false")


SHARED = [
    ("set('Jim', 8)", "true nil false"),
    ("get('Jim')", "8"),
    ("set('Tom', 'x', 10, 3)", "true nil false"),
    ("get('Tom')", "x 3"),
    ("get_stale('Jim')", "8 nil false"),
    ("add('Jim', 9)", "false exists false"),
    ("safe_add('Jim', 9)", "false exists false"),
    ("replace('Bob', 1)", "false not found false"),
    ("get('Bob')", "nil"),
    ("incr('Bob', 1)", "nil not found"),
    ("incr('Bob', 1, 0, 5)", "1 nil false"),
    ("incr('Bob', '2')", "3"),
    ("incr('Jim', 0.5)", "8.5"),
    ("incr('Tom', 1)", "nil not a number"),
    ("safe_set('n', -1.25)", "true nil false"),
    ("get('n')", "-1.25"),
    ("delete('n')", "true nil false"),
    ("rpush('list', 1)", "1"),
    ("lpush('list', 'zero')", "2"),
    ("llen('list')", "2"),
    ("get('list')", "nil value is a list"),
    ("incr('list', 1)", "nil not a number"),
    ("lpop('list')", "zero"),
    ("rpop('list')", "1"),
    ("rpop('list')", "nil"),
    ("lpush('Tom', 1)", "nil value not a list"),
    ("lpush('list', true)", "nil bad value type"),
    ("ttl('Tom')", "10"),
    ("ttl('Jim')", "0"),
    ("ttl('nobody')", "nil not found"),
    ("expire('Jim', 1)", "true"),
    ("ttl('Jim')", "1"),
    ("expire('nobody', 1)", "nil not found"),
    ("get_keys()[3]", "Jim"),
    ("capacity()", "65536"),
    ("free_space()", "61440"),
    ("get(nil)", "nil nil key"),
    ("get('')", "nil empty key"),
    ("get(('x'):rep(65536))", "nil key too long"),
    ("set('t', {})", "nil bad value type"),
    ("set(nil, 1)", "nil nil key"),
    ("set('b', false)", "true nil false"),
    ("get('b')", "false"),
    ("set('b', nil)", "true nil false"),
    ("get('b')", "nil"),
    ("set(true, 1)", "true nil false"),
    ("get('true')", "1"),
    ("flush_all()", ""),
    ("get('Tom')", "nil"),
    ("get_stale('Tom')", "x 3 true"),
    ("flush_expired(1)", "1"),
    ("flush_expired()", "3"),
    ("flush_expired()", "0"),
]


def test_shared_dictionaries(worker: Any) -> None:
    show = "local function show(...) local t = {...} for i = 1, select('#', ...) do t[i] = tostring(t[i]) end "
    show += "ngx.say(table.concat(t, ' ')) end "
    calls = "".join(f"show(ngx.shared.dogs:{call}) " for call, _ in SHARED)
    lines = worker.get(show + calls).content.decode().splitlines()
    assert [
        (call, line.replace("nil", "", 1) if call == "flush_all()" else line)
        for (call, _), line in zip(SHARED, lines, strict=True)
    ] == SHARED


def test_shared_dictionaries_refuse(shared_worker: Any) -> None:
    assert 'bad "zone" argument' in shared_worker.say("pcall(ngx.shared.dogs.get, {}, 'x')")
    assert 'bad "exptime" argument' in shared_worker.say("pcall(ngx.shared.dogs.set, ngx.shared.dogs, 'x', 1, -1)")
    assert 'must provide "init"' in shared_worker.say("pcall(ngx.shared.dogs.incr, ngx.shared.dogs, 'x', 1, nil, 1)")


def test_timers(worker: Any) -> None:
    worker.init("""
        count = 0
        ngx.timer.at(1, function(premature, a, b)
            ngx.sleep(0.5)
            ngx.log(ngx.ERR, tostring(premature), a, tostring(b), ngx.get_phase())
        end, "x", nil)
        ngx.timer.every(1, function() count = count + 1 if count == 2 then error("bad") end end)
        ngx.timer.at(100, function(premature) ngx.log(ngx.ERR, "at the end: ", tostring(premature)) end)
        pending = ngx.timer.pending_count()
    """)
    assert worker.say("pending, count, ngx.timer.running_count()") == "300"
    worker.later.run(1.6)
    assert worker.log.lines[-1][1] == "[lua] init_worker_by_lua(nginx.conf:9):5: falsexniltimer, context: ngx.timer"
    worker.later.run(3)
    assert worker.say("count") == "4"
    assert "lua entry thread aborted: runtime error: init_worker_by_lua(nginx.conf:9):7: bad" in worker.log.text
    worker.exiting = True
    worker.vm.close()
    assert "at the end: true" in worker.log.text
    assert worker.say("ngx.timer.at(1, print)") == "nilprocess exiting"


@pytest.mark.parametrize(
    "call", ["at, -1, print", "at, 'x', print", "at, 1", "every, 0, print", "at, 0/0, print", "at, 1/0, print"]
)
def test_timers_refuse(shared_worker: Any, call: str) -> None:
    assert shared_worker.say(f"pcall(ngx.timer.{call})").startswith("false")


def test_a_module_of_the_user_is_found_and_upwells_own_come_first(make_worker: Any, tmp_path: Any) -> None:
    (tmp_path / "resty" / "upstream").mkdir(parents=True)
    (tmp_path / "resty" / "upstream" / "healthcheck.lua").write_text(
        "return { status_page = function() return 'other' end }"
    )
    (tmp_path / "mine.lua").write_text("leaked = 1 return { name = 'mine' }")
    (tmp_path / "broken.lua").write_text("return {")
    worker = make_worker(f"{tmp_path}/?.lua;;")
    assert worker.say("require('mine').name, require('mine') == package.loaded.mine") == "minetrue"
    assert worker.say("require('resty.upstream.healthcheck')._VERSION") == "0.08"
    assert worker.say("package.path:find('/usr/local/share/lua', 1, true) ~= nil") == "true"
    assert "error loading module 'broken' from file" in worker.say("pcall(require, 'broken')")
    assert "no file" in worker.say("pcall(require, 'no.such')")
    assert worker.say("require('table.new')(1, 2) ~= nil, require('resty.core') ~= nil") == "truetrue"


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("match(s, p)", "nilpcre_exec() failed: -8"),
        ("match(s, p, 'jo')", "nilpcre_exec() failed: -8"),
        ("match(s, p, 'a')", "nilpcre_exec() failed: -8"),
        ("find(s, p)", "nilnilpcre_exec() failed: -8"),
        ("gmatch(s, p)()", "nilpcre_exec() failed: -8"),
        ("sub(s, p, 'x')", "nilnilpcre_exec() failed: -8"),
        ("gsub(s, p, 'x')", "nilnilpcre_exec() failed: -8"),
        ("gsub(s, p, function() return 'x' end)", "nilnilpcre_exec() failed: -8"),
    ],
)
def test_a_pattern_that_takes_too_long_is_an_error(worker: Any, call: str, answer: str) -> None:
    request = worker.get(f"local s, p = ('a'):rep(60) .. 'b', '^(a+)+$' ngx.print(ngx.re.{call})")
    assert request.content.decode() == answer
