"""`health_check_notify`: who is told when a peer goes down or comes back. Tells nobody itself (`check/notify.py`).

    health_check_notify http://host:port/path [timeout=5s] [retries=5] [debounce=0];       # also https, verified
    health_check_notify [debounce=10s] [retries=0] [timeout=5s] exec:/path argument ...;
    health_check_notify python:module:function [timeout=5s] [retries=0] [debounce=0];

in `http` and `upstream`, any number of them; those of an upstream take the place of all of `http`. What is told, and
how, is written down in check/notify.py. Options of a command stand before it: what follows it are its arguments.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from upwell.check.spec import NotifySpec
from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import parse_number
from upwell.modules.function import FUNCTION, check_function
from upwell.modules.upstream import UpstreamSettings, UpstreamsSettings
from upwell.units import parse_time

_URL: Final = re.compile(r"https?://[!-~]+")
_FORMS: Final = (
    'a receiver is "http://host/path" or "https://...", "exec:/path argument ..." or "python:module:function"'
)
_RETRIES: Final = 5  # of a webhook: half a minute in all


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """The receivers of a level."""

    targets: tuple[NotifySpec, ...] = ()


def receivers(http: Block) -> Mapping[str, tuple[NotifySpec, ...]]:
    """Who is told of each upstream's peers; upstreams without any are not in it."""
    found = {spec.name: http[NotifySettings].targets for spec in http[UpstreamsSettings].specs}
    found.update((block[UpstreamSettings].name, block[NotifySettings].targets) for block in http.of("upstream"))
    return {name: targets for name, targets in found.items() if targets}


def _health_check_notify(block: Block, directive: Directive) -> None:
    given: dict[str, Any] = {}
    for index, text in enumerate(directive.args):
        if text.startswith("exec:"):
            given["command"] = _command(directive, index)
            break
        if text.startswith("python:"):
            name, value = "function", text[len("python:") :]
            if FUNCTION.fullmatch(value) is None:
                raise directive.error(f'invalid function "{value}"', index)
            check_function(block, directive, index, value)
        elif text.startswith(("http:", "https:")):
            name, value = "url", text
            _check_url(directive, index)
        else:
            name, _, value = text.partition("=")
            if name not in ("timeout", "retries", "debounce"):
                raise directive.error(f'invalid parameter "{text}", {_FORMS}', index)
        if name in given or (name in ("url", "function") and given.keys() & {"url", "function"}):
            raise directive.error(f'duplicate parameter "{text}"', index)
        given[name] = value if name in ("url", "function") else _option(directive, index, name, value)
    if not given.keys() & {"url", "function", "command"}:
        raise directive.error(f'"health_check_notify" tells nobody, {_FORMS}')
    if "url" in given:
        given.setdefault("retries", _RETRIES)
    block.append(NotifySettings, "targets", NotifySpec(**given))


def _option(directive: Directive, index: int, name: str, value: str) -> float | int:
    try:
        found = parse_number(value) if name == "retries" else parse_time(value)
        if name == "timeout" and not found:
            raise ValueError
    except ValueError:
        raise directive.error(f'invalid {name} value "{value}"', index) from None
    return found


def _command(directive: Directive, index: int) -> tuple[str, ...]:
    path = directive.args[index][len("exec:") :]
    parts = (path, *directive.args[index + 1 :])
    if not path.startswith("/"):
        raise directive.error(f'the command "{path}" is no absolute path', index)
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise directive.error(f'the command "{path}" cannot be run', index)
    return parts


def _check_url(directive: Directive, index: int) -> None:
    text = directive.args[index]
    try:
        parts = urlsplit(text)
        good = _URL.fullmatch(text) is not None and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    if not good:
        raise directive.error("invalid URL", index)  # which may have a password in it


MODULE = Module(
    "health_check_notify",
    (command("health_check_notify", "http upstream", (1, None), _health_check_notify),),
)
