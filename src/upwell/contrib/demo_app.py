"""A small real web app: answers every request with its own name. `python -m upwell.contrib.demo_app PORT NAME`.

Knows HTTP through the standard library only, so that what the demo balances is not upwell talking to itself.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_USAGE = "usage: python -m upwell.contrib.demo_app PORT NAME"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body leave in one segment: written apart, the second waits for the peer's delayed ACK.
    wbufsize = -1
    disable_nagle_algorithm = True
    answer = b""

    def _respond(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _respond

    def log_message(self, *_: object) -> None:
        """Say nothing: the demo's terminal belongs to its table."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 511


def main(argv: list[str]) -> int:
    """Serve on 127.0.0.1:PORT until the process is ended. Returns 2 when the arguments are wrong."""
    if len(argv) != 2 or not argv[0].isdigit():
        print(_USAGE, file=sys.stderr)
        return 2
    handler = type("Handler", (_Handler,), {"answer": f"{argv[1]}\n".encode()})
    with _Server(("127.0.0.1", int(argv[0])), handler) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
