"""The backend behind every contender: nginx where installed, else a small uvloop app (`python -m bench.backend`).

It answers at once, so that what is measured is the proxy: `/` with a few bytes, `/10k` and `/100k` with that many KB,
any POST with a few bytes. Requests for `/probe` are counted as bytes in a file, one line of two bytes each.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

from bench.tools import Tool

SIZES = {"/10k": 10_240, "/100k": 102_400}
_COUNT_LINE = b"p\n"


def nginx_configuration(ports: Sequence[int], prefix: Path) -> str:
    """The backend's nginx.conf for `ports`; writes the bodies that it serves into `prefix`."""
    for path, size in SIZES.items():
        (prefix / path[1:]).write_bytes(b"x" * size)
    listen = "\n".join(f"        listen 0.0.0.0:{port} backlog=4096;" for port in ports)
    return f"""
worker_processes 1;
events {{ worker_connections 16384; }}
http {{
    default_type text/plain;
    access_log off;
    keepalive_requests 1000000000;
    log_format count "p";
    server {{
{listen}
        root {prefix};
        location / {{ return 200 "ok\\n"; }}
        location = /10k {{ }}
        location = /100k {{ }}
        location = /probe {{ access_log {prefix}/probes count; return 200 "ok\\n"; }}
    }}
}}
"""


def backend_command(nginx: Tool | None) -> tuple[str, ...]:
    """The command of the backend: nginx, or this module under the same flags."""
    return nginx.command if nginx is not None else (sys.executable, "-m", "bench.backend")


def probes_counted(prefix: Path) -> int:
    """How many requests for `/probe` the backend has answered."""
    try:
        return (prefix / "probes").stat().st_size // len(_COUNT_LINE)
    except FileNotFoundError:
        return 0


class _Answering(asyncio.Protocol):
    """Answers each request on a connection by its path, without looking at more of it than that and its length."""

    def __init__(self, answers: dict[bytes, bytes], count: Path) -> None:
        self._answers = answers
        self._count = count
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class

    def data_received(self, data: bytes) -> None:
        pending = self._pending + data
        while (end := pending.find(b"\r\n\r\n")) >= 0:
            head = pending[:end]
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
            if len(pending) < end + 4 + length:
                break
            pending = pending[end + 4 + length :]
            path = head.split(b" ", 2)[1]
            if path == b"/probe":
                with self._count.open("ab") as counted:
                    counted.write(_COUNT_LINE)
            self._transport.write(self._answers.get(path, self._answers[b"/"]))
            if b"HTTP/1.0" in head[:200]:
                self._transport.close()
        self._pending = pending


def _answer(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (size, b"x" * size)


async def _serve(prefix: Path, ports: Sequence[int]) -> None:
    answers = {b"/": _answer(3), **{path.encode(): _answer(size) for path, size in SIZES.items()}}
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
