"""The small app answers what the cases ask for, and the benchmark's own clients count what it does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from bench import clients
from bench.backend import SIZES, accept_key, answer_frames, backend, probes_counted
from bench.cases import BadRun, Refused
from upwell.contrib.processes import Balancer, free_ports
from upwell.contrib.traffic import fetch


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with backend(tmp_path_factory.mktemp("app") / "apps", free_ports(2), None) as running:
        yield running


@pytest.fixture
def refusing() -> Iterator[int]:
    """The port of a server that answers 404 to each connection, three of them at most."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(3):
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_the_small_app_answers_each_case_and_counts_probes(app: Balancer) -> None:
    assert fetch(app.ports[0], "/") == (200, "ok\n")
    for path, size in SIZES.items():
        assert fetch(app.ports[1], path) == (200, "x" * size)
    assert probes_counted(app.prefix) == 0
    assert fetch(app.ports[0], "/probe")[0] == 200
    assert probes_counted(app.prefix) == 1, app.story()


def test_the_accept_key_is_the_rfcs() -> None:
    assert accept_key(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_frames_are_echoed_without_their_mask_however_they_are_cut() -> None:
    masked = bytes.fromhex("818537fa213d7f9f4d5158")  # "Hello", RFC 6455 section 5.7
    assert answer_frames(masked + masked[:7]) == (b"\x81\x05Hello", masked[:7])
    assert answer_frames(masked[:5]) == (b"", masked[:5])


def test_echoes_are_counted(app: Balancer) -> None:
    load = clients.echo(app.ports[0], 3, 0.2)
    assert load.requests >= 3
    assert load.rate > 0


def test_an_upgrade_that_is_refused_is_told_from_a_bad_run(refusing: int) -> None:
    with pytest.raises(Refused, match="404"):
        clients.echo(refusing, 1, 0.2)


def test_a_steady_rate_asks_as_often_as_told(app: Balancer) -> None:
    assert len(clients.steady(app.ports[0], 200, 0.25, 4)) == 50


def test_answers_that_are_not_200_end_a_steady_run(refusing: int) -> None:
    with pytest.raises(BadRun, match=r"404|lost"):
        clients.steady(refusing, 100, 0.1, 1)


def test_idle_connections_stay_open(app: Balancer) -> None:
    with clients.idle(app.ports[0], 5):
        pass


def test_idle_connections_that_end_are_told(refusing: int) -> None:
    with pytest.raises(BadRun, match=r"did not stay open|404"), clients.idle(refusing, 1):
        pass


def test_bulk_arrives_whole_at_either_end(app: Balancer) -> None:
    clients.download_slowly(app.ports[0], 3_000_000)
    clients.upload(app.ports[0], 3_000_000)
