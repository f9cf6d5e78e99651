"""ngx.upstream and resty.upstream.healthcheck: fields, errors, specs and pages, byte for byte."""

from __future__ import annotations

from typing import Any

import pytest

from upwell.check.spec import CheckSpec

SPAWN = 'local hc = require "resty.upstream.healthcheck" ngx.say(hc.spawn_checker{ %s })'


def spawn(worker: Any, options: str) -> str:
    content: bytes = worker.get(SPAWN % options).content
    return content.decode().removesuffix("\n")


def test_names_and_peers(worker: Any) -> None:
    request = worker.get("""
        local u = require "ngx.upstream"
        ngx.say(u.get_upstreams())
        local function show(peers)
            for _, peer in ipairs(peers) do
                local names = {}
                for name, value in pairs(peer) do names[#names + 1] = name .. "=" .. tostring(value) end
                table.sort(names)
                ngx.say(table.concat(names, " "))
            end
        end
        show(u.get_primary_peers("nginx_upstream"))
        show(u.get_backup_peers("nginx_upstream"))
        show(u.get_servers("tomcat_upstream"))
        ngx.say(#u.get_backup_peers("tomcat_upstream"), u.current_upstream_name())
    """)
    assert request.content.decode().splitlines() == [
        "tomcat_upstreamnginx_upstream",
        "conns=0 current_weight=0 effective_weight=1 fail_timeout=10 fails=0 id=0 max_fails=1 "
        "name=127.0.0.1:83 weight=1",
        "conns=0 current_weight=0 down=true effective_weight=1 fail_timeout=10 fails=0 id=1 max_fails=1 "
        "name=127.0.0.1:84 weight=1",
        "conns=0 current_weight=0 effective_weight=1 fail_timeout=10 fails=0 id=0 max_fails=1 "
        "name=127.0.0.1:85 weight=1",
        "addr=127.0.0.1:81 fail_timeout=10 max_fails=1 name=127.0.0.1:81 weight=1",
        "addr=127.0.0.1:82 fail_timeout=5 max_fails=3 name=127.0.0.1:82 weight=2",
        "0nil",
    ]


def test_a_failure_shows_its_times(worker: Any) -> None:
    upstream = worker.upstreams[0]
    peer = upstream.pick((), worker.later.now)
    upstream.release(peer, worker.later.now, True)
    worker.later.now += 5
    said = worker.say(
        "(function() for _, p in ipairs(require('ngx.upstream').get_primary_peers('tomcat_upstream')) do"
        " if p.fails > 0 then return p.fails, ' ', p.accessed, ' ', p.checked end end end)()"
    )
    assert said == "1 1700000000 1700000000"


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("get_primary_peers('no')", "nilupstream not found"),
        ("get_primary_peers('127.0.0.1:99')", "nilupstream not found"),
        ("get_backup_peers('no')", "nilupstream not found"),
        ("get_servers('no')", "nilupstream not found"),
        ("set_peer_down('no', false, 0, true)", "nilupstream not found"),
        ("set_peer_down('tomcat_upstream', false, 2, true)", "nilbad peer id"),
        ("set_peer_down('tomcat_upstream', false, -1, true)", "nilbad peer id"),
        ("set_peer_down('tomcat_upstream', true, 0, true)", "nilno backup peers"),
    ],
)
def test_errors(worker: Any, call: str, answer: str) -> None:
    assert worker.say(f"require('ngx.upstream').{call}") == answer
    assert worker.checks.downs == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("get_upstreams, 1", "no argument expected"),
        ("get_primary_peers", "exactly one argument expected"),
        ("get_servers, 'a', 'b'", "exactly one argument expected"),
        ("set_peer_down, 'a'", "exactly 4 arguments expected"),
        ("get_primary_peers, {}", "string expected, got table"),
    ],
)
def test_wrong_arguments_are_lua_errors(worker: Any, call: str, message: str) -> None:
    assert message in worker.say(f"pcall(require('ngx.upstream').{call.replace(',', ',', 1)})")


