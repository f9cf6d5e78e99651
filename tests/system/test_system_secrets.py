"""What a client, a backend or a configuration keeps secret is in no log, at any level, and on no page."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, Origin, Seen, ask, get, post, response
from upwell.contrib.processes import Balancer, await_condition, free_ports
from upwell.contrib.traffic import fetch

_SECONDS = 20
SECRET = "hunter2"
"""Part of everything that is nobody's business."""


@pytest.fixture
def command() -> Iterator[Path]:
    # Not below tmp_path, where the workers' user may not read.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "probe"
        path.write_text("#!/bin/sh\nexit 3\n")
        path.chmod(0o755)
        yield path


def _refusing(seen: Seen, _: object) -> bytes:
    """A backend that answers requests, fails probes, and breaks off or talks nonsense where it is told to."""
    secret = f"Set-Cookie: session={SECRET}"
    if seen.target.startswith(b"/probe"):
        return response(b"no", secret, f"X-Token: {SECRET}", status="503 Service Unavailable")
    if seen.target.startswith(b"/token"):
        return response(b"fine", f"X-Token: {SECRET}")
    if seen.target.startswith(b"/nonsense"):
        return f"HTTP/1.1 200 OK\r\n{secret}\0\r\nContent-Length: 0\r\n\r\n".encode()
    if seen.target.startswith(b"/broken"):
        return f"HTTP/1.1 200 OK\r\n{secret}\r\nContent-Length: 5000\r\n\r\n{SECRET}".encode()
    return response(f"your {SECRET}".encode(), secret)


def _configuration(front: int, port: int, dead: int, hook: int, command: Path) -> str:
    return f"""
worker_processes 1;
error_log logs/error.log debug;
events {{ }}
http {{
    access_log logs/access.log;
    health_check_notify http://operator:{SECRET}@127.0.0.1:{hook}/hook/{SECRET}?key={SECRET} retries=0;
    health_check_notify exec:{command} --password {SECRET};
    match told {{ status 200; header X-Token = right-{SECRET}; }}
    upstream app {{ server 127.0.0.1:{port}; }}
    upstream gone {{ server 127.0.0.1:{dead}; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{
            proxy_pass http://app;
            proxy_set_header X-Api-Key {SECRET};
        }}
        location /checks {{
            proxy_pass http://gone;
            health_check uri=/probe?token={SECRET} interval=100ms "header=Authorization: Bearer {SECRET}" port={port};
            health_check uri=/token match=told interval=100ms port={port};
            health_check type=exec interval=100ms "command={command} {SECRET}";
        }}
        location /upwell {{ upwell_status; }}
        location /tengine {{ check_status; }}
    }}
}}
"""


def _talk(front: int) -> None:
    """Requests with secrets, good ones and those that are refused or end badly in every way there is."""
    fields = (f"Authorization: Basic {SECRET}", f"Cookie: session={SECRET}", f"X-Auth-Token: {SECRET}")
    assert ask(front, get("/", *fields)).status == 200
    assert ask(front, post(SECRET.encode() * 2000, "/", *fields)).status == 200
    for path in ("/nonsense", "/checks"):
        assert ask(front, get(path, *fields)).status == 502
        assert ask(front, post(SECRET.encode(), path, *fields)).status == 502
    bad = (
        f"Cookie: session={SECRET}\0",
        f"Authorization: {SECRET}\x01",
        f"X_Auth_Token: {SECRET}",  # ignored, and said to be
        f"Authorization: {SECRET}\r\nAuthorization: {SECRET}",
        f"Cookie: {SECRET * 3000}",
        f"Transfer-Encoding: {'x' * 8}\r\nCookie: {SECRET}",
        f" {SECRET}",
    )
    for line in bad:
        for head in (get("/", *fields, line), get("/", line)):
            with Client(front) as client, contextlib.suppress(Exception):
                client.ask(head)
    for piece in (
        b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %b",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n%b",
    ):
        with Client(front) as client:
            client.send(piece % SECRET.encode())
    with contextlib.suppress(Exception):
        ask(front, get("/broken", *fields))
    broken = f"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{SECRET}\r\n"
    with contextlib.suppress(Exception):
        ask(front, broken.encode())


