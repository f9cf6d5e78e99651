"""Clients' certificates, good and bad and none, and the tickets of their sessions: held beside nginx."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h11
import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.wire import Client
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

OTHERS = Path(__file__).parent / "tls"
TLS = Path(__file__).parents[1] / "check" / "tls"

SIDES = [
    pytest.param("upwell"),
    pytest.param("nginx", marks=pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")),
]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]

CONFIGURATION = """
events {{}}
error_log {log} info;
http {{
    access_log off;
    ssl_certificate {tls}/good-test-only.pem;
    ssl_certificate_key {tls}/leaf-test-only.key;
    server {{
        listen 127.0.0.1:{on} ssl; ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "in $ssl_client_verify|$ssl_client_s_dn|"; }}
    }}
    server {{
        listen 127.0.0.1:{optional} ssl; ssl_verify_client optional;
        ssl_trusted_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "in $ssl_client_verify|$ssl_client_s_dn|"; }}
    }}
    server {{
        listen 127.0.0.1:{no_ca} ssl; ssl_verify_client optional_no_ca;
        location / {{ return 200 "in $ssl_client_verify|$ssl_client_s_dn|"; }}
    }}
    server {{
        listen 127.0.0.1:{some_ca} ssl; ssl_verify_client optional_no_ca;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "in $ssl_client_verify|$ssl_client_s_dn|"; }}
    }}
    server {{
        listen 127.0.0.1:{pages} ssl; ssl_verify_client on; recursive_error_pages on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        error_page 495 =403 /bad; error_page 496 @none;
        location / {{ return 200 "in"; }}
        location /bad {{ return 200 "bad $ssl_client_verify $status"; }}
        location @none {{ return 200 "none $ssl_client_verify $uri"; }}
    }}
    server {{
        listen 127.0.0.1:{login} ssl; ssl_verify_client on; error_page 495 496 497 = @login;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "in"; }}
        location @login {{ auth_request /known; root {others}; try_files /passwords-test-only.txt =404; }}
        location = /known {{ internal; return 403; }}
    }}
    server {{
        listen 127.0.0.1:{shared} ssl default_server; server_name open.test;
        location / {{ return 200 "open $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{shared} ssl; server_name closed.test; ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "closed $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{shared} ssl; server_name asking.test; ssl_verify_client optional_no_ca;
        location / {{ return 200 "asking $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{trusting} ssl default_server; server_name trusting.test; ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "trusting $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{trusting} ssl; server_name alike.test; ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "alike $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{trusting} ssl; server_name unlike.test; ssl_verify_client on;
        ssl_client_certificate {others}/deep-authority-test-only.pem;
        location / {{ return 200 "unlike $ssl_client_verify"; }}
    }}
}}
stream {{
    ssl_certificate {tls}/good-test-only.pem;
    ssl_certificate_key {tls}/leaf-test-only.key;
    server {{
        listen 127.0.0.1:{stream_on} ssl; ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        return "in $ssl_client_verify";
    }}
    server {{
        listen 127.0.0.1:{stream_no_ca} ssl; ssl_verify_client optional_no_ca;
        return "in $ssl_client_verify";
    }}
}}
"""
NAMES = ("on", "optional", "no_ca", "some_ca", "pages", "login", "shared", "trusting", "stream_on", "stream_no_ca")

CERTIFICATES = {
    "good": (TLS / "good-test-only.pem", TLS / "leaf-test-only.key"),
    "expired": (TLS / "expired-test-only.pem", TLS / "leaf-test-only.key"),
    "own": (TLS / "test-only.pem", TLS / "test-only.key"),
    "stranger": (OTHERS / "deep0-test-only.pem", OTHERS / "deep-test-only.key"),
}
BAD = "The SSL certificate error"
NONE = "No required SSL certificate was sent"
FORBIDDEN = "403 Forbidden"


@dataclass
class Serving:
    """One side at work, by the names of its ports."""

    balancer: Balancer
    ports: dict[str, int]
    name: str
    log: Path


@pytest.fixture(params=SIDES, scope="module")
def serving(
    request: pytest.FixtureRequest, start_shared: StartBalancer, tmp_path_factory: pytest.TempPathFactory
) -> Serving:
    ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    log = tmp_path_factory.mktemp("clients") / "error.log"
    text = CONFIGURATION.format(tls=TLS, others=OTHERS, log=log, **ports)
    command: tuple[str, ...] = UPWELL
    if request.param == "nginx":
        assert NGINX is not None
        command = NGINX
    return Serving(start_shared(text, list(ports.values()), command), ports, request.param, log)


def _context(certificate: str = "", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if certificate:
        context.load_cert_chain(*CERTIFICATES[certificate])
    return context


@contextmanager
def _connected(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None, name: str | None = None
) -> Iterator[tuple[Client, ssl.SSLSocket]]:
    with Client(port) as client:
        client.socket = tls = context.wrap_socket(client.socket, server_hostname=name, session=session)
        yield client, tls


def _ask(client: Client, host: str = "app.test") -> tuple[int, str]:
    """The answer's status and content, of which of an error page what it says."""
    answer = client.ask(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    body = answer.body.decode()
    return answer.status, next((known for known in (BAD, NONE, FORBIDDEN) if known in body), body)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("port", "certificate", "expected"),
    [
        ("on", "", (400, NONE)),
        ("on", "good", (200, "in SUCCESS|CN=app.test|")),
        ("on", "expired", (400, BAD)),
        ("on", "own", (400, BAD)),
        ("on", "stranger", (400, BAD)),
        ("optional", "", (200, "in NONE||")),
        ("optional", "good", (200, "in SUCCESS|CN=app.test|")),
        ("optional", "expired", (400, BAD)),
        ("optional", "own", (400, BAD)),
        ("no_ca", "", (200, "in NONE||")),
        ("no_ca", "good", (200, "in FAILED:unable to verify the first certificate|CN=app.test|")),
        ("no_ca", "expired", (400, BAD)),
        ("some_ca", "", (200, "in NONE||")),
        ("some_ca", "good", (200, "in SUCCESS|CN=app.test|")),
        ("some_ca", "expired", (400, BAD)),
        ("some_ca", "stranger", (200, "in FAILED:unable to verify the first certificate|CN=app.test|")),
        ("pages", "", (400, "none NONE /x")),
        ("pages", "good", (200, "in")),
        ("pages", "own", (403, "bad FAILED:self-signed certificate 403")),
        ("login", "", (403, FORBIDDEN)),
        ("login", "own", (403, FORBIDDEN)),
        ("login", "good", (200, "in")),
    ],
)
def test_requests_are_judged_by_the_certificate(
    serving: Serving, port: str, certificate: str, expected: tuple[int, str], version: ssl.TLSVersion
) -> None:
    """When the session begins, and when it is resumed: OpenSSL verifies nothing then."""
    context, session = _context(certificate, version), None
    for resumed in (False, True, True):
        with _connected(serving.ports[port], context, session) as (client, tls):
            assert (_ask(client), tls.session_reused) == (expected, resumed)
            session = tls.session


def test_who_speaks_no_tls_is_sent_to_the_error_page_once(serving: Serving) -> None:
    """What that page asks for (auth_request) is asked, and not answered by the page itself."""
    with Client(serving.ports["login"]) as client:
        assert _ask(client) == (403, FORBIDDEN)


def test_who_is_refused_gets_one_answer(serving: Serving) -> None:
    with _connected(serving.ports["on"], _context("own")) as (client, _):
        one = b"GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n"
        client.send(one * 3)
        answer = client.answer()
        assert (answer.status, BAD.encode() in answer.body) == (400, True)
        assert client.closed()
    told = "client SSL certificate verify error: (18:self-signed certificate)"
    await_condition(lambda: told in serving.log.read_text(), "the log's line", 10)


@pytest.mark.parametrize(
    ("port", "certificate", "name", "host", "expected"),
    [
        ("shared", "", None, "open.test", (200, "open NONE")),
        ("shared", "", None, "closed.test", (400, NONE)),
        ("shared", "own", None, "closed.test", (400, NONE)),  # nobody has asked for it
        ("shared", "", None, "asking.test", (200, "asking NONE")),
        ("shared", "", "closed.test", "closed.test", (400, NONE)),
        ("shared", "own", "closed.test", "closed.test", (400, BAD)),
        ("shared", "own", "closed.test", "open.test", (200, "open FAILED:self-signed certificate")),
        ("shared", "good", "closed.test", "closed.test", (200, "closed SUCCESS")),
        ("shared", "good", "open.test", "closed.test", (421, "")),
        ("shared", "good", "asking.test", "closed.test", (421, "")),
        ("shared", "good", "closed.test", "asking.test", (421, "")),
        ("shared", "own", "asking.test", "asking.test", (200, "asking FAILED:self-signed certificate")),
        ("trusting", "good", None, "trusting.test", (200, "trusting SUCCESS")),
        ("trusting", "good", None, "alike.test", (200, "alike SUCCESS")),
        ("trusting", "own", None, "alike.test", (400, BAD)),
        ("trusting", "good", "unlike.test", "unlike.test", (400, BAD)),
        ("trusting", "stranger", "unlike.test", "unlike.test", (200, "unlike SUCCESS")),
        ("trusting", "stranger", None, "unlike.test", (400, BAD)),
        ("trusting", "stranger", "unknown.test", "unlike.test", (400, BAD)),
        ("trusting", "good", None, "unlike.test", (200, "unlike SUCCESS")),
    ],
)
def test_the_server_of_the_host_judges(
    serving: Serving, port: str, certificate: str, name: str | None, host: str, expected: tuple[int, str]
) -> None:
    if serving.name == "upwell" and host == "unlike.test" and name != host:
        expected = (421, "")  # stricter: the certificate was not verified by what that server trusts
    with _connected(serving.ports[port], _context(certificate), name=name) as (client, _):
        status, body = _ask(client, host)
    assert (status, "" if status == 421 else body) == expected


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("port", "certificate", "expected"),
    [
        ("stream_on", "", b""),
        ("stream_on", "good", b"in SUCCESS"),
        ("stream_on", "expired", b""),
        ("stream_on", "stranger", b""),
        ("stream_no_ca", "", b"in NONE"),
        ("stream_no_ca", "own", b"in FAILED:self-signed certificate"),
        ("stream_no_ca", "expired", b""),
    ],
)
def test_sessions_of_stream_are_judged_too(
    serving: Serving, port: str, certificate: str, expected: bytes, version: ssl.TLSVersion
) -> None:
    context, session = _context(certificate, version), None
    for _ in range(2):
        with _connected(serving.ports[port], context, session) as (_, tls):
            tls.settimeout(10)
            assert _everything(tls) == expected
            assert tls.session_reused == (session is not None)
            session = tls.session


def _everything(tls: ssl.SSLSocket) -> bytes:
    data = b""
    try:
        while more := tls.recv(4096):
            data += more
    except (ssl.SSLEOFError, ConnectionResetError):
        pass
    return data


# The keys of tickets

SEALING = """
events {{}}
http {{
    access_log off;
    ssl_certificate {tls}/good-test-only.pem;
    ssl_certificate_key {tls}/leaf-test-only.key;
    {keys}
    ssl_session_timeout 11m;
    server {{ listen 127.0.0.1:{plain} ssl; location / {{ return 200 "$ssl_session_reused"; }} }}
    server {{
        listen 127.0.0.1:{asking} ssl; ssl_verify_client optional_no_ca;
        location / {{ return 200 "$ssl_session_reused $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{verifying} ssl; ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "$ssl_session_reused $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{other} ssl; ssl_verify_client on;
        ssl_client_certificate {others}/deep-authority-test-only.pem;
        location / {{ return 200 "$ssl_session_reused $ssl_client_verify"; }}
    }}
}}
"""
SEALED = ("plain", "asking", "verifying", "other")


def _sealing(
    start: StartBalancer, keys: list[Path], command: tuple[str, ...] = UPWELL
) -> tuple[Balancer, dict[str, int], str]:
    ports = dict(zip(SEALED, free_ports(len(SEALED)), strict=True))
    lines = " ".join(f"ssl_session_ticket_key {key};" for key in keys)
    text = SEALING.format(tls=TLS, others=OTHERS, keys=lines, **ports)
    return start(text, list(ports.values()), command), ports, text


def _resumes(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """Whether both ends say that the session is resumed, and the newest one."""
    with _connected(port, context, session) as (client, tls):
        status, body = _ask(client)
        assert status == 200
        assert body.startswith("r") == tls.session_reused
        assert tls.session is not None
        assert tls.session_reused or tls.session.ticket_lifetime_hint == 660  # a resumed one may be told 0
        return bool(tls.session_reused), tls.session


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    """Two of 80 bytes and one of 48."""
    made = [tmp_path / f"{number}.key" for number in range(3)]
    for path, size in zip(made, (80, 80, 48), strict=True):
        path.write_bytes(os.urandom(size))
    return made


def test_who_has_the_same_key_resumes_a_session(start: StartBalancer, keys: list[Path]) -> None:
    (_, first, _), (_, second, _) = _sealing(start, keys[:1]), _sealing(start, [keys[2], keys[0]])
    _, third, _ = _sealing(start, [keys[2]])
    for version in VERSIONS:
        context = _context("good", version)
        _, session = _resumes(first["plain"], context, None)
        resumed, renewed = _resumes(second["plain"], context, session)
        assert resumed  # by a key that seals no more
        assert _resumes(third["plain"], context, renewed)[0]  # sealed with the first anew
        assert not _resumes(first["plain"], context, renewed)[0]
        assert not _resumes(third["plain"], context, session)[0]
        for port in ("asking", "verifying"):
            assert not _resumes(first[port], context, session)[0]
            _, verified = _resumes(first[port], context, None)
            assert _resumes(second[port], context, verified)[0]
            assert not _resumes(second["plain"], context, verified)[0]
            with _connected(second["other"], context, verified) as (client, tls):
                assert (_ask(client)[0], tls.session_reused) == (400, False)


def test_a_reload_keeps_sessions_while_their_key_is_there(start: StartBalancer, keys: list[Path]) -> None:
    balancer, ports, text = _sealing(start, keys[:1])
    context = _context()
    _, session = _resumes(ports["plain"], context, None)
    told: list[bool] = []

    def answered(mark: str) -> bool:
        """Whether workers of the configuration with this mark answer; who resumes then is noted."""
        try:
            with _connected(ports["plain"], context, session) as (client, tls):
                told.append(bool(tls.session_reused))
                return _ask(client)[1].endswith(mark)
        except (OSError, h11.RemoteProtocolError):  # by a worker that goes
            return False

    balancer.configure(text.replace('"$ssl_session_reused"', '"$ssl_session_reused one"'))
    balancer.send(signal.SIGHUP)
    await_condition(partial(answered, "one"), "the new configuration", 20)
    assert told[-1]
    keys[0].write_bytes(os.urandom(80))
    assert answered("one")
    assert told[-1]  # files are read when a configuration is
    balancer.send(signal.SIGHUP)
    await_condition(lambda: answered("one") and not told[-1], "the new key", 20)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")
@pytest.mark.parametrize("size", [0, 2])
def test_nginx_and_upwell_resume_each_others_sessions(start: StartBalancer, keys: list[Path], size: int) -> None:
    assert NGINX is not None
    (_, ours, _), (_, theirs, _) = _sealing(start, [keys[size]]), _sealing(start, [keys[size]], NGINX)
    for version in VERSIONS:
        context = _context("good", version)
        for one, another in ((ours, theirs), (theirs, ours)):
            _, session = _resumes(one["plain"], context, None)
            assert _resumes(another["plain"], context, session)[0]
            if another is ours:  # which asks for certificates; nginx takes a session that began without being asked
                assert not _resumes(another["asking"], context, session)[0]
