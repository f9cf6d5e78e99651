"""`check_status`: the page of Tengine's health checks, in its four formats, byte for byte.

Two things differ on purpose: a JSON page with `?status=` is valid JSON in every version here, and names with characters
that mean something in a format are escaped as it wants. Only the peers of
upstreams with a `check` are on it, as there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from upwell.check.pages.prometheus_page import escaped
from upwell.check.report import UP, Report
from upwell.check.spec import TENGINE
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.modules.location import LocationSettings
from upwell.proxy.variables import argument

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange
    from upwell.proxy.location import Content


@dataclass(frozen=True, slots=True)
class CheckStatusSettings:
    format: str = field(default="html", metadata=LOCAL)


_text: Final = json.encoder.encode_basestring
_RED: Final = ' bgcolor="#FF0000"'


class Line(NamedTuple):
    """One peer of one upstream with a `check`; `rise` and `fall` are its streak, one of them 0."""

    number: int
    upstream: str
    name: str
    up: bool
    rise: int
    fall: int
    type: str
    port: int

    @property
    def status(self) -> str:
        return "up" if self.up else "down"


def _html(lines: Sequence[Line], generation: int) -> str:
    rows = "".join(
        f"  <tr{'' if line.up else _RED}>\n"
        f"    <td>{line.number}</td>\n"
        f"    <td>{escape(line.upstream, True)}</td>\n"
        f"    <td>{escape(line.name, True)}</td>\n"
        f"    <td>{line.status}</td>\n"
        f"    <td>{line.rise}</td>\n"
        f"    <td>{line.fall}</td>\n"
        f"    <td>{line.type}</td>\n"
        f"    <td>{line.port}</td>\n"
        "  </tr>\n"
        for line in lines
    )
    titles = ("Index", "Upstream", "Name", "Status", "Rise counts", "Fall counts", "Check type", "Check port")
    heads = "".join(f"    <th>{title}</th>\n" for title in titles)
    return (
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN\n'
        '"http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">\n'
        '<html xmlns="http://www.w3.org/1999/xhtml">\n'
        "<head>\n  <title>Nginx http upstream check status</title>\n</head>\n<body>\n"
        "<h1>Nginx http upstream check status</h1>\n"
        f"<h2>Check upstream server number: {len(lines)}, generation: {generation}</h2>\n"
        '<table style="background-color:white" cellspacing="0"        cellpadding="3" border="1">\n'
        f'  <tr bgcolor="#C0C0C0">\n{heads}  </tr>\n{rows}</table>\n</body>\n</html>\n'
    )


def _csv(lines: Sequence[Line], generation: int) -> str:
    return "".join(
        f"{line.number},{line.upstream},{line.name},{line.status},{line.rise},{line.fall},{line.type},{line.port}\n"
        for line in lines
    )


def _json(lines: Sequence[Line], generation: int) -> str:
    up = sum(line.up for line in lines)
    servers = ",\n".join(
        f'    {{"index": {line.number}, "upstream": {_text(line.upstream)}, "name": {_text(line.name)}, '
        f'"status": "{line.status}", "rise": {line.rise}, "fall": {line.fall}, "type": "{line.type}", '
        f'"port": {line.port}}}'
        for line in lines
    )
    end = "\n" if lines else ""
    return (
        f'{{"servers": {{\n  "total": {len(lines)},\n  "up": {up},\n  "down": {len(lines) - up},\n'
        f'  "generation": {generation},\n  "server": [\n{servers}{end}  ]\n}}}}\n'
    )


def _prometheus(lines: Sequence[Line], generation: int) -> str:
    up = sum(line.up for line in lines)
    totals = (
        ("total", "Nginx total number of servers", len(lines)),
        ("up", "Nginx total number of servers that are UP", up),
        ("down", "Nginx total number of servers that are DOWN", len(lines) - up),
        ("generation", "Nginx generation", generation),
    )
    page = [
        f"# HELP nginx_upstream_count_{name} {words}\n# TYPE nginx_upstream_count_{name} gauge\n"
        f"nginx_upstream_count_{name} {value}\n"
        for name, words, value in totals
    ]
    each: tuple[tuple[str, str, str, Callable[[Line], int]], ...] = (
        ("rise", "Nginx rise counter", "counter", lambda line: line.rise),
        ("fall", "Nginx fall counter", "counter", lambda line: line.fall),
        ("active", "Nginx active 1 for UP / 0 for DOWN", "gauge", lambda line: int(line.up)),
    )
    for name, words, kind, value in each:
        page.append(f"# HELP nginx_upstream_server_{name} {words}\n# TYPE nginx_upstream_server_{name} {kind}\n")
        for line in lines:
            status = f'status="{line.status}",' if name != "active" else ""
            page.append(
                f'nginx_upstream_server_{name}{{index="{line.number}",upstream="{escaped(line.upstream)}",name="{escaped(line.name)}",'
                f'{status}type="{line.type}",port="{line.port}"}} {value(line)}\n'
            )
    return "".join(page)


_FORMATS: Final[dict[str, tuple[bytes, Callable[[Sequence[Line], int], str]]]] = {
    "html": (b"text/html", _html),
    "csv": (b"text/plain", _csv),
    "json": (b"application/json", _json),
    "prometheus": (b"text/plain", _prometheus),
}


def compile_check_status(settings: CheckStatusSettings, report: Report) -> Content:
    """The content handler."""
    generation = report.table.configurations

    async def content(exchange: Exchange) -> None:
        if exchange.method not in (b"GET", b"HEAD"):
            exchange.respond_error(405)
            return
        wanted = (argument(exchange, b"format") or b"").decode("latin-1")
        media_type, form = _FORMATS[wanted if wanted in _FORMATS else settings.format]
        found = _lines(report)
        status = (argument(exchange, b"status") or b"").lower()
        if status in (b"up", b"down"):
            found = [line for line in found if line.up == (status == b"up")]
        exchange.respond(200, form(found, generation).encode("utf-8", "surrogateescape"), media_type)

    return content


def _lines(report: Report) -> list[Line]:
    """Tengine's list: the peers of upstreams with a `check`, primaries before backups, all numbered through."""
    checks = {identity: spec for identity, spec in report.checks().items() if spec.dialect == TENGINE}
    checked = {spec.upstream for spec in checks.values()}
    lines: list[Line] = []
    for upstream in report.upstreams:
        if upstream.name not in checked:
            continue
        for peer in sorted(report.peers(upstream, checks), key=lambda one: one.spec.backup):
            for check in peer.checks:
                up = check.state == UP
                rise, fall = max(check.record.streak, 0), max(-check.record.streak, 0)
                spec = check.spec
                lines.append(Line(len(lines), upstream.name, peer.spec.name, up, rise, fall, spec.type, spec.port))
    return lines


def _check_status(block: Block, directive: Directive) -> None:
    if directive.args:
        if directive.args[0] not in _FORMATS:
            raise directive.error(f'invalid check format "{directive.args[0]}"', 0)
        block.set(CheckStatusSettings, "format", directive.args[0])
    block.set(LocationSettings, "handler", "check_status")


MODULE = Module("check_status", (command("check_status", "location", (0, 1), _check_status),))
