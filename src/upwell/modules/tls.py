"""TLS toward clients (`ssl_*`) and toward peers (`proxy_ssl*`): the directives and the contexts that they become.

The same for every block that has them: a module takes the commands for its levels and asks for the contexts when its
server is complete. The files are read here, while they can be: workers may be another user.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field

from upwell.config.command import Command, Setter, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import choice, flag, note_idle, number, once, read_flag, text, time, words_of
from upwell.config.template import Template
from upwell.errors import ConfigError, Position
from upwell.modules.core import conf_path
from upwell.proxy import openssl
from upwell.proxy.openssl import TicketKey, ticket_key
from upwell.proxy.tls import ClientTls, ServerTls, TlsError, client_context, server_context
from upwell.proxy.tls_commands import CommandError, configure, set_curves

_PROTOCOLS = ("sslv2", "sslv3", "tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3")
_DEFAULT = frozenset(("tlsv1.2", "tlsv1.3"))
_CIPHERS = "HIGH:!aNULL:!MD5"
_CACHE = re.compile(r"off|none|builtin(:[0-9]+)?|shared:[^:]+:[0-9]+[kKmM]?")
_VERIFY = {"off": "off", "on": "on", "optional": "optional", "optional_no_ca": "optional_no_ca"}


@dataclass(frozen=True, slots=True)
class ServerTlsSettings:
    """ngx_stream_ssl_module and ngx_http_ssl_module. `certificates` and `keys` are paths, by pairs;
    `place` is where the last one stands. `context` is there once the server is complete.
    """

    certificates: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    place: Position | None = None
    protocols: frozenset[str] = _DEFAULT
    ciphers: str = _CIPHERS
    prefer_server_ciphers: bool = False
    verify_client: str = "off"
    client_certificate: str = ""
    trusted_certificate: str = ""
    handshake_timeout: float = 60.0
    tickets: bool = True
    ticket_keys: tuple[TicketKey, ...] = ()
    session_timeout: float = 300.0
    crl: str = ""
    password_file: str = ""
    dhparam: str = ""
    ecdh_curve: str = ""
    verify_depth: int = 1
    commands: tuple[tuple[str, str], ...] = ()
    context: ssl.SSLContext | None = field(default=None, metadata=LOCAL)


@dataclass(frozen=True, slots=True)
class PeerTlsSettings:
    """ngx_stream_proxy_module's `proxy_ssl` and its kin. `name` None: the peer's as `proxy_pass` names it."""

    on: bool = False
    name: Template | None = None
    server_name: bool = False
    verify: bool = False
    trusted_certificate: str = ""
    certificate: str = ""
    certificate_key: str = ""
    protocols: frozenset[str] = _DEFAULT
    ciphers: str = "DEFAULT"
    crl: str = ""
    password_file: str = ""
    verify_depth: int = 1
    commands: tuple[tuple[str, str], ...] = ()
    place: Position | None = None
    context: ssl.SSLContext | None = field(default=None, metadata=LOCAL)


def _path(block: Block, directive: Directive) -> str:
    """The file that the first argument names."""
    path = directive.args[0]
    if "$" in path:
        raise directive.error(f'"{directive.name}" with variables is not supported by upwell', 0)
    kind, colon, _ = path.partition(":")
    if colon and kind in ("data", "engine", "store"):
        raise directive.error(f'"{directive.name} {kind}:" is not supported by upwell', 0)
    if not path:
        return ""
    path = conf_path(block, path)
    block.loading.depend_on(path)
    return path


def _file(settings: type[object], name: str) -> Setter:
    def put(block: Block, directive: Directive) -> None:
        once(block, directive, settings, name)
        block.set(settings, name, _path(block, directive))
        if settings is PeerTlsSettings:
            block.set(settings, "place", directive.position)

    return put


def _files(name: str) -> Setter:
    def put(block: Block, directive: Directive) -> None:
        block.append(ServerTlsSettings, name, _path(block, directive))
        block.set(ServerTlsSettings, "place", directive.position)

    return put


@dataclass(frozen=True, slots=True)
class WithoutEffect:
    """The setter of a directive that is checked, and changes nothing."""

    check: Setter

    def __call__(self, block: Block, directive: Directive) -> None:
        self.check(block, directive)
        note_idle(block, directive)


def _session_cache(block: Block, directive: Directive) -> None:
    """Sessions are resumed by tickets, whose key all workers have."""
    for index, argument in enumerate(directive.args):
        if _CACHE.fullmatch(argument) is None:
            raise directive.error(f'invalid session cache "{argument}"', index)


def _session_timeout(block: Block, directive: Directive) -> None:
    time(ServerTlsSettings, "session_timeout")(block, directive)
    if openssl.unreachable():
        note_idle(block, directive)


def _session_reuse(block: Block, directive: Directive) -> None:
    read_flag(directive)


def _curve(block: Block, directive: Directive) -> None:
    """Whether there are such curves is seen at once, on a context of its own."""
    once(block, directive, ServerTlsSettings, "ecdh_curve")
    curve = directive.args[0]
    if curve == "auto":
        curve = ""
    else:
        try:
            set_curves(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), curve)
        except CommandError as error:
            raise directive.error(str(error), 0) from None
    block.set(ServerTlsSettings, "ecdh_curve", curve)


def _conf_command(settings: type[object]) -> Setter:
    """A command of OpenSSL's configuration; whether it can be done is seen at once, on a context of its own."""

    def put(block: Block, directive: Directive) -> None:
        name, value = directive.args
        side = ssl.PROTOCOL_TLS_SERVER if settings is ServerTlsSettings else ssl.PROTOCOL_TLS_CLIENT
        if name.lower() == "dhparameters":
            value = conf_path(block, value)
            block.loading.depend_on(value)
        try:
            configure(ssl.SSLContext(side), name, value)
        except CommandError as error:
            raise directive.error(f'"{directive.name} {name}" is not supported by upwell: {error}', 0) from None
        block.append(settings, "commands", (name, value))

    return put


