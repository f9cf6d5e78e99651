"""TLS for the clients of one address, and what is asked of their requests before anything else is (421, 496, 497)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from upwell.config.model import Block
from upwell.log import INFO
from upwell.modules.ssl import SslSettings
from upwell.modules.tls import ServerTlsSettings
from upwell.proxy.client import ClientConnection, Endpoint
from upwell.proxy.location import Server
from upwell.proxy.tls_transport import TlsFront

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_MISDIRECTED: Final = 421
_NO_CERTIFICATE: Final = 496
_NOT_SECURED: Final = 497
_LARGEST_RECORD: Final = 16_384


def secure(
    endpoint: Endpoint, names: Callable[[ClientConnection, bytes], Server | None], blocks: Mapping[Server, Block]
) -> None:
    """Have the connections of `endpoint` speak TLS, as the servers in `blocks` say; `names` finds one by its name."""
    settings = blocks[endpoint.default][SslSettings]
    contexts = {server: block[ServerTlsSettings].context for server, block in blocks.items()}
    endpoint.tls = TlsFront(
        endpoint.default,
        names,
        {server: context for server, context in contexts.items() if context is not None},
        frozenset(server for server, block in blocks.items() if block[SslSettings].reject_handshake),
        min(settings.buffer_size, _LARGEST_RECORD),
        settings.keeps_hello,
    )
    verify = {server: block[ServerTlsSettings].verify_client for server, block in blocks.items()}
    endpoint.begin = secured(endpoint.begin, {server: value for server, value in verify.items() if value != "off"})


def secured(begin: Callable[[Exchange], None], verifying: Mapping[Server, str]) -> Callable[[Exchange], None]:
    """`begin` for requests on an address with TLS; `verifying` has the servers with `ssl_verify_client` and its value.

    A certificate that is no good has ended the handshake already.
    """

    def begin_secured(exchange: Exchange) -> None:
        transport = exchange.client.tls
        server = exchange.server
        if transport is None:
            _refuse(exchange, _NOT_SECURED, "client sent plain HTTP request to HTTPS port")
        elif server in verifying and transport.server is not None and transport.server is not server:
            what = "client attempted to request the server name different from the one that was negotiated"
            _refuse(exchange, _MISDIRECTED, what)
        elif (
            verifying.get(server) == "on"
            and transport.tls is not None
            and transport.tls.getpeercert(binary_form=True) is None
        ):
            _refuse(exchange, _NO_CERTIFICATE, "client sent no required SSL certificate")
        else:
            begin(exchange)

    return begin_secured


def _refuse(exchange: Exchange, status: int, why: str) -> None:
    exchange.location = exchange.server.fallback
    exchange.log(INFO, f"{why} while reading client request headers")
    exchange.start_answer(status)