def test_set_peer_down_is_seen_at_once_and_sent(worker: Any) -> None:
    request = worker.get("""
        local u = require "ngx.upstream"
        ngx.say(u.set_peer_down("nginx_upstream", false, 0, true), u.get_primary_peers("nginx_upstream")[1].down)
        ngx.say(u.set_peer_down("nginx_upstream", true, 0, 1), u.get_backup_peers("nginx_upstream")[1].down)
    """)
    assert request.content == b"truetrue\ntruetrue\n"
    assert worker.checks.downs == [(peer.key, True) for peer in worker.upstreams[1].peers if peer.id == 0]
    assert worker.upstreams[1].pick((), 0.0) is None


GOOD = 'shm = "healthcheck", type = "http", upstream = "nginx_upstream", http_req = "GET / HTTP/1.0\\r\\n\\r\\n"'


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ("", 'nil"type" option required'),
        ("type = 'udp'", 'nilonly "http" and "https" type are supported right now'),
        ("type = 'http'", 'nil"http_req" option required'),
        ("type = 'http', http_req = 'x'", 'nil"shm" option required'),
        ("type = 'http', http_req = 'x', shm = 'no'", 'nilshm "no" not found'),
        ("type = 'http', http_req = 'x', shm = 'dogs'", "nilno upstream specified"),
        (
            "type = 'http', http_req = 'x', shm = 'dogs', upstream = 'no'",
            "nilfailed to get primary peers: upstream not found",
        ),
        ("type = 'tcp'", 'nil"shm" option required'),
        (GOOD, "true"),
    ],
)
def test_spawn_checker_answers_in_the_librarys_order(worker: Any, options: str, answer: str) -> None:
    assert spawn(worker, options) == answer
    assert len(worker.checks.added) == (answer == "true")


def test_defaults(worker: Any) -> None:
    spawn(worker, GOOD)
    assert worker.checks.added == [
        CheckSpec(
            "nginx_upstream",
            "http",
            b"GET / HTTP/1.0\r\n\r\n",
            interval=1.0,
            timeout=1.0,
            fall=5,
            rise=2,
            revives_down=True,
        )
    ]


def test_the_guides_options(worker: Any) -> None:
    spawn(
        worker,
        GOOD + ", interval = 3000, timeout = 5000, fall = 3, rise = 2, valid_statuses = {200, 302}, concurrency = 2",
    )
    spec = worker.checks.added[0]
    assert (spec.interval, spec.timeout, spec.fall, spec.rise, spec.statuses, spec.concurrency) == (
        3.0,
        5.0,
        3,
        2,
        (200, 302),
        2,
    )


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ("interval = 1", "interval", 0.002),
        ("interval = 0", "interval", 0.002),
        ("timeout = 250", "timeout", 0.25),
        ("timeout = 1", "timeout", 0.001),
        ("timeout = 0", "timeout", 60.0),
        ("timeout = 0.5", "timeout", 60.0),
        ("timeout = -1", "timeout", 60.0),
        ("valid_statuses = {}", "statuses", (0,)),
        ("valid_statuses = {'200'}", "statuses", (0,)),
        ("valid_statuses = {200, 200, 204}", "statuses", (200, 204)),
        ("fall = 0", "fall", 1),
        ("rise = 1.5", "rise", 2),
        ("concurrency = 0", "concurrency", 1),
        ("port = 8081", "port", 8081),
        ("host = 'a.example'", "host", "a.example"),
        ("ssl_verify = false", "verify", False),
        ("http_req = '\\0\\255'", "request", b"\0\xff"),
    ],
)
def test_options(worker: Any, option: str, field: str, value: object) -> None:
    assert spawn(worker, f"{GOOD}, {option}") == "true"
    assert getattr(worker.checks.added[0], field) == value


@pytest.mark.parametrize(
    "option", ["interval = {}", "timeout = print", "port = 1e9", "port = 'x'", "fall = 0/0", "concurrency = 1/0"]
)
def test_options_that_make_no_sense_raise(worker: Any, option: str) -> None:
    assert worker.get(SPAWN % f"{GOOD}, {option}").status == 500
    assert worker.checks.added == []