def _transitions(front: int) -> list[dict[str, object]]:
    page = json.loads(fetch(front, "/upwell?format=json")[1])
    (gone,) = (one for one in page["upstreams"] if one["name"] == "gone")
    (peer,) = gone["peers"]
    return [check for check in peer["checks"] if check["state"] == "down"]


def test_no_secret_is_in_a_log_or_on_a_page(start: StartBalancer, command: Path) -> None:
    front, dead = free_ports(2)
    with ExitStack() as stack:
        hook = stack.enter_context(Origin(response(b"no", status="400 Bad Request")))
        app = stack.enter_context(Origin(_refusing))
        balancer = start(_configuration(front, app.port, dead, hook.port, command), [front])
        await_condition(lambda: len(_transitions(front)) == 3, "all three checks down", _SECONDS)
        _talk(front)
        await_condition(lambda: "not delivered" in balancer.error_log(), "the webhook refused", _SECONDS)
        pages = [
            fetch(front, f"/{page}?format={form}")[1]
            for page, forms in (("upwell", "html json prometheus"), ("tengine", "html csv json prometheus"))
            for form in forms.split()
        ]
        # The secrets were really there, and what is not secret is said.
        assert any(SECRET.encode() in seen.head for seen in app.seen)
        assert any(SECRET.encode() in seen.body for seen in app.seen)
        assert any(b"Authorization: Basic" in seen.head for seen in hook.seen)
        assert all(SECRET.encode() not in seen.body for seen in hook.seen)
        for words in (f"exec {command}", "http GET /probe?...", "status 503, want 200-399"):
            assert words in pages[1], words
        log = balancer.error_log()
        for words in ('invalid header line: \\"Cookie: ...', "too long header line", "sent invalid header: "):
            assert words.replace("\\", "") in log, words
        balancer.stop()
    texts = {
        str(path): path.read_text(errors="replace") for path in (balancer.prefix / "logs").iterdir() if path.is_file()
    }
    texts |= {f"page {number}": page for number, page in enumerate(pages)} | {"printed": balancer.said()}
    found = [f"{name}: {line}" for name, text in texts.items() for line in text.splitlines() if SECRET in line]
    assert found == []


def test_what_upwell_leaves_in_files_is_not_for_others_to_change(start: StartBalancer, command: Path) -> None:
    """Modes of all that a running upwell has in the file system."""
    front, dead = free_ports(2)
    text = f"""
error_log logs/error.log;
pid run.pid;
events {{ }}
http {{
    lua_shared_dict words 1m;
    health_check_state state/health;
    upstream app {{ server 127.0.0.1:{dead}; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ content_by_lua_block {{ ngx.shared.words:set("a", "b") ngx.say("b") }} }}
        location /p {{ proxy_pass http://app; health_check interval=100ms; }}
    }}
}}
"""
    balancer = start(text, [front])
    assert fetch(front, "/") == (200, "b\n")
    await_condition(lambda: (balancer.prefix / "state" / "health").exists(), "the state file", _SECONDS)
    _made_by_upwell(balancer)
    # The control socket, the zone and the signals' pipes have no names that anybody could open.
    assert str(balancer.prefix) not in Path("/proc/net/unix").read_text()
    for pid in (balancer.pid, *balancer.workers):
        maps = [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if " rw-s " in line]
        named = [line.split()[-1] for line in maps if "/dev/zero" not in line and "/" in line]
        for name in named:
            folder = Path(name).parent
            assert folder.parent == Path("/dev/shm"), name
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def _made_by_upwell(balancer: Balancer) -> None:
    for folder, names, files in os.walk(balancer.prefix):
        for name in (*names, *files):
            found = os.lstat(os.path.join(folder, name))
            assert not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH), os.path.join(folder, name)
            if name in ("state", "client_body_temp", "proxy_temp"):
                assert stat.S_IMODE(found.st_mode) == 0o700, name
