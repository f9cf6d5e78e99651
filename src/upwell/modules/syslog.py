"""`syslog:server=...` where a log's path may stand: reading its parameters (nginx: ngx_syslog_process_conf)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.modules.address import is_ip, parse_address

_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "intern", "lpr", "news", "uucp", "clock", "authpriv", "ftp", "ntp"),
    *("audit", "alert", "cron", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
_SEVERITIES = ("emerg", "alert", "crit", "error", "warn", "notice", "info", "debug")
_TAG = re.compile(r"[0-9A-Za-z_]*")
_PORT = 514


@dataclass(frozen=True, slots=True)
class Syslog:
    """A syslog server: `address` as (host, port) or the path of a socket, `shown` as it was written.

    `priority` is facility and severity in one number (RFC 3164, 4.1.1).
    """

    address: tuple[str, int] | str
    shown: str
    priority: int
    tag: str = "nginx"
    hostname: bool = True


def parse_syslog(block: Block, directive: Directive, index: int = 0) -> Syslog:
    """The parameters behind `syslog:` in an argument. Raises ConfigError."""
    server = ""
    given: dict[str, str] = {}
    for parameter in directive.args[index].removeprefix("syslog:").split(","):
        name, equals, value = parameter.partition("=")
        if parameter != "nohostname" and (name not in ("server", "facility", "severity", "tag") or not equals):
            raise directive.error(f'unknown syslog parameter "{parameter}"', index)
        if name in given:
            raise directive.error(f'duplicate syslog "{name}"', index)
        given[name] = value
        problem = _problem(name, value)
        if problem:
            raise directive.error(problem, index)
    server = given.get("server", "")
    if not server:
        raise directive.error("no syslog server specified", index)
    facility = _FACILITIES.index(given.get("facility", "local7"))
    severity = _SEVERITIES.index(given.get("severity", "info"))
    address = _address(block, directive, index, server)
    return Syslog(address, server, facility * 8 + severity, given.get("tag", "nginx"), "nohostname" not in given)


def _problem(name: str, value: str) -> str:
    if name == "facility" and value not in _FACILITIES:
        return f'unknown syslog facility "{value}"'
    if name == "severity" and value not in _SEVERITIES:
        return f'unknown syslog severity "{value}"'
    if name == "tag" and len(value) > 32:
        return "syslog tag length exceeds 32"
    if name == "tag" and _TAG.fullmatch(value) is None:
        return 'syslog "tag" only allows alphanumeric characters and underscore'
    return ""


def _address(block: Block, directive: Directive, index: int, server: str) -> tuple[str, int] | str:
    try:
        address = parse_address(server)
        if address.path:
            return address.path
        hosts = [address.host] if is_ip(address.host) else block.loading.resolve(address.host)
    except ValueError as error:
        raise directive.error(f'{error} in syslog server "{server}"', index) from None
    except OSError:
        hosts = []
    if not hosts:
        raise directive.error(f'host not found in syslog server "{server}"', index)
    block.loading.outside.append(hosts[0])
    return hosts[0], address.port or _PORT
