"""The examples are whole configurations that upwell takes as they are, and the one in Lua does what it says."""

from __future__ import annotations

import contextlib
import gzip
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.talkers import trusting
from tests.system.wire import Answer, Client, Origin, Seen, ask, get, post, response
from upwell.contrib.processes import UPWELL, await_condition, free_ports

FOLDER = Path(__file__).parents[2] / "examples"
EXAMPLES = sorted(FOLDER.glob("*.conf"))
TLS = Path(__file__).parents[1] / "check" / "tls"
OPEN_SESAME = "Authorization: Basic cmVhZGVyOm9wZW4gc2VzYW1l"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_tests_well(example: Path, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    _certificate(tmp_path)
    copy = shutil.copy(example, tmp_path)
    command = [*UPWELL, "-p", str(tmp_path), "-c", str(copy), "-t"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert f"`{example.name}`" in (example.parent / "README.md").read_text()


def _certificate(folder: Path) -> None:
    """What an example with TLS names, beside the configuration in `folder`."""
    (folder / "tls").mkdir()
    shutil.copy(TLS / "good-test-only.pem", folder / "tls" / "example.crt")
    shutil.copy(TLS / "leaf-test-only.key", folder / "tls" / "example.key")


def test_the_lua_example_does_what_it_says(start: StartBalancer) -> None:
    (front,) = free_ports(1)
    (example,) = [path for path in EXAMPLES if path.name == "lua.conf"]
    start(example.read_text().replace("listen 8080;", f"listen 127.0.0.1:{front};"), [front])
    asked = 0
    for _ in range(10):
        with Client(front) as client:  # a new connection each time, so that both workers are asked
            asked += 1
            assert client.ask(get("/hello?name=you")).body.startswith(b"hello you, request %d, worker " % asked)
    lines = ask(front, get("/twice?name=me")).body.splitlines()
    assert [line.partition(b", worker")[0] for line in lines] == [b"hello me, request 11", b"hello me, request 12"]
    assert ask(front, get("/private/x")).status == 403
    assert ask(front, get("/private/x?key=open")).body == b"come in\n"


def _example(name: str, front: int, ports: dict[int, int]) -> str:
    """An example with other ports: `front` for its own, `ports` for its peers'."""
    text = next(path for path in EXAMPLES if path.name == name).read_text()
    for given, free in {8080: front, **ports}.items():
        text, count = re.subn(rf"(listen |127\.0\.0\.1:){given}\b", rf"\g<1>{free}", text)
        assert count
    return text.replace("listen ", "listen 127.0.0.1:")


def test_the_blue_green_example_lets_clients_choose(start: StartBalancer) -> None:
    def blue(_: Seen, __: socket.socket) -> bytes:
        return response(b"blue")

    def green(_: Seen, __: socket.socket) -> bytes:
        return response(b"green")

    (front,) = free_ports(1)
    with Origin(blue) as old, Origin(green) as new:
        ports = {8001: old.port, 8002: old.port, 8011: new.port, 8012: new.port}
        start(_example("blue-green.conf", front, ports), [front])
        for release in (b"blue", b"green"):
            for how in (f"Cookie: release={release.decode()}", f"X-Release: {release.decode()}"):
                answer = ask(front, get("/", how))
                assert (answer.body, answer.field("X-Release")) == (release, release.decode())
        seen = {ask(front, get("/", f"User-Agent: {number}", "X-Release: other")).body for number in range(60)}
        assert seen == {b"blue", b"green"}


def test_the_node_example_passes_upgrades_and_keeps_clients(start: StartBalancer) -> None:
    def node(seen: Seen, connection: socket.socket) -> bytes | None:
        if b"\r\nUpgrade: websocket\r\n" not in seen.head:
            assert b"\r\nConnection: " not in seen.head.partition(b"/healthz")[0]
            return response(seen.head.split(b" ", 2)[1])
        assert b"\r\nConnection: upgrade\r\n" in seen.head
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        while data := connection.recv(1000):
            connection.sendall(data)
        return None

    (front,) = free_ports(1)
    with Origin(node) as first, Origin(node) as second:
        start(_example("node.conf", front, {3001: first.port, 3002: second.port}), [front])
        assert ask(front, get("/x")).body == b"/x"
        assert ask(front, get("/static/x")).field("Cache-Control") == "max-age=604800"
        with Client(front) as client:
            client.send(get("/", "Upgrade: websocket", "Connection: Upgrade"))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.socket.recv(1)
            assert head.startswith(b"HTTP/1.1 101 ")
            for message in (b"hello", b"there"):
                client.send(message)
                assert client.socket.recv(100) == message


@contextlib.contextmanager
def _site(
    start: StartBalancer, name: str, numbers: list[int], app: Callable[[Seen, socket.socket], bytes | None]
) -> Iterator[tuple[int, Path]]:
    """An example with `app` as each of its peers, whose ports are `numbers`: its port, and where its files lie."""
    (front,) = free_ports(1)
    with Origin(app) as origin:
        balancer = start(_example(name, front, dict.fromkeys(numbers, origin.port)), [front])
        shutil.copy(FOLDER / "htpasswd", balancer.prefix / "conf")
        yield front, balancer.prefix


def _file(path: Path, content: bytes) -> None:
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
    path.write_bytes(content)
    path.chmod(0o644)


def _echo(connection: socket.socket) -> None:
    """The peer's side of a WebSocket, more or less."""
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
    while data := connection.recv(1000):
        connection.sendall(data)


def _switches(front: int, path: str) -> bool:
    """Whether a WebSocket can be opened there."""
    with Client(front) as client:
        client.send(get(path, "Upgrade: websocket", "Connection: Upgrade"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.socket.recv(1)
        if not head.startswith(b"HTTP/1.1 101 "):
            return False
        client.send(b"hello")
        return client.socket.recv(100) == b"hello"


def _target(seen: Seen, _: socket.socket) -> bytes:
    return response(b"app " + seen.target)


def test_the_wordpress_example_serves_files_and_guards_the_login(start: StartBalancer) -> None:
    with _site(start, "wordpress.conf", [8001, 8002], _target) as (front, prefix):
        _file(prefix / "wordpress" / "theme.css", b"p { color: teal }\n" * 40)
        _file(prefix / "wordpress" / "wp-content" / "uploads" / "evil.php", b"<?php")
        css = ask(front, get("/theme.css", "Accept-Encoding: gzip"))
        assert gzip.decompress(css.body) == b"p { color: teal }\n" * 40
        assert (css.field("Content-Type"), css.field("Vary")) == ("text/css", "Accept-Encoding")
        assert css.field("Cache-Control") == "max-age=2592000"
        assert ask(front, get("/none.css")).body == b"app /none.css"
        assert ask(front, get("/2026/11/a-post/?p=1")).body == b"app /2026/11/a-post/?p=1"
        for path in ("wp-config.php", "wp-admin/setup.php"):
            _file(prefix / "wordpress" / path, b"<?php 'secret'")
            for ending in ("", "/", "?a=b", "/x.css"):
                assert ask(front, get(f"/{path}{ending}")).body == f"app /{path}{ending}".encode()
        _file(prefix / "wordpress" / ".git" / "x.js", b"secret")
        for ending in ("", "/", "/x", "/x.png"):
            assert ask(front, get(f"/wp-content/uploads/evil.php{ending}")).status == 404
            assert ask(front, get(f"/xmlrpc.php{ending}")).status == 403
        assert [ask(front, get(path)).status for path in ("/.htaccess", "/.git/x.js")] == [403, 403]
        tries = [ask(front, post(b"log=admin", f"/wp-login.php{'/' * (n % 2)}")).status for n in range(6)]
        assert tries[:4] == [200] * 4
        assert tries[-1] == 429


def test_the_grafana_example_takes_its_prefix_away(start: StartBalancer) -> None:
    def grafana(seen: Seen, connection: socket.socket) -> bytes | None:
        if b"\r\nUpgrade: websocket\r\n" in seen.head:
            assert seen.target == b"/api/live/ws"
            _echo(connection)
            return None
        return response(b'{"database": "ok", "at": "%s"}' % seen.target, "Content-Type: application/json")

    with _site(start, "grafana.conf", [3000, 3001], grafana) as (front, _):
        assert ask(front, get("/")).field("Location") == f"http://test:{front}/grafana/"
        assert b'"at": "/d/1?orgId=1"' in ask(front, get("/grafana/d/1?orgId=1")).body
        assert _switches(front, "/grafana/api/live/ws")


def test_the_gitlab_example_hides_tokens_and_knows_its_clients(start: StartBalancer) -> None:
    def workhorse(seen: Seen, connection: socket.socket) -> bytes | None:
        if b"\r\nUpgrade: websocket\r\n" in seen.head:
            _echo(connection)
            return None
        if seen.target == b"/-/health":
            return response(b"GitLab OK")
        (real,) = [line for line in seen.lines if line.startswith(b"X-Real-IP: ")]
        return response(b"%s %d" % (real, len(seen.body)))

    with _site(start, "gitlab.conf", [8181, 8182], workhorse) as (front, prefix):
        pushed = ask(front, post(bytes(3 << 20), "/group/project.git/git-receive-pack", "X-Forwarded-For: 192.0.2.7"))
        assert pushed.body == b"X-Real-IP: 192.0.2.7 %d" % (3 << 20)
        assert ask(front, get("/assets/app.js")).field("Expires") == "Thu, 31 Dec 2037 23:55:55 GMT"
        assert _switches(front, "/-/cable")
        ask(front, get("/api?private_token=glpat-secret&page=2"))
        ask(front, get("/api?access_token=glpat-secret&private_token=glpat-secret&FEED_TOKEN=glpat-secret&a=b"))
        lines = prefix / "logs" / "gitlab_access.log"
        await_condition(lambda: lines.read_text().count('"GET /api?') == 2, "both lines of the log", 10)
        log = lines.read_text()
        assert "GET /api?private_token=[FILTERED]&page=2" in log
        assert "GET /api?access_token=[FILTERED]&private_token=[FILTERED]&FEED_TOKEN=[FILTERED]&a=b" in log
        assert "glpat-secret" not in log
    (front, closed) = free_ports(2)
    start(_example("gitlab.conf", front, {8181: closed, 8182: closed}), [front])
    answer = ask(front, get("/group/project"))
    assert (answer.status, answer.field("Content-Type")) == (502, "text/html")
    assert b"GitLab is not responding yet" in answer.body


def test_the_keycloak_example_keeps_logins_where_they_are(start: StartBalancer) -> None:
    def node(name: bytes) -> Callable[[Seen, socket.socket], bytes]:
        return lambda seen, _: response(name + b" " + seen.target + b" " + b"x" * seen.head.count(b"Proto: https"))

    (plain, front) = free_ports(2)
    with Origin(node(b"one")) as one, Origin(node(b"two")) as two, Origin(response(b"ready")) as management:
        text = (FOLDER / "keycloak.conf").read_text()
        for given, free in {
            "listen 8080;": f"listen 127.0.0.1:{plain};",
            "listen 8443 ssl;": f"listen 127.0.0.1:{front} ssl;",
            "127.0.0.1:8081": f"127.0.0.1:{one.port}",
            "127.0.0.1:8082": f"127.0.0.1:{two.port}",
            "port=9000": f"port={management.port}",
            "tls/example.crt": str(TLS / "good-test-only.pem"),
            "tls/example.key": str(TLS / "leaf-test-only.key"),
        }.items():
            assert given in text
            text = text.replace(given, free)
        start(text, [plain, front])
        assert ask(plain, get("/realms/x?y=1")).field("Location") == "https://test:8443/realms/x?y=1"
        context = trusting(TLS / "authority-test-only.pem")
        context.check_hostname = False

        def secure(data: bytes, source: str = "127.0.0.1") -> Answer:
            with Client(front, source) as client:
                client.socket = context.wrap_socket(client.socket)
                return client.ask(data)

        for name, node_name in ((b"one", "node1"), (b"two", "node2")):
            for _ in range(4):
                answer = secure(get("/realms/x", f"Cookie: AUTH_SESSION_ID=8c1f-22.{node_name}"))
                assert answer.body == name + b" /realms/x x"
                assert answer.field("Strict-Transport-Security") == "max-age=31536000"
        assert secure(get("/metrics")).status == 404
        assert secure(get("/admin/")).status == 200
        assert secure(get("/admin/"), "127.0.0.2").status == 403
        assert secure(get("/realms/x", "Cookie: " + "t" * 20_000)).status == 200


def test_the_django_example_serves_files_and_answers_its_own_host_only(start: StartBalancer) -> None:
    ours = b"Host: django.example.com\r\n"

    def asked(path: str) -> bytes:
        return get(path).replace(b"Host: test\r\n", ours)

    with _site(start, "django.conf", [8000, 8001], _target) as (front, prefix):
        _file(prefix / "django" / "static" / "app.js", b"let a = 1;\n" * 50)
        _file(prefix / "django" / "media" / "report.html", b"<b>1</b>")
        script = ask(front, asked("/static/app.js"))
        assert (script.body, script.field("Content-Type")) == (b"let a = 1;\n" * 50, "application/javascript")
        assert [value for name, value in script.fields if name == "Cache-Control"] == ["max-age=31536000", "immutable"]
        assert ask(front, asked("/media/report.html")).field("Content-Disposition") == "attachment"
        assert ask(front, asked("/static/../settings.py")).body == b"app /static/../settings.py"
        assert ask(front, asked("/static/none.js")).status == 404
        assert ask(front, asked("/orders/?q=1")).body == b"app /orders/?q=1"
        with Client(front) as stranger:
            stranger.send(get("/"))
            assert stranger.socket.recv(100) == b""
    (front, closed) = free_ports(2)
    balancer = start(_example("django.conf", front, {8000: closed, 8001: closed}), [front])
    _file(balancer.prefix / "django" / "down.html", b"back soon\n")
    answer = ask(front, asked("/"))
    assert (answer.status, answer.body) == (502, b"back soon\n")


def test_the_registry_example_lets_all_pull_and_some_push(start: StartBalancer) -> None:
    def registry(seen: Seen, _: socket.socket) -> bytes:
        if seen.target == b"/v2/":
            return response(b"{}", "Docker-Distribution-Api-Version: registry/2.0")
        return response(b"%d" % len(seen.body))

    with _site(start, "registry.conf", [5000, 5001], registry) as (front, _):
        version = "Docker-Distribution-Api-Version"
        assert ask(front, get("/v2/")).field(version) == "registry/2.0"
        layer = bytes(2 << 20)
        turned_away = ask(front, post(b"", "/v2/app/blobs/uploads/"))
        assert (turned_away.status, turned_away.field("WWW-Authenticate")) == (401, 'Basic realm="registry"')
        assert turned_away.field(version) == "registry/2.0"
        pushed = ask(front, post(layer, "/v2/app/blobs/uploads/1", OPEN_SESAME))
        assert (pushed.status, pushed.body) == (200, b"%d" % len(layer))
        assert ask(front, get("/v2/app/manifests/latest", "User-Agent: docker/1.4.1 go/go1.3")).status == 404
        assert ask(front, get("/v2/app/manifests/latest", "User-Agent: docker/27.0")).status == 200
        assert ask(front, get("/")).status == 404


def test_the_minio_example_passes_objects_and_the_console(start: StartBalancer) -> None:
    def minio(seen: Seen, connection: socket.socket) -> bytes | None:
        if b"\r\nUpgrade: websocket\r\n" in seen.head:
            assert seen.target == b"/ws/objectManager"
            _echo(connection)
            return None
        signed = [line for line in seen.lines if line.startswith(b"x_amz_odd: ")]
        return response(b"%s %d %d" % (seen.target, len(seen.body), len(signed)))

    numbers = [9001, 9002, 9003, 9004, 9091, 9092]
    with _site(start, "minio.conf", numbers, minio) as (front, _):
        put = post(bytes(2 << 20), "/bucket/big%20object?partNumber=1", "x_amz_odd: 1").replace(b"POST", b"PUT", 1)
        assert ask(front, put).body == b"/bucket/big%%20object?partNumber=1 %d 1" % (2 << 20)
        assert ask(front, get("/minio/ui/browser?a=b")).body == b"/browser?a=b 0 0"
        assert _switches(front, "/minio/ui/ws/objectManager")


def test_the_prometheus_example_asks_for_a_password_and_keeps_it(start: StartBalancer) -> None:
    def prometheus(seen: Seen, _: socket.socket) -> bytes:
        assert b"\r\nAuthorization:" not in seen.head
        return response(seen.target + b"".join(line for line in seen.lines if line.startswith(b"X-Forwarded-User")))

    with _site(start, "prometheus.conf", [9090, 9091], prometheus) as (front, _):
        assert ask(front, get("/graph")).status == 401
        assert ask(front, get("/graph", OPEN_SESAME)).body == b"/graphX-Forwarded-User: reader"
        assert ask(front, get("/graph", OPEN_SESAME[:-2] + "==")).status == 401
        assert ask(front, get("/-/healthy")).status == 200
        assert ask(front, get("/-/healthy", OPEN_SESAME)).status == 200
        assert ask(front, get("/federate")).status == 401
        assert ask(front, get("/federate", OPEN_SESAME)).status == 200
        assert ask(front, post(b"", "/-/quit", OPEN_SESAME)).status == 403
