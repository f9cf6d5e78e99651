"""TLS for the clients of one address, and what is asked of their requests first (421, 495, 496, 497)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upwell.config.model import Block
from upwell.log import INFO
from upwell.modules.ssl import SslSettings
from upwell.modules.tls import ServerTlsSettings
from upwell.proxy.client import ClientConnection, Endpoint
from upwell.proxy.location import Server
from upwell.proxy.tls import NONE_SHOWN, blame, judge
from upwell.proxy.tls_transport import TlsFront

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_MISDIRECTED: Final = 421
_BAD_CERTIFICATE: Final = 495
_NO_CERTIFICATE: Final = 496
_NOT_SECURED: Final = 497
_PLAIN: Final = "client sent plain HTTP request to HTTPS port"
_OTHER_SERVER: Final = "client attempted to request the server name different from the one that was negotiated"
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
    judges = {
        server: Judge(tls.verify_client, (tls.client_certificate, tls.trusted_certificate, tls.crl, tls.verify_depth))
        for server, tls in ((server, block[ServerTlsSettings]) for server, block in blocks.items())
        if tls.verify_client != "off"
    }
    default = endpoint.default
    shakers: dict[Server | None, Server] = {
        server: default if context is None else server for server, context in contexts.items()
    }
    shakers[None] = default
    endpoint.begin = secured_by(endpoint.begin, judges, shakers) if judges else secured(endpoint.begin)


@dataclass(frozen=True, slots=True)
class Judge:
    """What a server asks of certificates: `verify` as in ServerTls; `trust` is what says which ones are good."""

    verify: str
    trust: tuple[str, str, str, int]


def secured(begin: Callable[[Exchange], None]) -> Callable[[Exchange], None]:
    """`begin` for requests on an address with TLS."""

    def begin_secured(exchange: Exchange) -> None:
        if exchange.client.tls is None and not exchange.depth:
            _refuse(exchange, _NOT_SECURED, _PLAIN)
        else:
            begin(exchange)

    return begin_secured


def secured_by(
    begin: Callable[[Exchange], None], judges: Mapping[Server, Judge], shakers: Mapping[Server | None, Server]
) -> Callable[[Exchange], None]:
    """The same where some servers want certificates. `shakers` has the server by whose context the handshake goes of a
    client that names this one, or None.

    A certificate that was verified by what another server trusts says nothing: nginx lets such requests pass from
    clients that name no server, and to servers without a certificate of their own. Subrequests are not judged: what an
    error page asks for (auth_request) is an answer to it, not to the certificate.
    """

    def begin_judged(exchange: Exchange) -> None:
        if exchange.depth:
            begin(exchange)
            return
        transport = exchange.client.tls
        if transport is None:
            _refuse(exchange, _NOT_SECURED, _PLAIN)
            return
        server = exchange.server
        judging = judges.get(server)
        if judging is None:
            begin(exchange)
            return
        named = transport.server
        verified = judges.get(shakers[named])
        if (named is not None and named is not server) or (verified is not None and verified.trust != judging.trust):
            _refuse(exchange, _MISDIRECTED, _OTHER_SERVER)
            return
        assert transport.tls is not None
        trouble = judge(transport.tls, judging.verify)
        if trouble:
            _refuse(exchange, _NO_CERTIFICATE if trouble == NONE_SHOWN else _BAD_CERTIFICATE, blame(trouble))
        else:
            begin(exchange)

    return begin_judged


def _refuse(exchange: Exchange, status: int, why: str) -> None:
    exchange.location = exchange.server.fallback
    exchange.log(INFO, f"{why} while reading client request headers")
    exchange.start_answer(status)
