"""`valid_referers`: from which pages a request may come (ngx_http_referer_module). It refuses nobody:
`$invalid_referer` is "1" for the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from upwell import pcre
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.errors import ConfigError
from upwell.modules.server import ServerSettings
from upwell.proxy.variables import Variable

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS: Final = "server location"
_SHORTEST: Final = len("http://i.ru")
_LONGEST_HOST: Final = 256
_SCHEME: Final = re.compile(rb"https?://", re.IGNORECASE)
_NAMED: Final[Mapping[str, object]] = MappingProxyType({"names": (), "regexes": (), "server_names": False})
_HOST: Final = re.compile(rb"[^/:]*")


@dataclass(frozen=True, slots=True)
class Referer:
    """One name: `kind` as that of a server name, `text` without its wildcard; `path` is how the page's path begins."""

    kind: str
    text: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class RefererSettings:
    """What the level names; `none` is a request without the field, `blocked` one whose field is no address any more."""

    none: bool = False
    blocked: bool = False
    server_names: bool = False
    names: tuple[Referer, ...] = ()
    regexes: tuple[re.Pattern[bytes], ...] = ()


def referer_variables(settings: RefererSettings, server: ServerSettings) -> dict[str, Variable]:
    """What $invalid_referer is in a location; nothing where every page is valid."""
    names = list(settings.names)
    host_regexes: list[re.Pattern[bytes]] = []
    if settings.server_names:
        names += [Referer(name.kind, name.text) for name in server.names if name.regex is None and name.text]
        host_regexes = [name.regex for name in server.names if name.regex is not None]
    if not (names or settings.regexes or host_regexes):
        return {}
    exact: dict[bytes, bytes] = {}
    leading: dict[bytes, bytes] = {}
    trailing: dict[bytes, bytes] = {}
    tables = {"exact": (exact,), "leading": (leading,), "dotted": (exact, leading), "trailing": (trailing,)}
    for name in names:
        for table in tables[name.kind]:
            table.setdefault(_octets(name.text), _octets(name.path))

    def path_of(host: bytes) -> bytes | None:
        """How the path has to begin for `host`, None where no name fits."""
        found = exact.get(host)
        at = host.find(b".") if leading else -1
        while found is None and at >= 0:
            found = leading.get(host[at + 1 :])
            at = host.find(b".", at + 1)
        at = host.rfind(b".") if trailing else -1
        while found is None and at >= 0:
            found = trailing.get(host[:at])
            at = host.rfind(b".", 0, at)
        return found

    def is_valid(referer: bytes | None) -> bool:
        if referer is None:
            return settings.none
        scheme = _SCHEME.match(referer) if len(referer) >= _SHORTEST else None
        if scheme is None:
            return settings.blocked
        page = referer[scheme.end() :]
        host = _HOST.match(page)[0].lower()  # type: ignore[index]  # it matches everything
        if len(host) > _LONGEST_HOST:
            return False
        path = path_of(host)
        if path is not None:
            slash = page.find(b"/")
            return (page[slash:] if slash >= 0 else b"").startswith(path)
        if any(pcre.search(regex, host) is not None for regex in host_regexes):
            return True
        return any(pcre.search(regex, page) is not None for regex in settings.regexes)

    def invalid(exchange: Exchange) -> bytes:
        return b"" if is_valid(exchange.values.get(b"referer")) else b"1"

    return {"invalid_referer": invalid}


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _valid_referers(block: Block, directive: Directive) -> None:
    own = block.own(RefererSettings)
    for name, nothing in _NAMED.items():
        own.setdefault(name, nothing)  # of a level around it, only `none` and `blocked` count on
    for index, text in enumerate(directive.args):
        if not text:
            raise directive.error(f'invalid referer "{text}"', index)
        if text in ("none", "blocked", "server_names"):
            block.set(RefererSettings, text, True)
        elif text.startswith("~"):
            if len(text) == 1:
                raise directive.error(f'empty regex in "{text}"', index)
            try:
                regex = compile_regex(text[1:], caseless=True)
            except ValueError as error:
                raise directive.error(str(error), index) from None
            block.append(RefererSettings, "regexes", regex)
        else:
            page = _page(directive, index, text)
            if any(_places(one) & _places(page) for one in own["names"]):
                raise directive.error(f'conflicting parameter "{text.partition("/")[0]}"', index)
            block.append(RefererSettings, "names", page)


def _page(directive: Directive, index: int, text: str) -> Referer:
    host, slash, path = text.partition("/")
    lower = host.lower()
    kind = "exact"
    if lower.startswith("*."):
        kind, lower = "leading", lower[2:]
    elif lower.startswith(".") and len(lower) > 1:
        kind, lower = "dotted", lower[1:]
    elif lower.endswith(".*"):
        kind, lower = "trailing", lower[:-2]
    if "*" in lower or ".." in lower or (kind != "exact" and not lower):
        raise directive.error(f'invalid hostname or wildcard "{host}"', index)
    return Referer(kind, lower, slash + path)


def _places(name: Referer) -> set[tuple[str, str]]:
    kinds = ("exact", "leading") if name.kind == "dotted" else (name.kind,)
    return {(kind, name.text) for kind in kinds}


def _close(block: Block) -> None:
    own = block.own(RefererSettings)
    if own and not any(own[name] for name in _NAMED):
        message = (
            'the "none" or "blocked" referers are specified in the "valid_referers" directive without any valid referer'
        )
        raise ConfigError(message, block.position)


MODULE = Module(
    "referer",
    (command("valid_referers", _LEVELS, (1, None), _valid_referers),),
    {"server": _close, "location": _close},
    options=("http_referer_module",),
)
