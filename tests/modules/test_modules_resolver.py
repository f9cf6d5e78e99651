"""`resolver`, `resolver_timeout` and `server ... resolve service=`: what they come to, and nginx's words for errors.

Every error here was compared with nginx 1.31.3, but for what NGINX Plus alone has.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from upwell.config.model import Block
from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.modules.resolver import NamesSettings, resolver_of, resolvers
from upwell.modules.upstream import UpstreamsSettings
from upwell.resolve.spec import Question, ResolverSpec


def _resolve(host: str) -> list[str]:
    if host != "ns.test":
        raise OSError(host)
    return ["192.0.2.1", "2001:db8::1"]


def _http(folder: Path, text: str) -> Block:
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{text}\n}}\n")
    return next(load("nginx.conf", str(folder), resolve=_resolve).main.of("http"))


def _errors(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        _http(folder, text)
    return [error.message for error in caught.value.errors]


def _spec(folder: Path, text: str) -> ResolverSpec:
    http = _http(folder, text)
    spec = resolver_of(http)
    assert spec is not None
    return spec


def test_what_a_resolver_is(tmp_path: Path) -> None:
    assert _spec(tmp_path, "resolver 127.0.0.1;") == ResolverSpec((("127.0.0.1", 53),), name="127.0.0.1")
    spec = _spec(
        tmp_path,
        "resolver 127.0.0.1:5353 [::1]:5354 ns.test ipv6=off valid=2m status_zone=dns; resolver_timeout 5s;",
    )
    assert spec == ResolverSpec(
        (("127.0.0.1", 5353), ("::1", 5354), ("192.0.2.1", 53), ("2001:db8::1", 53)),
        valid=120.0,
        ipv6=False,
        name="dns",
        timeout=5.0,
    )
    assert _spec(tmp_path, "resolver 127.0.0.1 valid=0;").valid is None
    assert _spec(tmp_path, "resolver 127.0.0.1 ipv4=off;").ipv4 is False


def test_inner_levels_inherit_and_override(tmp_path: Path) -> None:
    http = _http(
        tmp_path,
        """
        server { location / { resolver_timeout 3s; } location /own { resolver 127.0.0.2; } }
        upstream u { server 127.0.0.1; resolver 127.0.0.3; }
        resolver 127.0.0.1; resolver_timeout 7s;
        """,
    )
    [server] = http.of("server")
    here, own = server.of("location")
    [upstream] = http.of("upstream")
    asked = [resolver_of(block) for block in (server, here, own, upstream)]
    assert [(spec.name, spec.timeout) for spec in asked if spec is not None] == [
        ("127.0.0.1", 7.0),
        ("127.0.0.1", 3.0),
        ("127.0.0.2", 7.0),
        ("127.0.0.3", 7.0),
    ]
    assert len(list(resolvers(http))) == 4


def test_names_of_an_upstream(tmp_path: Path) -> None:
    http = _http(
        tmp_path,
        """
        upstream u {
            zone u 64k;
            server a.test:81 resolve weight=3 max_fails=2;
            server b.test service=_http._tcp resolve backup;
            server 127.0.0.1 resolve;
        }
        resolver 127.0.0.1;
        """,
    )
    first, second = http[NamesSettings].lines
    assert (first.upstream, first.question, first.port) == ("u", Question("a.test"), 81)
    assert (first.template.weight, first.template.max_fails, first.template.server) == (3, 2, "a.test:81")
    assert (second.question, second.template.backup) == (Question("b.test", "_http._tcp"), True)
    assert second.question.owner == "_http._tcp.b.test"
    [spec] = http[UpstreamsSettings].specs
    assert [peer.name for peer in spec.peers] == ["127.0.0.1:80"]


def test_an_upstream_of_names_alone_begins_empty(tmp_path: Path) -> None:
    http = _http(tmp_path, "upstream u { server a.test resolve; resolver 127.0.0.1; }")
    [spec] = http[UpstreamsSettings].specs
    assert spec.peers == ()


@pytest.mark.parametrize(
    ("directive", "message"),
    [
        ("resolver;", 'invalid number of arguments in "resolver" directive'),
        ("resolver valid=10s;", "no name servers defined"),
        ("resolver 127.0.0.1 valid=x;", "invalid parameter: valid=x"),
        ("resolver 127.0.0.1 ipv6=maybe;", "invalid parameter: ipv6=maybe"),
        ("resolver 127.0.0.1 ipv4=off ipv6=off;", '"ipv4" and "ipv6" cannot both be "off"'),
        ("resolver 127.0.0.1 status_zone=;", "invalid parameter: status_zone="),
        ("resolver 127.0.0.1 foo=1;", 'host not found in resolver "foo=1"'),
        ("resolver 127.0.0.1 local=127.0.0.1;", 'the parameter "local" of "resolver" is not supported by upwell'),
        ("resolver nowhere.test;", 'host not found in resolver "nowhere.test"'),
        ("resolver off;", 'host not found in resolver "off"'),
        ("resolver ::1;", 'invalid port in resolver "::1"'),
        ("resolver 127.0.0.1:99999;", 'invalid port in resolver "127.0.0.1:99999"'),
        ("resolver unix:/tmp/x;", 'a unix domain socket is no name server in resolver "unix:/tmp/x"'),
        ("resolver 127.0.0.1; resolver 127.0.0.1;", '"resolver" directive is duplicate'),
        ("resolver_timeout 1; resolver_timeout 2;", '"resolver_timeout" directive is duplicate'),
        ("resolver_timeout x;", '"resolver_timeout" directive invalid value'),
        (
            "upstream u { server a.test resolve; }",
            'no resolver defined to resolve names at run time in upstream "u"',
        ),
        ("upstream u { resolver 127.0.0.1; server a.test; }", 'host not found in upstream "a.test"'),
        (
            "upstream u { resolver 127.0.0.1; server a.test service=http; }",
            'service upstream "a.test" requires "resolve" parameter',
        ),
        ("upstream u { resolver 127.0.0.1; server a.test service= resolve; }", "service is empty"),
        (
            "upstream u { resolver 127.0.0.1; server a.test:80 service=http resolve; }",
            'service upstream "a.test:80" may not have port',
        ),
        (
            "upstream u { resolver 127.0.0.1; server 127.0.0.1 service=http resolve; }",
            'service upstream "127.0.0.1" requires domain name',
        ),
        (
            "upstream u { resolver 127.0.0.1; server unix:/tmp/x service=http resolve; }",
            'service upstream "unix:/tmp/x" may not have port',
        ),
        ("upstream u { resolver 127.0.0.1; server a.test resolve=1; }", 'invalid parameter "resolve=1"'),
        ("upstream u { resolver 127.0.0.1; server a.test resolve backup; }", 'no servers in upstream "u"'),
    ],
)
def test_what_is_wrong(tmp_path: Path, directive: str, message: str) -> None:
    assert _errors(tmp_path, directive) == [message]


def test_a_resolver_that_is_refused_is_not_missed_besides(tmp_path: Path) -> None:
    assert _errors(tmp_path, "upstream u { server a.test resolve; } resolver nowhere.test;") == [
        'host not found in resolver "nowhere.test"'
    ]