def _verify_client(block: Block, directive: Directive) -> None:
    why = openssl.unreachable()
    if why and directive.args[0].lower() == "optional_no_ca":
        raise directive.error(f'"ssl_verify_client optional_no_ca" is not supported by upwell here: {why}', 0)
    choice(ServerTlsSettings, "verify_client", _VERIFY)(block, directive)


def _ticket_key(block: Block, directive: Directive) -> None:
    why = openssl.unreachable()
    if why:
        raise directive.error(f'"ssl_session_ticket_key" is not supported by upwell here: {why}', 0)
    path = _path(block, directive)
    try:
        with open(path, "rb") as file:
            data = file.read(81)
        block.append(ServerTlsSettings, "ticket_keys", ticket_key(data))
    except OSError as error:
        raise directive.error(f'open() "{path}" failed ({error.errno}: {error.strerror})', 0) from None
    except ValueError as error:
        raise directive.error(f'"{path}" {error}', 0) from None


def _proxy_ssl(block: Block, directive: Directive) -> None:
    flag(PeerTlsSettings, "on")(block, directive)
    block.set(PeerTlsSettings, "place", directive.position)


def _proxy_ssl_name(block: Block, directive: Directive) -> None:
    once(block, directive, PeerTlsSettings, "name")
    block.set(PeerTlsSettings, "name", block.template(directive, 0))


def server_commands(levels: str) -> tuple[Command, ...]:
    """The directives of TLS toward clients, for blocks of the kinds `levels`."""
    settings = ServerTlsSettings
    return (
        command("ssl_certificate", levels, 1, _files("certificates")),
        command("ssl_certificate_key", levels, 1, _files("keys")),
        command("ssl_protocols", levels, (1, None), words_of(settings, "protocols", _PROTOCOLS)),
        command("ssl_ciphers", levels, 1, text(settings, "ciphers")),
        command("ssl_prefer_server_ciphers", levels, 1, flag(settings, "prefer_server_ciphers")),
        command("ssl_verify_client", levels, 1, _verify_client),
        command("ssl_verify_depth", levels, 1, number(settings, "verify_depth")),
        command("ssl_client_certificate", levels, 1, _file(settings, "client_certificate")),
        command("ssl_trusted_certificate", levels, 1, _file(settings, "trusted_certificate")),
        command("ssl_crl", levels, 1, _file(settings, "crl")),
        command("ssl_password_file", levels, 1, _file(settings, "password_file")),
        command("ssl_dhparam", levels, 1, _file(settings, "dhparam")),
        command("ssl_ecdh_curve", levels, 1, _curve),
        command("ssl_conf_command", levels, 2, _conf_command(settings)),
        command("ssl_handshake_timeout", levels, 1, time(settings, "handshake_timeout")),
        command("ssl_session_tickets", levels, 1, flag(settings, "tickets")),
        command("ssl_session_ticket_key", levels, 1, _ticket_key),
        command("ssl_session_cache", levels, (1, 2), WithoutEffect(_session_cache)),
        command("ssl_session_timeout", levels, 1, _session_timeout),
    )


