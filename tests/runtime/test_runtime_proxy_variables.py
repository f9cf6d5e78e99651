"""proxy_pass with variables: which upstream a value means, the target that goes there, the values that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import get, response
from upwell.runtime.destinations import _MOST_MADE

CONFIGURATION = r"""
upstream o { server 10.0.0.1:80; }
upstream Big { server 10.0.0.2:80; }
access_log off;
server {
    listen 127.0.0.1:8080;
    server_name localhost;
    location /v/ { proxy_pass http://$arg_h; proxy_set_header X-V "$proxy_host|$proxy_port"; }
    location /uri/ { proxy_pass http://$arg_h$uri; }
    location /request/ { proxy_pass http://o$request_uri; }
    location /query { proxy_pass http://o?a=$arg_a; }
    location ~ ^/re/(?s:(.*))$ { proxy_pass http://o/$1; }
    location /raw { proxy_pass $arg_u; }
    location /configured { proxy_pass http://10.0.0.2; proxy_set_header X-V "$proxy_host|$proxy_port"; }
    location /unix { proxy_pass http://unix:/tmp/upwell-none; }
    location /redirect/ { proxy_pass http://$arg_h; }
    location /pairs/ { proxy_pass http://$arg_h; proxy_redirect http://in/ http://out/; }
    location /host/ { proxy_pass http://$arg_h; proxy_set_header Host $proxy_host:x; }
}
"""


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


def _lines(serving: Serving, target: str) -> list[bytes]:
    answer = serving.ask(get(target))
    assert answer.status == 200, serving.log.lines
    return answer.body.split(b"\r\n")[:-2]


@pytest.mark.parametrize(
    ("target", "passed"),
    [
        ("/v/a%20b?h=o&c=d", "/v/a%20b?h=o&c=d"),
        ("/v/?h=o/", "/"),
        ("/v/?h=o/x/y?z=%20", "/x/y?z=%20"),
        ("/v/?h=o?z", "/?z"),
        ("/v/?h=o#z", "/v/?h=o#z"),
        ("/uri/a/../b?h=o", "/uri/b"),
        ("/uri/a%2Fb?h=o", "/uri/a/b"),
        ("/request/a%2Fb?c=d", "/request/a%2Fb?c=d"),
        ("/query?a=b", "/?a=b"),
        ("/re/a/b?c=d", "/a/b"),
        ("/raw?u=HTTP://o/x", "/x"),
    ],
)
def test_the_target_is_the_value_s_uri_or_the_client_s_own(serving: Serving, target: str, passed: str) -> None:
    with serving:
        assert _lines(serving, target)[0] == f"GET {passed} HTTP/1.1".encode()


@pytest.mark.parametrize(
    ("target", "passed"),
    [
        ("/uri/a%20b?h=o", "/uri/a%20b"),
        ("/uri/a%20HTTP/1.1%0d%0aX:%20y?h=o", "/uri/a%20HTTP/1.1%0D%0AX:%20y"),
        ("/uri/a%0d%0a%0d%0aGET%20/%20HTTP/1.1?h=o", "/uri/a%0D%0A%0D%0AGET%20/%20HTTP/1.1"),
        ("/uri/a%09%7f?h=o", "/uri/a%09%7F"),
        ("/re/a%0ab%0dc", "/a%0Ab%0Dc"),
    ],
)
def test_a_decoded_value_never_ends_the_request_line(serving: Serving, target: str, passed: str) -> None:
    with serving:
        lines = _lines(serving, target)
        assert lines[0] == f"GET {passed} HTTP/1.1".encode()
        assert lines[1:] == [b"Host: o"]


@pytest.mark.parametrize(
    ("host", "origin", "field", "variables"),
    [
        ("o", 0, "o", "o|80"),
        ("O", 0, "O", "O|80"),
        ("big", 1, "big", "big|80"),
        ("10.0.0.1", 0, "10.0.0.1", "10.0.0.1|80"),
        ("10.0.0.1:80", 0, "10.0.0.1", "10.0.0.1|80"),
        ("10.0.0.2", 1, "10.0.0.2", "10.0.0.2|80"),
    ],
)
def test_a_group_or_an_address_is_found(serving: Serving, host: str, origin: int, field: str, variables: str) -> None:
    with serving:
        lines = _lines(serving, f"/v/?h={host}")
        assert sorted(lines[1:]) == [f"Host: {field}".encode(), f"X-V: {variables}".encode()]
        assert len(serving.origins[origin].connections) == 1
        assert not serving.origins[1 - origin].connections


def test_an_address_that_the_configuration_has_is_the_same_upstream(serving: Serving) -> None:
    with serving:
        assert _lines(serving, "/configured")[1:] == [b"X-V: 10.0.0.2|80", b"Host: 10.0.0.2"]
        _lines(serving, "/v/?h=10.0.0.2:80")
        assert len(serving.origins[1].connections) == 1  # the kept one was used again


def test_connections_to_an_address_are_kept(serving: Serving) -> None:
    with serving:
        _lines(serving, "/v/?h=10.0.0.1")
        _lines(serving, "/v/?h=10.0.0.1:80")
        assert len(serving.origins[0].connections) == 1


@pytest.mark.parametrize(
    ("target", "status", "told"),
    [
        ("/v/?h=name", 502, "no resolver defined to resolve name"),
        ("/v/?h=o:80", 502, "no resolver defined to resolve o"),
        ("/v/?h=u@10.0.0.1", 502, "no resolver defined to resolve u@10.0.0.1"),
        ("/v/?h=", 500, 'invalid URL prefix in "http://"'),
        ("/v/?h=/x", 500, 'no host in upstream "/x"'),
        ("/v/?h=:80", 500, 'no host in upstream ":80"'),
        ("/v/?h=10.0.0.1:0", 500, 'invalid port in upstream "10.0.0.1:0"'),
        ("/v/?h=10.0.0.1:65536", 500, 'invalid port in upstream "10.0.0.1:65536"'),
        ("/v/?h=10.0.0.1:x", 500, 'invalid port in upstream "10.0.0.1:x"'),
        ("/v/?h=[::1", 500, 'invalid host in upstream "[::1"'),
        ("/v/?h=unix:", 500, 'no path in the unix domain socket in upstream "unix:"'),
        ("/raw?u=ftp://o", 500, 'invalid URL prefix in "ftp://o"'),
        ("/raw?u=o", 500, 'invalid URL prefix in "o"'),
        ("/raw?u=", 500, 'invalid URL prefix in ""'),
        ("/raw?u=http://", 500, 'invalid URL prefix in "http://"'),
    ],
)
def test_a_value_that_leads_nowhere_is_answered_as_nginx_does(
    serving: Serving, target: str, status: int, told: str
) -> None:
    with serving:
        assert serving.ask(get(target)).status == status
        assert [line.partition(", client")[0] for line in serving.log.lines] == [told]
        assert not any(origin.connections for origin in serving.origins)


def test_what_is_told_of_a_value_stays_on_its_line(serving: Serving) -> None:
    with serving:
        assert serving.ask(get("/uri/%0a2026/01/01%20[emerg]?h=x:y")).status == 500
        assert len(serving.log.lines) == 1
        assert "\n" not in serving.log.lines[0]


def test_proxy_redirect_has_no_default_but_its_own_pairs(serving: Serving) -> None:
    with serving:
        serving.reply = response(b"", "Location: http://o/x", status="302 Found")
        assert serving.ask(get("/redirect/?h=o")).field("Location") == "http://o/x"
        serving.reply = response(b"", "Location: http://in/x", status="302 Found")
        assert serving.ask(get("/pairs/?h=o")).field("Location") == "http://out/x"


def test_the_slash_of_a_directory_is_redirected_to(serving: Serving) -> None:
    with serving:
        assert serving.ask(get("/v?h=o")).field("Location") == "http://test:8080/v/?h=o"


def test_a_host_of_one_s_own_may_use_the_variable(serving: Serving) -> None:
    with serving:
        assert _lines(serving, "/host/?h=o")[1:] == [b"Host: o:x"]


def test_addresses_of_all_the_world_fill_no_memory(serving: Serving) -> None:
    with serving:
        destinations = serving.runtime._destinations
        for number in range(_MOST_MADE + 20):
            address = (f"10.1.{number // 256}.{number % 256}", 80)
            serving.loop.network[address] = serving.origins[0]
            _lines(serving, f"/v/?h={address[0]}")
        assert len(destinations._made) == _MOST_MADE
        assert ("10.1.0.0", 80) not in destinations._made
        serving.loop.run()
        # those of upstreams that were given up are closed, the others rest
        assert [far.closed() for far in serving.origins[0].connections].count(True) == 20
