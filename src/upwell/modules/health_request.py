"""The request that a `health_check` sends: made once, when the file is read, of its location's `proxy_*` directives.

There is no client, so variables that come from one are empty, as in NGINX Plus. No value can end a field line early.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.template import Template, Variable
from upwell.modules.proxy import ProxyPass, ProxySettings
from upwell.modules.proxy_request import ProxyRequestSettings
from upwell.modules.server import ServerSettings
from upwell.modules.variables import VariableSettings
from upwell.version import NGINX_VERSION, VERSION

USER_AGENT = f"upwell/{VERSION} (health check)"

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OWN = frozenset(("connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"))
"""Fields of this connection and its framing: upwell says them itself, whatever the location has for its requests."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the parameters of a `health_check` say of its request; "" for what they leave to the location."""

    uri: str = "/"
    method: str = ""
    host: str = ""
    headers: tuple[tuple[str, Template], ...] = ()
    kept: bool = False


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """A whole request; `named` says that somebody chose its Host, which then is more than the upstream's name."""

    method: str
    host: str
    named: bool
    data: bytes


def is_token(text: str) -> bool:
    """Whether `text` may be a field's name or a method."""
    return _TOKEN.fullmatch(text) is not None


def is_own(name: str) -> bool:
    """Whether upwell alone says the field `name`."""
    return name.lower() in _OWN


def has_control(text: str) -> bool:
    """Whether `text` has a character that no field value has."""
    return _CONTROL.search(text) is not None


def request_of(location: Block, target: ProxyPass, asked: Asked, directive: Directive) -> ProbeRequest:
    """The request for the peers of `target`. Raises ConfigError at the directive for a value that cannot be sent."""
    proxy = location[ProxySettings]
    own = location[ProxyRequestSettings]
    values = _values(location, target, asked)
    method = asked.method or (_text(own.method, values, location, directive) if own.method else "") or "GET"
    if not is_token(method):
        raise directive.error(f'invalid method "{shown(method)}" of a health check')
    values["request_method"] = method
    fields: dict[str, tuple[str, str]] = {}
    for name, template in (*proxy.set_headers, *asked.headers):
        if is_own(name):
            continue
        if not is_token(name):
            raise directive.error(f'invalid header name "{shown(name)}" of a health check')
        value = _text(template, values, location, directive)
        if has_control(value):
            raise directive.error(f'control character in "{name}" of a health check')
        fields[name.lower()] = (name, value.strip(" \t"))
    host, named = asked.host, bool(asked.host)
    given = fields.pop("host", None)
    if not host and given is not None:
        host, named = given[1], given[1] not in ("", target.host)
        if not host:
            message = f'"Host" is empty without a client, a health check sends "{target.host}"'
            location.loading.warnings.append(directive.error(message))
    host = host or target.host
    body = _text(own.body, values, location, directive) if own.body else ""
    version = "1.0" if proxy.http_version == 10 and not asked.kept else "1.1"
    lines = [f"{method} {asked.uri} HTTP/{version}", f"Host: {host}"]
    if not asked.kept:
        lines.append("Connection: close")
    agent = fields.pop("user-agent", ("User-Agent", ""))
    lines.append(f"{agent[0]}: {agent[1] or USER_AGENT}")
    if body:
        lines.append(f"Content-Length: {len(_octets(body))}")
    lines += [f"{name}: {value}" for name, value in fields.values() if value]
    return ProbeRequest(method, host, named, _octets("\r\n".join(lines)) + b"\r\n\r\n" + _octets(body))


def value_of(location: Block, target: ProxyPass, template: Template, directive: Directive) -> str:
    """What `template` comes to in a check without a client. Raises ConfigError as `request_of`."""
    return _text(template, _values(location, target, Asked()), location, directive)


def _values(location: Block, target: ProxyPass, asked: Asked) -> dict[str, str]:
    """The variables that have a value without a client."""
    server = location.around("server")[ServerSettings]
    # a pattern is nobody's name
    name = next((one.text for one in server.names if one.kind in ("exact", "dotted")), "")
    path, mark, args = asked.uri.partition("?")
    address = server.listens[0].spec.address if server.listens else ("", 80)
    port = "" if isinstance(address, str) else str(address[1])
    return {
        "proxy_host": target.host,
        "proxy_port": target.port,
        "host": name,
        "server_name": name,
        "server_port": port,
        "scheme": "http",
        "hostname": socket.gethostname().lower(),
        "nginx_version": NGINX_VERSION,
        "request_uri": asked.uri,
        "uri": path,
        "document_uri": path,
        "args": args,
        "query_string": args,
        "is_args": mark if args else "",
    }


def _text(template: Template, values: dict[str, str], location: Block, directive: Directive) -> str:
    """What `template` comes to; a variable that a request would have to make is empty, and a warning says so."""
    parts = []
    made = location.around("http")[VariableSettings].names
    for part in template.parts:
        if not isinstance(part, Variable):
            parts.append(part)
            continue
        parts.append(values.get(part.name, ""))
        if part.name in made and part.name not in values:
            location.loading.warnings.append(directive.error(f'"${part.name}" is empty in a health check'))
    return "".join(parts)


def shown(text: str) -> str:
    """`text` in one line, for messages."""
    return _CONTROL.sub("?", text)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
