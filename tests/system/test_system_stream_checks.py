"""Checks of `stream`: what is probed, and that sessions stay away from a peer that is down."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

from tests.system.conftest import StartBalancer
from tests.system.talkers import Talker, echo
from upwell.contrib.processes import await_condition, free_ports
from upwell.contrib.traffic import fetch


def _states(page: int, upstream: str) -> dict[str, str]:
    found: dict[str, Any] = json.loads(fetch(page, "/")[1])
    (group,) = (one for one in found["upstreams"] if one["name"] == upstream)
    return {peer["name"]: peer["state"] for peer in group["peers"]}


def _answer(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as client:
            client.sendall(b"x")
            return client.recv(10)
    except OSError:
        return b""


def _talking(word: bytes) -> Talker:
    def talk(connection: socket.socket) -> None:
        while data := connection.recv(100):
            connection.sendall(word if data == b"ping\n" else data)

    return Talker(talk)


def test_datagrams_tell_who_is_well(start: StartBalancer) -> None:
    front, quiet, page, nobody = free_ports(4)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as well,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ill,
    ):
        for sock in (well, ill):
            sock.bind(("127.0.0.1", 0))
        ports = [sock.getsockname()[1] for sock in (well, ill)]

        def serve() -> None:
            while True:
                data, client = well.recvfrom(100)
                if data == b"over":
                    return
                well.sendto(b"pong 1" if data == b"ping" else b"served", client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        start(
            f"""
events {{ }}
http {{ access_log off; server {{ listen 127.0.0.1:{page}; location / {{ upwell_status; status_format json; }} }} }}
stream {{
    match ponging {{ send ping; expect ~ "^pong [0-9]"; }}
    upstream group {{ server 127.0.0.1:{ports[0]}; server 127.0.0.1:{ports[1]}; server 127.0.0.1:{nobody}; }}
    upstream other {{ server 127.0.0.1:{ports[1]}; server 127.0.0.1:{nobody}; }}
    health_check_timeout 100ms;
    server {{ listen 127.0.0.1:{front} udp; proxy_pass group; health_check udp interval=50ms match=ponging; }}
    server {{ listen 127.0.0.1:{quiet} udp; proxy_pass other; health_check udp interval=50ms mandatory; }}
}}
""",
            [page],
        )
        wanted = {f"127.0.0.1:{ports[0]}": "up", f"127.0.0.1:{ports[1]}": "down", f"127.0.0.1:{nobody}": "down"}
        await_condition(lambda: _states(page, "stream/group") == wanted, "the verdicts", 10)
        silent = {f"127.0.0.1:{ports[1]}": "up", f"127.0.0.1:{nobody}": "down"}
        await_condition(lambda: _states(page, "stream/other") == silent, "the verdicts without match", 10)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", front))
            for _ in range(3):
                client.send(b"hello")
                assert client.recv(100) == b"served"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"over", ("127.0.0.1", ports[0]))
        thread.join(20)


def test_a_match_tells_who_is_well(start: StartBalancer) -> None:
    front, page, tengine = free_ports(3)
    (nobody,) = free_ports(1)
    with _talking(b"pong 1") as well, _talking(b"ill") as ill, Talker(echo) as plain:
        start(
            f"""
error_log logs/error.log info;
events {{ }}
http {{
    access_log off;
    upstream group {{ server 127.0.0.1:{plain.port}; }}
    server {{ listen 127.0.0.1:{page}; location / {{ upwell_status; status_format json; }} }}
}}
stream {{
    match ponging {{ send "ping\\n"; expect ~ "^pong [0-9]"; }}
    upstream group {{ server 127.0.0.1:{well.port} max_fails=0; server 127.0.0.1:{ill.port} max_fails=0; }}
    upstream other {{
        server 127.0.0.1:{plain.port} max_fails=0;
        server 127.0.0.1:{nobody} max_fails=0;
        check interval=100 fall=1 rise=1 timeout=500 type=tcp;
    }}
    server {{
        listen 127.0.0.1:{front};
        proxy_pass group;
        health_check interval=100ms match=ponging;
        health_check_timeout 500ms;
    }}
    server {{ listen 127.0.0.1:{tengine}; proxy_pass other; proxy_next_upstream off; }}
}}
""",
            [page],
        )
        names = {f"127.0.0.1:{port}": state for port, state in ((well.port, "up"), (ill.port, "down"))}
        await_condition(lambda: _states(page, "stream/group") == names, "the verdicts", 10)
        others = {f"127.0.0.1:{port}": state for port, state in ((plain.port, "up"), (nobody, "down"))}
        await_condition(lambda: _states(page, "stream/other") == others, "the verdicts of check", 10)
        assert _states(page, "group") == {f"127.0.0.1:{plain.port}": "up"}  # nobody asks
        before = well.accepted
        for _ in range(6):
            assert _answer(front) == b"x"
            assert _answer(tengine) == b"x"
        assert well.accepted >= before + 6
