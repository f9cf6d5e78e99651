"""`health_check` with real processes and real backends: who fails a check gets no requests, and who recovers does."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.shop import BROKEN, FINE, Shop, await_line, await_takers, takers
from tests.system.wire import Origin, Respond, Seen, ask, get, response
from upwell.contrib.processes import App, await_condition, free_ports
from upwell.version import VERSION

_SECONDS = 20
_TLS = Path(__file__).parents[1] / "check" / "tls"


def _configuration(
    front: int, peers: list[int], checks: str, http: str = "", upstream: str = "", main: str = ""
) -> str:
    # max_fails=0: whoever is left out here is left out by a check.
    servers = "\n".join(f"        server 127.0.0.1:{peer} max_fails=0;" for peer in peers)
    return f"""
worker_processes 2;
error_log logs/error.log notice;
{main}
events {{ worker_connections 1024; }}
http {{
    {http}
    upstream peers {{
{servers}
        {upstream}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name shop.example.com;
        location / {{
            proxy_pass http://peers;
            proxy_next_upstream off;
            {checks}
        }}
    }}
}}
"""


CHECK = "health_check uri=/health interval=100ms fails=2 passes=2 timeout=2s;"


def test_traffic_leaves_a_peer_that_fails_and_returns_when_it_passes(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("b") as b:
        balancer = start(_configuration(front, [a.port, b.port], CHECK), [front])
        await_takers(front, {"a", "b"})
        a.otherwise = BROKEN
        await_takers(front, {"b"})
        name = f"127.0.0.1:{a.port}"
        await_line(balancer, f'peer {name} in upstream "peers": status 503, want 200-399 (http GET /health)')
        await_line(balancer, f"peer {name} is turned down after 2 failure(s)")
        a.otherwise = FINE
        await_takers(front, {"a", "b"})
        await_line(balancer, f"peer {name} is turned up after 2 success(es)")
        b.otherwise = a.otherwise = BROKEN
        await_takers(front, {"502"})


def test_an_app_that_is_stopped_and_started_again(start: StartBalancer, app: Callable[[str], App]) -> None:
    (front,) = free_ports(1)
    one, two = app("one"), app("two")
    balancer = start(_configuration(front, [one.port, two.port], CHECK.replace("/health", "/index.html")), [front])

    def answering() -> set[bytes]:
        return {ask(front, get("/index.html")).body for _ in range(6)}

    both = answering()
    assert len(both) == 2
    one.stop()
    await_condition(lambda: len(answering()) == 1, "one app", _SECONDS)
    await_line(balancer, f'peer 127.0.0.1:{one.port} in upstream "peers": connection refused (http GET /index.html)')
    one.start()
    await_condition(lambda: answering() == both, "both apps", _SECONDS)


def test_what_a_probe_sends(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    check = """
        proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Proto $scheme;
        health_check uri=/health?full interval=100ms "header=X-Token: a b";
    """
    with Shop("a") as a:
        start(_configuration(front, [a.port], check), [front])
        await_condition(lambda: len(a.probes(b"/health?full")) > 2, "probes", _SECONDS)
        assert a.probes(b"/health?full")[0].lines == [
            b"GET /health?full HTTP/1.1",
            b"Host: shop.example.com",
            b"Connection: close",
            f"User-Agent: upwell/{VERSION} (health check)".encode(),
            b"X-Proto: http",
            b"X-Token: a b",
        ]
        assert a.origin.connections >= len(a.origin.seen)


def test_a_connection_is_kept_for_probes(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a:
        start(_configuration(front, [a.port], "health_check uri=/health interval=50ms keepalive_time=1h;"), [front])
        await_condition(lambda: len(a.probes()) > 10, "probes", _SECONDS)
        assert a.origin.connections == 1


def test_all_probes_go_to_another_port(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("admin") as admin:
        check = f"health_check uri=/health interval=100ms port={admin.port};"
        start(_configuration(front, [a.port], check), [front])
        await_condition(lambda: bool(admin.probes()), "probes", _SECONDS)
        await_takers(front, {"a"})
        admin.otherwise = BROKEN
        await_takers(front, {"502"})
        assert not a.probes()


def test_any_failing_check_takes_a_peer_out(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    checks = """
        health_check uri=/live interval=100ms;
        health_check uri=/ready interval=100ms match=ready;
        health_check type=tcp interval=100ms;
    """
    http = 'match ready { status 200; header X-Ready = yes; body !~ "maintenance"; require $upstream_http_x_ready; }'
    with Shop("a") as a, Shop("b") as b:
        balancer = start(_configuration(front, [a.port, b.port], checks, http), [front])
        await_takers(front, {"a", "b"})
        a.answer[b"/ready"] = response(b"in maintenance", "X-Ready: yes")
        await_takers(front, {"b"})
        await_line(balancer, f'peer 127.0.0.1:{a.port} in upstream "peers": body matches "maintenance", want !~')
        a.answer[b"/live"] = BROKEN
        await_line(balancer, "want 200-399 (http GET /live)")
        del a.answer[b"/ready"]
        await_line(balancer, 'check="http GET /ready, match ready" from=down to=up')
        assert takers(front) == {"b"}  # /live fails still
        del a.answer[b"/live"]
        await_takers(front, {"a", "b"})


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (response(b"fine", "X-Ready: no"), 'header X-Ready is "no", want "yes"'),
        (response(b"fine"), "no header X-Ready"),
        (response(b"maintenance", "X-Ready: yes"), 'body matches "maintenance", want !~'),
        (response(b"fine", "X-Ready: yes", status="404 No"), "status 404, want any but 400-599"),
        (b"garbage\r\n\r\n", "bad status line"),
    ],
    ids=["header", "no header", "body", "status", "garbage"],
)
def test_each_rule_of_a_match_counts_and_says_why(answer: bytes, why: str, start: StartBalancer) -> None:
    (front,) = free_ports(1)
    http = "match m { status ! 400-599; header X-Ready = yes; body !~ maintenance; }"
    with Shop("a") as a:
        configuration = _configuration(front, [a.port], "health_check uri=/health interval=100ms match=m;", http)
        balancer = start(configuration, [front])
        await_takers(front, {"a"})
        a.otherwise = answer
        await_takers(front, {"502"})
        await_line(balancer, why)
        a.otherwise = FINE
        await_takers(front, {"a"})


def test_a_mandatory_check_comes_before_the_first_request(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("slow", b"") as slow:
        checks = "health_check uri=/health interval=100ms mandatory;"
        start(_configuration(front, [a.port, slow.port], checks), [front])
        await_condition(lambda: bool(slow.probes()), "the probe of the slow one", _SECONDS)
        await_takers(front, {"a"})
        assert not [seen for seen in slow.origin.seen if seen.target == b"/"]


def test_what_is_known_is_kept_over_a_reload_and_a_new_check_is_done(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a, Shop("b", BROKEN) as b:
        mandatory = "health_check uri=/health interval=100ms mandatory persistent;"
        balancer = start(_configuration(front, [a.port, b.port], mandatory), [front])
        await_takers(front, {"a"})
        workers = set(balancer.workers)
        balancer.configure(_configuration(front, [a.port, b.port], mandatory.replace("100ms", "200ms")))
        balancer.send(signal.SIGHUP)
        seen: set[str] = set()

        def replaced() -> bool:
            seen.update(takers(front))
            return not workers & set(balancer.workers)

        await_condition(replaced, "new workers", _SECONDS)
        assert seen == {"a"}
        balancer.configure(_configuration(front, [a.port, b.port], "health_check uri=/other interval=100ms;"))
        balancer.send(signal.SIGHUP)
        await_condition(lambda: bool(a.probes(b"/other")), "probes of the new check", _SECONDS)
        b.otherwise = FINE
        await_takers(front, {"a", "b"})


def test_an_address_in_proxy_pass_is_checked_as_well(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    with Shop("a") as a:
        text = _configuration(front, [a.port], CHECK).replace("http://peers", f"http://127.0.0.1:{a.port}")
        start(text, [front])
        await_takers(front, {"a"})
        a.otherwise = BROKEN
        await_takers(front, {"502"})
        assert {seen.lines[1] for seen in a.probes()} == {f"Host: 127.0.0.1:{a.port}".encode()}


def test_a_peer_that_speaks_first(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    greeting = [b"220 welcome\r\n"]

    def greet(connection: socket.socket) -> None:
        connection.sendall(greeting[0])
        connection.recv(100)

    with Shop("a") as a, Origin(on_connect=greet) as mail:
        checks = f'health_check type=tcp port={mail.port} interval=100ms send="QUIT\\r\\n" expect=~^220 timeout=2s;'
        balancer = start(_configuration(front, [a.port], checks), [front])
        await_takers(front, {"a"})
        greeting[0] = b"421 busy\r\n"
        await_takers(front, {"502"})
        await_line(balancer, "(tcp port")
        greeting[0] = b"220 again\r\n"
        await_takers(front, {"a"})


def test_tls_is_verified_with_files_that_only_the_master_may_read(start: StartBalancer, tmp_path: Path) -> None:
    (front,) = free_ports(1)
    files = {"authority": "authority-test-only.pem", "cert": "good-test-only.pem", "key": "leaf-test-only.key"}
    for name, file in files.items():
        (tmp_path / name).write_bytes((_TLS / file).read_bytes())
        (tmp_path / name).chmod(0o600)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    serving.verify_mode = ssl.CERT_REQUIRED
    serving.load_verify_locations(tmp_path / "authority")
    asked: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        with serving.wrap_socket(connection, server_side=True) as secure:
            asked.append(secure.recv(65536))
            secure.sendall(FINE)

    with Shop("a") as a, Origin(on_connect=talk) as secured:
        check = f"""
            health_check type=https port={secured.port} interval=100ms mandatory host=app.test ca={tmp_path}/authority
                certificate={tmp_path}/cert certificate_key={tmp_path}/key;
        """
        balancer = start(_configuration(front, [a.port], check), [front])
        await_takers(front, {"a"})
        assert b"\r\nHost: app.test\r\n" in asked[0]
        balancer.configure(_configuration(front, [a.port], check.replace("app.test", "other.test")))
        balancer.send(signal.SIGHUP)
        await_takers(front, {"502"})
        await_line(balancer, "certificate is for app.test")


def test_an_answer_that_never_comes_is_a_failure(start: StartBalancer) -> None:
    (front,) = free_ports(1)

    def respond(seen: Seen, connection: socket.socket) -> bytes:
        return b"" if seen.target == b"/health" else response(b"a")

    silent: Respond = respond
    with Origin(silent) as origin:
        balancer = start(_configuration(front, [origin.port], CHECK.replace("2s", "100ms")), [front])
        await_takers(front, {"502"})
        await_line(balancer, "timeout after 0.1 s reading the status line (http GET /health)")
