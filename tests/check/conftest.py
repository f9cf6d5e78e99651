"""What the tests of the checker with real sockets share."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator

import pytest

from tests.check.scripted import Script, Scripted


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    made: list[Scripted] = []

    def make(
        script: Script,
        tls: ssl.SSLContext | None = None,
        family: int = socket.AF_INET,
        address: str | tuple[str, int] = ("127.0.0.1", 0),
    ) -> Scripted:
        made.append(Scripted(script, tls, family, address))
        return made[-1]

    yield make
    for one in made:
        one.close()