@pytest.mark.parametrize("host", ["a..b", ".", "a\\0b", "x" * 64, "b\\195\\188cher.example", "a b", ".a"])
def test_a_host_that_tls_cannot_take_is_refused(worker: Any, host: str) -> None:
    answer = spawn(worker, GOOD.replace('"http"', '"https"') + f', host = "{host}"')
    assert answer.startswith('nilinvalid "host" option: ')
    assert worker.checks.added == []


@pytest.mark.parametrize("host", ["a.example", "a.example.", "my_host", "127.0.0.1", "::1", "", "x" * 63])
def test_a_host_that_tls_can_take_is_taken(worker: Any, host: str) -> None:
    assert spawn(worker, GOOD.replace('"http"', '"https"') + f', host = "{host}"') == "true"
    assert worker.checks.added[0].host == host


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("interval = math.huge", 'nilinvalid "interval" option: it must be finite'),
        ("fall = 2^62", 'nilinvalid "fall" or "rise" option: at most 1073741824 results are counted'),
        ("rise = 2^31", 'nilinvalid "fall" or "rise" option: at most 1073741824 results are counted'),
        ("http_req = ('x'):rep(70000)", 'nil"http_req" or "host" option too long'),
        ("host = ('x'):rep(70000)", 'nil"http_req" or "host" option too long'),
    ],
)
def test_options_beyond_measure_are_refused(worker: Any, option: str, answer: str) -> None:
    assert spawn(worker, f"{GOOD}, {option}") == answer
    assert worker.checks.added == []


def test_a_check_that_the_way_to_the_checker_refuses_is_refused(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec: CheckSpec) -> None:
        raise ValueError("a message to the checker is too long")

    monkeypatch.setattr(worker.checks, "add_check", refuse)
    assert spawn(worker, GOOD) == "nila message to the checker is too long"


def test_tcp_needs_no_request(worker: Any) -> None:
    assert spawn(worker, "type = 'tcp', shm = 'healthcheck', upstream = 'tomcat_upstream'") == "true"
    assert (worker.checks.added[0].type, worker.checks.added[0].request) == ("tcp", b"")


def test_pages_with_a_checker(worker: Any) -> None:
    worker.init('require "resty.upstream.healthcheck".spawn_checker{ ' + GOOD + " }")
    upstream = worker.upstreams[1]
    upstream.set_local_down(True, 0, True)
    assert worker.get('ngx.print(require "resty.upstream.healthcheck".status_page())').content == (
        b"Upstream tomcat_upstream (NO checkers)\n    Primary Peers\n"
        b"        127.0.0.1:81 UP\n        127.0.0.1:82 UP\n    Backup Peers\n\n"
        b"Upstream nginx_upstream\n    Primary Peers\n"
        b"        127.0.0.1:83 UP\n        127.0.0.1:84 DOWN\n    Backup Peers\n        127.0.0.1:85 DOWN\n"
    )
    metric = 'nginx_upstream_status_info{name="nginx_upstream",endpoint="127.0.0.1:%d",status="%s",role="%s"} %d\n'
    peers = "".join(
        metric % (port, "UP", role, up) + metric % (port, "DOWN", role, 1 - up)
        for port, role, up in ((83, "PRIMARY", 1), (84, "PRIMARY", 0), (85, "BACKUP", 0))
    )
    summary = 'nginx_upstream_status_info{name="%s",status="%s"} %d\n'
    expected = (
        "# HELP nginx_upstream_status_info The running status of nginx upstream\n"
        "# TYPE nginx_upstream_status_info gauge\n"
        + "".join(summary % ("tomcat_upstream", state, state == "UNKNOWN") for state in ("UP", "DOWN", "UNKNOWN"))
        + peers
        + "".join(summary % ("nginx_upstream", state, state == "UP") for state in ("UP", "DOWN", "UNKNOWN"))
    )
    page = 'ngx.print(require "resty.upstream.healthcheck".prometheus_status_page())'
    assert worker.get(page).content.decode() == expected
    upstream.set_local_down(False, 0, True)
    down = worker.get(page).content.decode()
    assert down.endswith(
        "".join(summary % ("nginx_upstream", state, state == "DOWN") for state in ("UP", "DOWN", "UNKNOWN"))
    )
