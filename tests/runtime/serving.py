"""A configuration as one worker serves it, in memory: Runtime on the loop and the transports of tests.wire.joined."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Self, cast

from tests.wire.joined import Answer, Client, Log, Loop, Origin, Transport
from upwell.check.spec import CheckSpec
from upwell.modules.load import load
from upwell.peers.peer import peer_keys
from upwell.runtime.build import plan
from upwell.runtime.runtime import Runtime
from upwell.zone.table import PeerTable

FRONT = ("127.0.0.1", 8080)


class _NoControl:
    """The way to a checker that is not there."""

    def __init__(self) -> None:
        self.specs: dict[int, CheckSpec] = {}

    def add_check(self, spec: object) -> None:
        raise AssertionError("no check is configured")

    def set_down(self, key: object, value: bool) -> None:
        raise AssertionError("nobody asked for that")

    def suspect(self, key: object) -> None:
        raise AssertionError("no peer is checked")


class Serving:
    """`http` (the inside of the http block) served; its servers listen on 8080. Peers are 10.0.0.1:80 and 10.0.0.2:80,
    and answer what `reply` is, or with the request as it reached them.
    """

    def __init__(self, folder: Path, http: str, main: str = "") -> None:
        (folder / "logs").mkdir(exist_ok=True)
        (folder / "nginx.conf").write_text(f"{main}\nevents {{}}\nhttp {{\n{http}\n}}\n", "utf-8")
        self.folder = folder
        self._plan = plan(load("nginx.conf", str(folder)))
        for log in self._plan.logs:
            log.open()
        keys = [key for spec in self._plan.upstreams for key in peer_keys(spec)]
        self.loop = Loop()
        self.log = Log()
        self.origins = [Origin(self.loop, (f"10.0.0.{number}", 80)) for number in (1, 2)]
        self.table = PeerTable.create(keys, 1, 4)
        self.checks = self._plan.checks
        self.runtime = Runtime(
            self._plan,
            self.table,
            0,
            _NoControl(),
            cast("Any", dict.fromkeys(self._plan.listens)),  # its sockets are not opened
            cast("asyncio.AbstractEventLoop", self.loop),
            str(folder),
            self.log,
        )
        self.reply = b""
        self._fars: list[Transport] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.close()
        self.loop.run()
        for transport in (*self._fars, *(far.transport for one in self.origins for far in one.connections)):
            transport.own_socket.close()
            transport.far_socket.close()

    def client(self, peer: tuple[str, int] = ("192.0.2.1", 50000), local: tuple[str, int] = FRONT) -> Client:
        """A new connection to the first listening socket."""
        protocol = self.runtime._endpoints[0].connect()
        transport = Transport(self.loop, protocol, peer, local)
        self._fars.append(transport)
        protocol.connection_made(transport)
        return Client(transport.far, protocol)

    def ask(self, data: bytes) -> Answer:
        """The answer to one request on a connection of its own; a peer that is asked answers at once."""
        client = self.client()
        client.send(data)
        for origin in self.origins:
            for far in origin.connections:
                asked = far.taken()
                if asked:
                    far.send(self.reply or b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(asked), asked))
        self.loop.run()
        return client.answer("HEAD" if data.startswith(b"HEAD ") else "GET")

    def lines(self, name: str = "access.log") -> list[bytes]:
        """The lines of a log file."""
        for log in self._plan.access_logs:
            log.write_out()
        return (self.folder / "logs" / name).read_bytes().split(b"\n")[:-1]
