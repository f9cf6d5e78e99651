"""Mirrors whose answers do not come: nobody waits for them, and they do not pile up."""

from __future__ import annotations

from tests.wire.joined import Joined, get, post, response
from upwell.proxy.exchange import Exchange
from upwell.proxy.forward import forward
from upwell.proxy.mirror import mirroring


def _mirrored(limit: int) -> Joined:
    async def proxied(exchange: Exchange) -> None:
        await forward(exchange, joined.spec)

    async def main(exchange: Exchange) -> None:
        exchange.respond(200, b"main")

    joined = Joined(
        location={"access": (mirroring([b"/mirror"], True),)},
        places={b"/": main, b"/mirror": proxied},
        endpoint={"limit": limit},
    )
    return joined


def test_no_more_of_them_than_connections_at_once() -> None:
    with _mirrored(2) as joined:
        client = joined.client()
        for _ in range(4):
            assert client.ask(post(b"content")).body == b"main"
        assert len(joined.origin.connections) == 2
        assert sum("2 requests are mirrored at once" in line for line in joined.log.lines) == 2
        for far in joined.origin.connections:
            assert far.taken().endswith(b"\r\n\r\ncontent")
            far.send(response(b"thrown away", length=1_000_000))
            assert far.closed()  # nobody wants the rest
        assert client.ask(get()).body == b"main"
        assert len(joined.origin.connections) == 3
        joined.advance(61.0)
        assert joined.origin.last.closed()


def test_one_goes_on_when_its_client_has_left() -> None:
    with _mirrored(10) as joined:
        client = joined.client()
        client.send(post(b"content"))
        joined.loop.run()
        client.far.reset()
        far = joined.origin.last
        assert not far.closed()
        far.send(response(b"late"))
        assert joined.in_use == [0]
