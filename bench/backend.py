"""The apps behind every proxy: nginx for plain answers where it is installed, and a small uvloop app for the rest.

They answer at once, so that what is measured is the proxy: `/` with a few bytes, `/10k`, `/100k` and `/10m` with that
many, any POST with a few bytes once its content was read. Requests for `/probe` are counted in a file, one line of two
bytes each. The app (`python -m bench.backend`) knows more: `/echo` upgrades to WebSocket and echoes frames,
`/bulk/BYTES` answers with that many bytes, and a POST to `/slow` reads its content at SLOW bytes a second.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

from bench.tools import Tool, reads_bodies
from upwell.contrib.processes import Balancer

SIZES = {"/10k": 10_240, "/100k": 102_400, "/10m": 10_485_760}
SLOW = 100_000_000
"""Bytes a second of a reader that is slow: a tenth of what its peer could send."""
_COUNT_LINE = b"p\n"
_PIECE = b"x" * 262_144
_PAUSE = 1_000_000
"""After how many bytes a slow reader looks whether it is ahead of its time."""

# `return` answers before the content was read, and then the proxy cannot keep its connection: the echo module reads it.
_READ_FIRST = """
        location = /post { echo_read_request_body; echo_exec /done; }
        location = /done { internal; return 200 "ok\\n"; }
"""


def nginx_configuration(ports: Sequence[int], prefix: Path) -> str:
    """The nginx.conf of the apps on `ports`; writes the bodies that it serves into `prefix`."""
    for path, size in SIZES.items():
        (prefix / path[1:]).write_bytes(b"x" * size)
    listen = "\n".join(f"        listen 0.0.0.0:{port} backlog=4096;" for port in ports)
    files = "\n".join(f"        location = {path} {{ }}" for path in SIZES)
    return f"""
worker_processes 1;
events {{ worker_connections 16384; }}
http {{
    default_type text/plain;
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_max_body_size 0;
    client_body_buffer_size 2m;
    log_format count "p";
    server {{
{listen}
        root {prefix};
        location / {{ return 200 "ok\\n"; }}
{files}{_READ_FIRST}
        location = /probe {{ access_log {prefix}/probes count; return 200 "ok\\n"; }}
    }}
}}
"""


APP = (sys.executable, "-m", "bench.backend")


def backend(prefix: Path, ports: Sequence[int], nginx: Tool | None) -> Balancer:
    """The apps, not yet started: nginx when it can read content, else (or with None) this module under its flags."""
    prefix.mkdir()
    prefix.chmod(0o755)
    command = nginx.command if nginx is not None and reads_bodies(nginx) else APP
    return Balancer(prefix, nginx_configuration(ports, prefix), ports, command)


def probes_counted(prefix: Path) -> int:
    """How many requests for `/probe` the backend has answered."""
    try:
        return (prefix / "probes").stat().st_size // len(_COUNT_LINE)
    except FileNotFoundError:
        return 0


def accept_key(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())


def answer_frames(pending: bytes) -> tuple[bytes, bytes]:
    """The unmasked frames that echo the whole ones in `pending`, of at most 125 bytes each, and what is left of it."""
    echoed = []
    start = 0
    while len(pending) >= start + 6:
        length = pending[start + 1] & 0x7F
        end = start + 6 + length
        if len(pending) < end:
            break
        mask = int.from_bytes((pending[start + 2 : start + 6] * (length // 4 + 1))[:length], "big")
        payload = (int.from_bytes(pending[start + 6 : end], "big") ^ mask).to_bytes(length, "big")
        echoed.append(bytes((pending[start], length)) + payload)
        start = end
    return b"".join(echoed), pending[start:]


def _field(head: bytes, name: bytes) -> bytes:
    return head.lower().partition(b"\r\n" + name + b":")[2].split(b"\r\n")[0].strip()


class _Answering(asyncio.Protocol):
    """Answers each request on a connection by its path, without looking at more of it than it needs."""

    def __init__(self, answers: dict[bytes, bytes], count: Path) -> None:
        self._answers = answers
        self._count = count
        self._pending = b""
        self._left = 0
        """Bytes of content still to come of the request under way, whose answer is `_answer`."""
        self._answer = b""
        self._close = False
        self._echoing = False
        self._slow_since: float | None = None
        self._read = 0
        self._to_send = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        if self._echoing:
            echoed, self._pending = answer_frames(self._pending + data)
            self._transport.write(echoed)
            return
        if self._left:
            data = self._content(data)
            if self._left:
                return
        self._pending += data
        while not self._left and not self._echoing and (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head, rest = self._pending[: end + 2], self._pending[end + 4 :]
            self._pending = b""
            self._request(head)
            self._pending = self._content(rest) if self._left else rest

    def _request(self, head: bytes) -> None:
        path = head.split(b" ", 2)[1]
        self._left = int(_field(head, b"content-length") or 0)
        self._close = b" HTTP/1.0\r\n" in head[:200]
        if path == b"/echo":
            key = head[head.lower().index(b"\r\nsec-websocket-key:") + 20 :].split(b"\r\n")[0].strip()
            self._echoing = True
            fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept_key(key)
            self._transport.write(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n\r\n")
            return
        if path == b"/probe":
            with self._count.open("ab") as counted:
                counted.write(_COUNT_LINE)
        if path.startswith(b"/bulk/"):
            self._to_send = int(path[6:])
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._to_send)
            self._send()
            return
        if path == b"/slow":
            self._slow_since, self._read = self._loop.time(), 0
            self._answer = _answer(b"%d" % self._left)
        else:
            self._answer = self._answers.get(path, self._answers[b"/"])
        if not self._left:
            self._finish()

    def _content(self, data: bytes) -> bytes:
        """Take content from `data`, and the answer out when it was the last; returns what is not content."""
        taken = min(self._left, len(data))
        self._left -= taken
        if self._slow_since is not None:
            self._read += taken
            ahead = self._read / SLOW - (self._loop.time() - self._slow_since)
            if ahead > _PAUSE / SLOW and self._left:
                self._transport.pause_reading()
                self._loop.call_later(ahead, self._read_on)
        if not self._left:
            self._slow_since = None
            self._finish()
        return data[taken:]

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _finish(self) -> None:
        self._transport.write(self._answer)
        if self._close:
            self._transport.close()

    def _send(self) -> None:
        while self._to_send and not self._paused:
            piece = _PIECE[: self._to_send]
            self._to_send -= len(piece)
            self._transport.write(piece)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()


def _answer(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content)


async def _serve(prefix: Path, ports: Sequence[int]) -> None:
    answers = {b"/": _answer(b"ok\n"), **{path.encode(): _answer(b"x" * size) for path, size in SIZES.items()}}
    loop = asyncio.get_running_loop()
    for port in ports:
        await loop.create_server(lambda: _Answering(answers, prefix / "probes"), "0.0.0.0", port, backlog=4096)
    await asyncio.Event().wait()


def main(argv: list[str]) -> None:
    """Take nginx's flags as `Balancer` gives them: the ports stand in the `listen` lines of the configuration file."""
    import uvloop

    prefix = Path(argv[argv.index("-p") + 1])
    words = (prefix / "conf" / "nginx.conf").read_text().split()
    ports = [int(after.split(":")[1]) for word, after in pairwise(words) if word == "listen"]
    uvloop.run(_serve(prefix, ports))


if __name__ == "__main__":
    main(sys.argv[1:])
