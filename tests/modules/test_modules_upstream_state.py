"""`state`: what the file may say, where its errors are told, and that whatever is written is read as the same."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upwell.config.model import Config
from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.modules.upstream import UpstreamsSettings
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec
from upwell.peers.server_lines import objection, senseless, text_of
from upwell.runtime.build import plan


def _load(folder: Path, body: str = "state list;", around: str = "") -> Config:
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{\nupstream u {{ {body} }}\n{around}\n}}\n")
    return load("nginx.conf", str(folder), resolve=lambda host: ["127.0.0.7", "::7"] if host == "two" else [])


def _spec(folder: Path, body: str = "state list;") -> UpstreamSpec:
    (http,) = _load(folder, body).main.of("http")
    return http[UpstreamsSettings].specs[0]


def _errors(folder: Path, body: str = "state list;", around: str = "") -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        _load(folder, body, around)
    return [str(error).replace(f"{folder}/", "") for error in caught.value.errors]


def test_the_file_s_servers_are_the_upstream_s(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("# by hand\nserver 127.0.0.1 weight=2;\nserver [::1]:81 backup;\n")
    spec = _spec(tmp_path)
    assert spec.state == str(tmp_path / "list")
    assert spec.peers == (
        PeerSpec("127.0.0.1:80", ("127.0.0.1", 80), server="127.0.0.1", weight=2),
        PeerSpec("[::1]:81", ("::1", 81), server="[::1]:81", backup=True),
    )
    assert spec == dataclasses.replace(
        _spec(tmp_path, "server 127.0.0.1 weight=2; server [::1]:81 backup;"), state=spec.state
    )


@pytest.mark.parametrize("content", [None, "", "# nobody\n"])
def test_no_file_is_an_empty_list(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "list").write_text(content)
    assert _spec(tmp_path).peers == ()
    assert _spec(tmp_path, "state list; hash $uri;").peers == ()


def test_backups_alone_may_be_left(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("server 127.0.0.1 backup;\n")
    assert [peer.backup for peer in _spec(tmp_path).peers] == [True]


def test_a_full_path_is_taken_as_it_is_and_the_file_is_one_of_the_configuration_s(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "list").write_text("server 127.0.0.1;\n")
    config = _load(tmp_path, f"state {folder}/./list;")
    assert [spec.state for spec in plan(config).upstreams] == [f"{folder}/list"]
    assert [source.path for source in config.files] == [str(tmp_path / "nginx.conf"), f"{folder}/list"]


def test_a_name_means_its_addresses(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("server two:81 weight=3;\n")
    peers = _spec(tmp_path).peers
    assert [(peer.name, peer.server, peer.weight) for peer in peers] == [
        ("127.0.0.7:81", "127.0.0.7:81", 3),
        ("[::7]:81", "[::7]:81", 3),
    ]


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        ("server;", ['invalid number of arguments in "server" directive in list:1:1']),
        ("server 1.1.1.1;\n server 1.1.1.1 weight=0;", ['invalid parameter "weight=0" in list:2:17']),
        ("server 1.1.1.1 id=5;", ['the parameter "id" of "server" is not supported by upwell in list:1:16']),
        ("server none;", ['host not found in upstream "none" in list:1:8']),
        ("servers 1.1.1.1;", ['"servers" directive is not allowed here in list:1:1']),
        ("include other;", ['"include" directive is not allowed here in list:1:1']),
        ("keepalive 1;", ['"keepalive" directive is not allowed here in list:1:1']),
        ("least_conn;server;", [
            '"least_conn" directive is not allowed here in list:1:1',
            'invalid number of arguments in "server" directive in list:1:12',
        ]),
        ("server 1.1.1.1 {", ['directive "server" is not terminated by ";" in list:1:1']),
        ("server 1.1.1.1", ['unexpected end of file, expecting ";" or "}" in list:1:15']),
        ("server 1.1.1.1 }", ['unexpected "}" in list:1:16']),
        ("}", ['unexpected "}" in list:1:1']),
        (";", ['unexpected ";" in list:1:1']),
        ('server "1.1.1.1', ['unexpected end of file, expecting ";" or "}" in list:1:16']),
    ],
)  # fmt: skip
def test_errors_are_told_where_they_are(tmp_path: Path, content: str, errors: list[str]) -> None:
    (tmp_path / "list").write_text(content)
    assert _errors(tmp_path) == errors


def test_the_method_counts_in_the_file_too(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("server 1.1.1.1;\nserver 1.1.1.2 backup;\n")
    assert _errors(tmp_path, "ip_hash; state list;") == [
        'balancing method does not support parameter "backup" in list:2:16'
    ]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("state list; server 1.1.1.1;", '"server" cannot be used along with "state" in nginx.conf:3:26'),
        ("server 1.1.1.1; state list;", '"state" cannot be used along with "server" in nginx.conf:3:30'),
        ("state list; state other;", '"state" directive is duplicate in nginx.conf:3:26'),
        ("state;", 'invalid number of arguments in "state" directive in nginx.conf:3:14'),
        ("state a b;", 'invalid number of arguments in "state" directive in nginx.conf:3:14'),
        ('state "";', 'invalid file "" in nginx.conf:3:20'),
        ("state folder/;", 'invalid file "folder/" in nginx.conf:3:20'),
        ("state .;", '"." is not a file in nginx.conf:3:20'),
        ("state nginx.conf;", '"nginx.conf" is in use already in nginx.conf:3:20'),
    ],
)
def test_what_is_refused(tmp_path: Path, body: str, error: str) -> None:
    assert _errors(tmp_path, body) == [error.replace('"."', f'"{tmp_path}"')]


def test_a_file_belongs_to_one_upstream(tmp_path: Path) -> None:
    assert _errors(tmp_path, around="upstream v { state ./list; }") == ['"list" is in use already in nginx.conf:4:20']
    assert _errors(tmp_path, around="state list;") == ['"state" directive is not allowed here in nginx.conf:4:1']


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert _errors(tmp_path, "state pipe;") == ['"pipe" is not a file in nginx.conf:3:20']
    (tmp_path / "file").touch()
    assert _errors(tmp_path, "state file/list;") == [
        'open() "file/list" failed (20: Not a directory) in nginx.conf:3:20'
    ]


def test_stream_has_it_too(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text("events {}\nstream { upstream u { state list; } }\n")
    (tmp_path / "list").write_text("server 127.0.0.1:1 max_conns=2;\n")
    [spec] = plan(load("nginx.conf", str(tmp_path))).upstreams
    assert [(peer.name, peer.max_conns) for peer in spec.peers] == [("127.0.0.1:1", 2)]
    (tmp_path / "list").write_text("server 127.0.0.1;\n")
    with pytest.raises(ConfigErrors, match=r'no port in upstream "127.0.0.1" in .*/list:1:8'):
        load("nginx.conf", str(tmp_path))


# What is written

NUMBERS = st.integers(0, 10**12)
SECONDS = st.integers(0, 10**9).map(float)
TEXT = st.characters(exclude_characters="\0", exclude_categories=()).map(
    lambda one: one if not "\ud800" <= one <= "\udfff" else "\udc80"  # what is no UTF-8 is read so
)
PATHS = st.text(TEXT, min_size=1, max_size=26)
ROUTES = st.text(TEXT, max_size=8)


@st.composite
def _addresses(draw: st.DrawFn) -> dict[str, Any]:
    port = draw(st.sampled_from((80, 81, 65535)))
    kind = draw(st.sampled_from(("v4", "v6", "unix")))
    if kind == "unix":
        path = draw(PATHS)
        return {"name": f"unix:{path}", "address": path, "server": f"unix:{path}"}
    host = str(draw(st.ip_addresses(v=4 if kind == "v4" else 6)))
    shown = host if kind == "v4" else f"[{host}]"
    name = f"{shown}:{port}"
    server = shown if port == 80 and draw(st.booleans()) else name
    return {"name": name, "address": (host, port), "server": server}


PEERS = st.builds(
    lambda where, role, **rest: PeerSpec(**where, **role, **rest),
    _addresses(),
    st.one_of(st.just({"backup": True}), st.builds(dict, tier=st.integers(0, 9))),
    weight=st.integers(1, 10**12),
    max_fails=NUMBERS,
    fail_timeout=SECONDS,
    max_conns=NUMBERS,
    down=st.booleans(),
    slow_start=SECONDS,
    drain=st.booleans(),
    route=ROUTES,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(PEERS, max_size=5))
def test_what_is_written_is_read_as_the_same(tmp_path: Path, peers: list[PeerSpec]) -> None:
    assert [objection(peer, Method()) for peer in peers] == [""] * len(peers)
    (tmp_path / "list").write_bytes(text_of(peers))
    assert list(_spec(tmp_path).peers) == peers
    assert text_of(peers).count(b"\n") == len(peers)


def test_every_field_of_a_peer_is_written(tmp_path: Path) -> None:
    plain = PeerSpec("127.0.0.1:81", ("127.0.0.1", 81), server="127.0.0.1:81")
    assert text_of([plain]) == b"server 127.0.0.1:81;\n"
    for field in dataclasses.fields(PeerSpec):
        value = getattr(plain, field.name)
        if field.name in ("name", "address", "server"):
            continue
        other: object = "x" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1
        changed = dataclasses.replace(plain, **{field.name: other})  # type: ignore[arg-type]  # of the field's type
        (tmp_path / "list").write_bytes(text_of([changed]))
        assert _spec(tmp_path).peers == (changed,)


def test_members_of_a_line_are_written_as_the_line() -> None:
    line = PeerSpec("two:81", ("", 0), server="two:81", weight=2)
    of_line = dataclasses.replace(line, name="127.0.0.7:81", address=("127.0.0.7", 81), weight=5)
    service = PeerSpec("three", ("", 0), server="three service=_http._tcp")
    plain = PeerSpec("127.0.0.1:81", ("127.0.0.1", 81), server="elsewhere:81")
    assert text_of([of_line, plain], [line, service]) == (
        b"server 127.0.0.1:81;\nserver two:81 resolve weight=2;\nserver three service=_http._tcp resolve;\n"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "a"}, "is not called by its address"),
        ({"address": ("a", 81)}, "is not called by its address"),
        ({"name": "127.0.0.1:0", "address": ("127.0.0.1", 0)}, "is not called by its address"),
        ({"name": "unix:", "address": ""}, "is not called by its address"),
        ({"name": "unix:" + "x" * 108, "address": "x" * 108}, "is not called by its address"),
        ({"weight": 0}, "invalid weight 0"),
        ({"max_conns": -1}, "invalid max_conns -1"),
        ({"tier": 1, "backup": True}, "exclude each other"),
        ({"tier": 10}, "invalid tier 10"),
        ({"slow_start": 0.5}, 'invalid slow_start "0.5"'),
        ({"fail_timeout": float("inf")}, 'invalid fail_timeout "inf"'),
        ({"route": "x" * 33}, "invalid route"),
        ({"route": "\0"}, "invalid route"),
        ({"backup": True}, "balancing method does not"),
        ({"slow_start": 1.0}, "balancing method does not"),
    ],
)
def test_what_no_line_could_say(change: dict[str, Any], words: str) -> None:
    peer = dataclasses.replace(PeerSpec("127.0.0.1:81", ("127.0.0.1", 81)), **change)
    assert words in f"{senseless(peer)}\n{objection(peer, Method('hash'))}"


def test_stream_has_no_sessions() -> None:
    peer = PeerSpec("127.0.0.1:81", ("127.0.0.1", 81))
    assert not objection(peer, Method(), stream=True)
    for change in ({"route": "a"}, {"drain": True}):
        wrong = dataclasses.replace(peer, **change)
        assert not objection(wrong, Method())
        assert "neither a route nor drain" in objection(wrong, Method(), stream=True)


def test_lines_that_are_resolved_at_run_time_are_read_again(tmp_path: Path) -> None:
    text = (
        b'server 127.0.0.1:1;\nserver two:81 resolve weight=2 backup;\nserver two service=http resolve "route=a b";\n'
    )
    (tmp_path / "list").write_bytes(text)
    (tmp_path / "nginx.conf").write_text(
        "events {}\nhttp { resolver 127.0.0.1:53; upstream u { zone u 64k; state list; } }\n"
    )
    [spec] = plan(load("nginx.conf", str(tmp_path))).upstreams
    assert [(line.server, line.weight, line.backup, line.route) for line in spec.lines] == [
        ("two:81", 2, True, ""),
        ("two service=http", 1, False, "a b"),
    ]
    assert text_of(spec.peers, spec.lines) == text
