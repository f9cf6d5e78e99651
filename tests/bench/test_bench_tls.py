"""The TLS part of the benchmark: its handshakes are what they say, and its table has figures and goals."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.clients import shake
from bench.report import tls_section
from bench.turns import Spent

TLS = Path(__file__).parents[1] / "system" / "tls"


def _context(side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.load_cert_chain(TLS / "deep0-test-only.pem", TLS / "deep-test-only.key")
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _server(context: ssl.SSLContext) -> Iterator[tuple[int, list[bool]]]:
    """A server that shakes hands and says for each connection whether a session was resumed."""
    resumed: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain = listener.accept()[0]
                except OSError:
                    return
                with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as tls:
                    resumed.append(bool(tls.session_reused))
                    tls.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], resumed
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_full_handshakes_are_full_and_resumed_ones_resumed() -> None:
    client = _context(ssl.PROTOCOL_TLS_CLIENT)
    with _server(_context(ssl.PROTOCOL_TLS_SERVER)) as (port, resumed):
        full = shake(port, 2, 0.1, client)
        assert full.requests >= 1
    assert not any(resumed)
    assert len(resumed) == full.requests
    with _server(_context(ssl.PROTOCOL_TLS_SERVER)) as (port, resumed):
        load = shake(port, 1, 0.1, client, resumes=True)
    assert resumed == [False] + [True] * (load.requests - 1)


def test_the_table_has_figures_and_goals() -> None:
    found: dict[tuple[str, str], Spent | str] = {
        ("full", "nginx"): Spent(200.0, 50.0),
        ("full", "upwell"): Spent(250.0, 40.0),
        ("resumed", "upwell"): "it did not answer\nat all",
    }
    lines = tls_section(found).text.splitlines()
    first, second = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:4])
    assert first == ["nginx: a full handshake", "200.0", "50", "1.00", "-"]
    assert second[1:] == ["250.0", "40", "1.25", "1.3"]
    assert "it did not answer" in lines[4]
    assert "at all" not in lines[4]