def peer_commands(levels: str) -> tuple[Command, ...]:
    """The directives of TLS toward peers, for blocks of the kinds `levels` (in http `proxy_ssl` is https://)."""
    settings = PeerTlsSettings
    return (
        command("proxy_ssl", levels, 1, _proxy_ssl),
        command("proxy_ssl_name", levels, 1, _proxy_ssl_name),
        command("proxy_ssl_server_name", levels, 1, flag(settings, "server_name")),
        command("proxy_ssl_verify", levels, 1, flag(settings, "verify")),
        command("proxy_ssl_verify_depth", levels, 1, number(settings, "verify_depth")),
        command("proxy_ssl_conf_command", levels, 2, _conf_command(settings)),
        command("proxy_ssl_trusted_certificate", levels, 1, _file(settings, "trusted_certificate")),
        command("proxy_ssl_certificate", levels, 1, _file(settings, "certificate")),
        command("proxy_ssl_certificate_key", levels, 1, _file(settings, "certificate_key")),
        command("proxy_ssl_crl", levels, 1, _file(settings, "crl")),
        command("proxy_ssl_password_file", levels, 1, _file(settings, "password_file")),
        command("proxy_ssl_protocols", levels, (1, None), words_of(settings, "protocols", _PROTOCOLS)),
        command("proxy_ssl_ciphers", levels, 1, text(settings, "ciphers")),
        command("proxy_ssl_session_reuse", levels, 1, WithoutEffect(_session_reuse)),
    )


def close_server_tls(server: Block, kind: str, alpn: tuple[str, ...] = ()) -> None:
    """Make the context of a server that listens with TLS. Raises ConfigError.

    `kind` as in ServerTls; `alpn` are the protocols that are offered there (RFC 7301).
    """
    found = server[ServerTlsSettings]
    place = found.place or server.position
    if any(
        at == block.position and name.startswith("ssl_")
        for at, name in server.loading.refused
        for block in (server, server.section)
    ):
        return  # that has been told
    if not found.certificates:
        raise ConfigError('no "ssl_certificate" is defined for the "listen ... ssl" directive', server.position)
    if len(found.keys) < len(found.certificates):
        missing = found.certificates[len(found.keys)]
        raise ConfigError(f'no "ssl_certificate_key" is defined for certificate "{missing}"', place)
    if found.verify_client in ("on", "optional") and not (found.client_certificate or found.trusted_certificate):
        what = "no ssl_client_certificate or ssl_trusted_certificate for ssl_verify_client"
        raise ConfigError(what, server.position)
    spec = ServerTls(
        tuple(zip(found.certificates, found.keys, strict=False)),
        found.protocols,
        found.ciphers,
        found.prefer_server_ciphers,
        found.verify_client,
        tuple(path for path in (found.client_certificate, found.trusted_certificate) if path),
        found.tickets,
        found.crl,
        found.password_file,
        found.dhparam,
        found.ecdh_curve,
        alpn,
        found.verify_depth,
        found.commands,
        found.client_certificate,
        kind,
        found.ticket_keys,
        int(found.session_timeout),
    )
    try:
        server.set(ServerTlsSettings, "context", server_context(spec))
    except TlsError as error:
        raise ConfigError(str(error), place) from None


def close_peer_tls(server: Block, made: dict[ClientTls, ssl.SSLContext]) -> None:
    """Make the context of a block whose peers speak TLS; one in `made` serves all that say the same. Raises
    ConfigError."""
    found = server[PeerTlsSettings]
    place = found.place or server.position
    if found.verify and not found.trusted_certificate:
        raise ConfigError("no proxy_ssl_trusted_certificate for proxy_ssl_verify", place)
    if found.certificate and not found.certificate_key:
        raise ConfigError(f'no "proxy_ssl_certificate_key" is defined for certificate "{found.certificate}"', place)
    spec = ClientTls(
        found.verify,
        found.trusted_certificate,
        found.certificate,
        found.certificate_key,
        found.protocols,
        found.ciphers,
        found.crl,
        found.password_file,
        found.verify_depth,
        found.commands,
    )
    try:
        context = made.get(spec)
        if context is None:
            context = made[spec] = client_context(spec)
        server.set(PeerTlsSettings, "context", context)
    except TlsError as error:
        raise ConfigError(str(error), place) from None
