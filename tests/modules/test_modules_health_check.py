"""`health_check` and `match`: what comes out of them, where tests/cases/config has not said it."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from upwell.check.probes import TARGETS
from upwell.check.spec import PLUS, CheckSpec, to_message
from upwell.config.model import Config
from upwell.errors import ConfigErrors
from upwell.modules import (
    check_status,
    health_check,
    health_check_notify,
    health_check_state,
    health_policy,
    match,
    tengine_check,
    upwell_status,
)
from upwell.modules.checks import ChecksSettings
from upwell.modules.health_check import PARAMETERS, TYPES
from upwell.modules.load import load
from upwell.modules.match import literal_expression, octets
from upwell.pcre import compile_pattern


def _load(folder: Path, checks: str, location: str = "", http: str = "", server: str = "") -> Config:
    text = f"""
events {{}}
http {{
    upstream app {{ server 127.0.0.1:8001; }}
    {http}
    server {{
        listen 8099;
        {server}
        location / {{
            proxy_pass http://app;
            {location}
            {checks}
        }}
    }}
}}
"""
    (folder / "nginx.conf").write_text(text)
    return load("nginx.conf", str(folder))


def _specs(folder: Path, checks: str, location: str = "", http: str = "", server: str = "") -> tuple[CheckSpec, ...]:
    config = _load(folder, checks, location, http, server)
    return next(config.main.of("http"))[ChecksSettings].specs


def _lines(spec: CheckSpec) -> list[str]:
    return spec.request.decode("utf-8", "surrogateescape").split("\r\n")


def _error(folder: Path, checks: str) -> str:
    with pytest.raises(ConfigErrors) as caught:
        _load(folder, checks)
    return "; ".join(error.message for error in caught.value.errors)


def test_the_defaults_are_those_of_nginx_plus(tmp_path: Path) -> None:
    (spec,) = _specs(tmp_path, "health_check;")
    assert (spec.upstream, spec.type, spec.dialect) == ("app", "http", PLUS)
    assert (spec.interval, spec.fall, spec.rise, spec.timeout) == (5.0, 1, 1, 60.0)
    assert (spec.initial, spec.port, spec.match, spec.revives_down) == ("up", 0, None, False)
    assert _lines(spec)[:3] == ["GET / HTTP/1.1", "Host: app", "Connection: close"]


def test_a_check_survives_the_way_to_the_checker(tmp_path: Path) -> None:
    http = "match m { header A ~ b; status ! 500-599; require $status; }"
    for spec in _specs(tmp_path, "health_check match=m mandatory; health_check type=tcp expect=x;", http=http):
        assert json.loads(json.dumps(to_message(spec)))["upstream"] == spec.upstream


def test_equal_checks_of_two_locations_are_two(tmp_path: Path) -> None:
    server = "location /other { proxy_pass http://app; health_check; }"
    one, two = _specs(tmp_path, "health_check;", server=server)
    assert (one.ordinal, two.ordinal) == (0, 1)
    assert one.identity != two.identity


def test_checks_of_one_name_are_told_apart_by_their_number(tmp_path: Path) -> None:
    """In logs and on all pages; their identities, and so what is known of them, do not depend on it."""
    one, two, other, three = "uri=/ header=A:1", "uri=/ header=A:2", "uri=/x", "uri=/ header=A:3"
    specs = _specs(tmp_path, "".join(f"health_check {text};" for text in (one, two, other, three)))
    assert [spec.title for spec in specs] == ["http GET /", "http GET / #2", "http GET /x", "http GET / #3"]
    alone = _specs(tmp_path, f"health_check {two};")
    assert alone[0].title == "http GET /"
    assert alone[0].identity == specs[1].identity


def test_another_interval_is_the_same_check_and_another_uri_is_not(tmp_path: Path) -> None:
    (one,) = _specs(tmp_path, "health_check uri=/a;")
    (two,) = _specs(tmp_path, "health_check uri=/a interval=1s fails=3 timeout=1s;")
    (three,) = _specs(tmp_path, "health_check uri=/b;")
    assert one.identity == two.identity != three.identity


@pytest.mark.parametrize(
    ("location", "checks", "timeout"),
    [
        ("proxy_connect_timeout 2s;", "health_check;", 2.0),
        ("proxy_send_timeout 3s; proxy_read_timeout 4s;", "health_check;", 3.0),
        ("proxy_read_timeout 4s; proxy_connect_timeout 0;", "health_check;", 4.0),
        ("proxy_connect_timeout 2s;", "health_check timeout=9s;", 9.0),
    ],
)
def test_a_probe_takes_no_longer_than_the_shortest_time_of_the_location(
    location: str, checks: str, timeout: float, tmp_path: Path
) -> None:
    (spec,) = _specs(tmp_path, checks, location)
    assert spec.timeout == timeout


@pytest.mark.parametrize(
    ("written", "request_bytes"),
    [
        ('"send=a  b"', b"a  b"),
        ('send="a b c"', b"a b c"),
        ("send='a b'", b"a b"),
        ('send="ab"', b"ab"),
        (r'send="a\x00\xfe\r\n"', b"a\0\xfe\r\n"),
        (r'"send=\"ab\""', b'"ab"'),
        ("send=", b""),
    ],
)
def test_quotes_stand_around_a_parameter_or_its_value(written: str, request_bytes: bytes, tmp_path: Path) -> None:
    (spec,) = _specs(tmp_path, f"health_check type=tcp {written} interval=7s;")
    assert (spec.request, spec.interval) == (request_bytes, 7.0)


@pytest.mark.parametrize("text", ["plain", "a.b*c", r"\x00\xff\\", "\u00e4(", "(?i)"])
def test_a_literal_expectation_finds_itself_and_nothing_else(text: str) -> None:
    pattern = compile_pattern(literal_expression(text).encode("ascii"), 0)
    assert pattern.search(b"..." + octets(text) + b"...")
    assert not pattern.search(octets(text)[:-1])


def test_a_regular_expression_may_be_expected(tmp_path: Path) -> None:
    checks = r'health_check type=tcp expect=~^2\d\d; health_check type=tcp "expect=~*^ok .";'
    one, two = _specs(tmp_path, checks)
    assert (one.expect, two.expect) == (r"^2\d\d", "(?i)^ok .")


def test_the_fields_of_the_location_are_sent_once_and_the_parameters_replace_them(tmp_path: Path) -> None:
    location = """
        proxy_set_header X-A one; proxy_set_header x-a two; proxy_set_header X-B "";
        proxy_set_header Content-Length 5; proxy_set_header Transfer-Encoding chunked; proxy_set_header Host real.host;
    """
    (one, two) = _specs(
        tmp_path, 'health_check; health_check "header=X-A: three" header="user-agent: me" host=x:81;', location
    )
    lines = _lines(one)
    assert lines[1] == "Host: real.host"
    assert lines[4:] == ["x-a: two", "", ""]
    assert _lines(two)[1:] == ["Host: x:81", "Connection: close", "user-agent: me", "X-A: three", "", ""]


def test_a_body_of_the_location_is_sent_with_its_length(tmp_path: Path) -> None:
    (spec,) = _specs(tmp_path, "health_check uri=/x?y;", 'proxy_method POST; proxy_set_body "\u00e4$uri$remote_addr";')
    head, _, body = spec.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /x?y HTTP/1.1\r\n")
    assert head.endswith(b"Content-Length: 4")
    assert body == "\u00e4/x".encode()


def test_a_kept_connection_is_asked_for_in_http_1_1(tmp_path: Path) -> None:
    (spec,) = _specs(tmp_path, "health_check keepalive_time=10s;", "proxy_http_version 1.0;")
    assert _lines(spec)[0] == "GET / HTTP/1.1"
    assert not [line for line in _lines(spec) if line.startswith("Connection")]
    assert spec.keepalive_time == 10.0


@pytest.mark.parametrize("value", ["$http_host", "$host", '""'])
def test_a_host_that_only_a_client_knows_is_warned_of_and_replaced(value: str, tmp_path: Path) -> None:
    config = _load(tmp_path, "health_check;", f"proxy_set_header Host {value};")
    (spec,) = next(config.main.of("http"))[ChecksSettings].specs
    assert _lines(spec)[1] == "Host: app"
    assert [warning.message for warning in config.warnings] == [
        '"Host" is empty without a client, a health check sends "app"'
    ]


def test_a_variable_that_a_request_makes_is_warned_of(tmp_path: Path) -> None:
    config = _load(tmp_path, "health_check;", "set $mine x; proxy_set_header X-Mine $mine; proxy_set_header Y $args;")
    assert [warning.message for warning in config.warnings] == ['"$mine" is empty in a health check']


def test_a_health_check_belongs_to_one_location_and_its_timeouts_are_inherited(tmp_path: Path) -> None:
    server = "proxy_read_timeout 2s;"
    specs = _specs(tmp_path, "health_check; location /in { proxy_pass http://127.0.0.1:9; }", server=server)
    assert [(spec.upstream, spec.timeout) for spec in specs] == [("app", 2.0)]


def test_the_types_that_can_be_asked_for_are_those_that_can_be_probed(tmp_path: Path) -> None:
    for name in TYPES - set(TARGETS):
        assert _error(tmp_path, f"health_check type={name};") == f'"type={name}" is not supported by upwell'


@pytest.mark.skipif("exec" not in TARGETS, reason="no such probe")
def test_a_command_is_cut_into_its_arguments_and_must_be_there(tmp_path: Path) -> None:
    (spec,) = _specs(tmp_path, """health_check type=exec "command=/bin/sh -c 'exit 0'";""")
    assert spec.command == ("/bin/sh", "-c", "exit 0")
    assert _error(tmp_path, "health_check type=exec;") == '"type=exec" needs the parameter "command"'
    assert "is no absolute path" in _error(tmp_path, "health_check type=exec command=sh;")
    assert "cannot be run" in _error(tmp_path, "health_check type=exec command=/nosuch;")
    assert "invalid command value" in _error(tmp_path, "health_check type=exec command=;")


@pytest.mark.skipif("python" not in TARGETS, reason="no such probe")
def test_a_function_is_named_with_its_module(tmp_path: Path) -> None:
    # Not below tmp_path: by default, the user that probes may not read there.
    with tempfile.TemporaryDirectory() as folder:
        open_path = Path(folder)
        open_path.chmod(0o755)
        (open_path / "well.py").write_text("import os\nclass peer:\n    @staticmethod\n    def is_well(peer): ...\n")
        (spec,) = _specs(open_path, "health_check type=python function=well:peer.is_well;")
        assert spec.function == "well:peer.is_well"
        assert "well" not in sys.modules
        assert _error(open_path, "health_check type=python function=well:peer.is_ill;") == (
            'no "peer.is_ill" in module well'
        )
        (open_path / "well.py").write_text("import nosuchmodule\n")
        assert _error(open_path, "health_check type=python function=well:peer.is_well;") == (
            "cannot import well: ModuleNotFoundError: No module named 'nosuchmodule'"
        )
        (open_path / "well.py").write_text("import os\nassert os.geteuid() == 65534\nos._exit(0)\n")
        assert _error(open_path, "health_check type=python function=well:peer.is_well;") == (
            "the import ended the process" if os.geteuid() == 0 else "cannot import well: AssertionError"
        )
        sys.path.remove(str(open_path))
    for wrong in ("my.checks", "my:", ":f", "my checks:f", "my..checks:f", "1:f"):
        assert "invalid function value" in _error(tmp_path, f'health_check type=python "function={wrong}";')


@pytest.mark.skipif("grpc" not in TARGETS, reason="no such probe")
def test_grpc_has_a_service_and_a_status_but_no_uri(tmp_path: Path) -> None:
    one, two = _specs(
        tmp_path, "health_check type=grpc; health_check mandatory type=grpc grpc_service=a.B grpc_status=12;"
    )
    assert (one.service, one.grpc_status, one.host) == ("", -1, "app")
    assert (two.service, two.grpc_status, two.initial) == ("a.B", 12, "checking")
    assert "not compatible" in _error(tmp_path, "health_check type=grpc uri=/;")
    assert "not compatible" in _error(tmp_path, "health_check type=grpc match=x;")
    for wrong in ("0", "17", "x", "-1"):
        assert (
            _error(tmp_path, f"health_check type=grpc grpc_status={wrong};") == f'invalid grpc_status value "{wrong}"'
        )


def test_a_database_is_asked_by_a_user(tmp_path: Path) -> None:
    checks = 'health_check type=mysql user=probe; health_check type=postgres "user=a b" database=shop;'
    one, two = _specs(tmp_path, checks)
    assert one.params == (("user", "probe"),)
    assert two.params == (("user", "a b"), ("database", "shop"))
    assert "not compatible" in _error(tmp_path, "health_check type=mysql database=x;")
    assert "not compatible" in _error(tmp_path, "health_check type=redis user=x;")
    assert _error(tmp_path, "health_check type=mysql user=;") == 'invalid user value ""'
    assert _error(tmp_path, 'health_check type=mysql "user=a\\nb";') == 'invalid user value "a?b"'


def test_connections_are_kept_where_a_probe_can_be_repeated_on_one(tmp_path: Path) -> None:
    for kind in ("http", "https", "grpc", "redis", "ajp"):
        (spec,) = _specs(tmp_path, f"health_check type={kind} keepalive_time=10s;")
        assert spec.keepalive_time == 10.0
    for kind in ("tcp", "tls", "mysql", "postgres", "ssl_hello"):
        assert "not compatible" in _error(tmp_path, f"health_check type={kind} keepalive_time=10s;")


def test_files_are_found_from_the_prefix_and_must_be_certificates(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate\n")
    assert _error(tmp_path, "health_check type=https ca=none.pem;").startswith(
        f'cannot load certificate "{tmp_path}/none.pem": '
    )
    assert _error(tmp_path, "health_check type=https certificate=none.pem;").startswith(
        f'cannot load certificate "{tmp_path}/none.pem": '
    )


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("grpc_pass grpc://app;", '"grpc_pass" is not supported by upwell: peers are spoken to in HTTP/1.x'),
        ("proxy_pass https://nosuch.test;", 'host not found in upstream "nosuch.test"'),
    ],
)
def test_a_refused_pass_directive_is_one_error(refused: str, message: str, tmp_path: Path) -> None:
    server = f"location /other {{ {refused} health_check; health_check uri=/2; }}"
    with pytest.raises(ConfigErrors) as caught:
        _load(tmp_path, "", server=server)
    assert [error.message for error in caught.value.errors] == [message]
    with pytest.raises(ConfigErrors) as caught:
        _load(tmp_path, "", server=f"{server} location /without {{ health_check; }}")
    assert len(caught.value.errors) == 2


def test_probes_go_over_tls_where_requests_do(tmp_path: Path) -> None:
    [plain] = _specs(tmp_path, "health_check;", "proxy_ssl_verify on;")
    assert (plain.type, plain.host) == ("http", "")
    tls = Path(__file__).parents[1] / "check" / "tls"
    settings = f"""proxy_ssl_certificate {tls}/good-test-only.pem; proxy_ssl_certificate_key {tls}/leaf-test-only.key;
        proxy_ssl_trusted_certificate {tls}/authority-test-only.pem;"""

    def found(more: str) -> CheckSpec:
        location = f"server_name here.test; location /s {{ proxy_pass https://app; {settings} {more} health_check; }}"
        [spec] = _specs(tmp_path, "", server=location)
        assert spec.certificate == f"{tls}/good-test-only.pem"
        assert spec.ca == f"{tls}/authority-test-only.pem"
        return spec

    spec = found("")
    assert (spec.type, spec.verify, spec.host) == ("https", False, "")
    spec = found("proxy_ssl_server_name on; proxy_ssl_name $server_name.test; proxy_ssl_verify on;")
    assert (spec.verify, spec.host) == (True, "here.test.test")
    assert found("proxy_ssl_server_name on;").host == "app"


def test_no_more_checks_than_there_is_room_for(tmp_path: Path) -> None:
    checks = "".join(f"health_check uri=/{number};\n" for number in range(8))
    assert len(_specs(tmp_path, checks)) == 8
    with pytest.raises(ConfigErrors) as caught:
        _load(tmp_path, f"{checks}health_check uri=/8;")
    (error,) = caught.value.errors
    assert error.message == 'upstream "app" has more than 8 health checks'
    assert error.position is not None
    lines = (tmp_path / "nginx.conf").read_text().splitlines()
    assert "uri=/8" in lines[error.position.line - 1]


def test_every_parameter_and_type_is_in_the_reference() -> None:
    text = (Path(__file__).parents[2] / "docs" / "health-checks.md").read_text()
    assert [name for name in PARAMETERS if f"`{name}=" not in text] == []
    assert [name for name in TYPES if f"`{name}`" not in text] == []


def test_every_directive_metric_and_field_is_in_the_reference(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "health-checks.md").read_text()
    modules = (check_status, health_check, health_check_notify, health_check_state, health_policy, match, tengine_check)
    names = {item.name for module in (*modules, upwell_status) for item in module.MODULE.commands}
    assert len(names) > 15
    assert sorted(name for name in names if not re.search(rf"`{name}\b|## .*\b{name}\b", text)) == []
    http = "upstream t { server 127.0.0.1:1; check type=tcp; } "
    http += "server { listen 127.0.0.1:8080; allow all; location / { upwell_status; } }"
    with Serving(tmp_path, http) as serving:
        (spec,) = serving.checks
        serving.table.add_check(0, spec.identity, spec.rise, spec.rise)
        whole = json.loads(serving.ask(b"GET /?format=json HTTP/1.1\r\nHost: x\r\n\r\n").body)
        metrics = serving.ask(b"GET /?format=prometheus HTTP/1.1\r\nHost: x\r\n\r\n").body.decode()
    peer = whole["upstreams"][0]["peers"][0]
    fields = [*whole, *whole["checker"], *whole["upstreams"][0], *peer, *peer["checks"][0]]
    assert [name for name in fields if f"`{name}`" not in text] == []
    families = re.findall("# TYPE ([a-z_]+)", metrics)
    assert len(families) > 15
    told = text.replace("`_", "`upwell_upstream_peer_")
    assert [name for name in families if f"`{name}`" not in told] == []
