"""`log_format`, `access_log` and `open_log_file_cache`. Writing the lines is the runtime's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import once, parse_number
from upwell.config.template import Template, Variable, compile_template
from upwell.errors import ConfigError, Position
from upwell.modules.core import full_path
from upwell.modules.syslog import Syslog, parse_syslog
from upwell.units import parse_seconds, parse_size, parse_time

_LEVELS = "http server location stream stream_server"
_ESCAPES = ("default", "json", "none")
_COMBINED = (
    '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'
)


@dataclass(frozen=True, slots=True)
class LogFormat:
    """One `log_format`. `escape` is "default", "json" or "none" (how values of variables are made safe)."""

    name: str
    template: Template
    escape: str = "default"


COMBINED = LogFormat("combined", compile_template(_COMBINED))
"""nginx's predefined format."""


@dataclass(frozen=True, slots=True)
class AccessLog:
    """One `access_log`: a full path, its format, a `buffer` in bytes (0: none), `flush` in seconds (0: never by time).

    `condition` is the template of `if=`: no line when it is empty or "0". A path with variables has a `template`;
    `syslog` is where lines go instead of to a file.
    """

    path: str
    format: LogFormat
    buffer: int = 0
    flush: float = 0.0
    condition: Template | None = None
    position: Position | None = None
    template: Template | None = None
    syslog: Syslog | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is one file, opened at the start."""
        return self.template is None and self.syslog is None


@dataclass(frozen=True, slots=True)
class LogFileCache:
    """`open_log_file_cache`: how many files with variables in their paths stay open (0: none), and for how long.

    A file stays open when it was written `min_uses` times in `inactive` seconds, and is looked for anew after `valid`.
    """

    most: int = 0
    inactive: float = 10.0
    min_uses: int = 1
    valid: float = 60.0


@dataclass(frozen=True, slots=True)
class AccessLogSettings:
    """`access_log` of a level; empty for `off`. Without any it is logs/access.log in the combined format."""

    logs: tuple[AccessLog, ...] = ()
    cache: LogFileCache = LogFileCache()


@dataclass(frozen=True, slots=True)
class LogFormatsSettings:
    """On the http block: the formats by their names."""

    formats: tuple[LogFormat, ...] = field(default=(COMBINED,), metadata=LOCAL)


def _log_format(block: Block, directive: Directive) -> None:
    name = directive.args[0]
    known = _formats(block)
    if any(other.name == name for other in known):
        raise directive.error(f'duplicate "log_format" name "{name}"', 0)
    escape, first = "default", 1
    if directive.args[1].startswith("escape="):
        escape, first = directive.args[1].removeprefix("escape="), 2
        if escape not in _ESCAPES:
            raise directive.error(f'unknown log format escaping "{escape}"', 1)
    parts: list[str | Variable] = []
    try:
        for index in range(first, len(directive.args)):
            parts.extend(block.template(directive, index).parts)
    finally:
        # known even when it is wrong, or each `access_log` with it would be an error too
        block.set(LogFormatsSettings, "formats", (*known, LogFormat(name, Template(tuple(parts)), escape)))


def _access_log(block: Block, directive: Directive) -> None:
    path = directive.args[0]
    if path == "off":
        if len(directive.args) > 1:
            raise directive.error(f'invalid parameter "{directive.args[1]}"', 1)
        block.set(AccessLogSettings, "logs", ())
        return
    syslog, template = None, None
    if path.startswith("syslog:"):
        syslog = parse_syslog(block, directive)
    else:
        path = full_path(block, path)
        if "$" in path:
            if "/../" in path:
                raise directive.error('"access_log" with variables and ".." in its path is not supported by upwell', 0)
            template = block.template(directive, 0, path)
    if len(directive.args) == 1 and block.section.kind == "stream":
        raise directive.error("log format is not specified")
    format_ = COMBINED
    if len(directive.args) > 1:
        format_ = _find_format(block, directive)
    buffer, flush, condition = 0, 0.0, None
    for index in range(2, len(directive.args)):
        parameter = directive.args[index]
        name, _, value = parameter.partition("=")
        if name == "gzip":
            raise directive.error('the parameter "gzip" of "access_log" is not supported by upwell', index)
        if parameter.startswith("if="):
            condition = block.template(directive, index, value)
        elif parameter.startswith("buffer="):
            try:
                buffer = parse_size(value)
            except ValueError:
                buffer = 0
            if not buffer:
                raise directive.error(f'invalid buffer size "{value}"', index)
        elif parameter.startswith("flush="):
            try:
                flush = parse_time(value)
            except ValueError:
                flush = 0.0
            if not flush:
                raise directive.error(f'invalid flush time "{value}"', index)
        else:
            raise directive.error(f'invalid parameter "{parameter}"', index)
    if flush and not buffer:
        raise directive.error(f'no buffer is defined for access_log "{directive.args[0]}"')
    if buffer and template is not None:
        raise directive.error("buffered logs cannot have variables in name")
    if buffer and syslog is not None:
        raise directive.error("logs to syslog cannot be buffered")
    log = AccessLog(path, format_, buffer, flush, condition, directive.position, template, syslog)
    block.append(AccessLogSettings, "logs", log)


def _log_file_cache(block: Block, directive: Directive) -> None:
    once(block, directive, AccessLogSettings, "cache")
    if directive.args == ("off",):
        block.set(AccessLogSettings, "cache", LogFileCache())
        return
    cache = LogFileCache()
    for index, parameter in enumerate(directive.args):
        name, _, value = parameter.partition("=")
        try:
            if name == "max":
                cache = replace(cache, most=parse_number(value))
            elif name == "inactive":
                cache = replace(cache, inactive=parse_seconds(value))
            elif name == "min_uses":
                cache = replace(cache, min_uses=parse_number(value))
            elif name == "valid":
                cache = replace(cache, valid=parse_seconds(value))
            else:
                raise ValueError
        except ValueError:
            raise directive.error(f'invalid "open_log_file_cache" parameter "{parameter}"', index) from None
    if not cache.most:
        raise directive.error('"open_log_file_cache" must have "max" parameter')
    block.set(AccessLogSettings, "cache", cache)


def _find_format(block: Block, directive: Directive) -> LogFormat:
    name = directive.args[1]
    for known in _formats(block.section):
        if known.name == name:
            return known
    raise directive.error(f'unknown log format "{name}"', 1)


def _formats(section: Block) -> tuple[LogFormat, ...]:
    """The formats so far; stream begins with none."""
    first = () if section.kind == "stream" else (COMBINED,)
    formats: tuple[LogFormat, ...] = section.own(LogFormatsSettings).get("formats", first)
    return formats


def _close_http(block: Block) -> None:
    if "logs" not in block.own(AccessLogSettings):
        block.set(AccessLogSettings, "logs", (AccessLog(full_path(block, "logs/access.log"), COMBINED),))
    _close_section(block)


def _close_section(block: Block) -> None:
    paths: dict[str, AccessLog] = {}
    for inner in block.walk():
        for log in inner.own(AccessLogSettings).get("logs", ()):
            if not log.is_file:
                continue
            known = paths.setdefault(log.path, log)
            if (known.buffer, known.flush) != (log.buffer, log.flush) and known.buffer and log.buffer:
                block.loading.errors.append(
                    ConfigError(f'access_log "{log.path}" already defined with conflicting parameters', log.position)
                )


MODULE = Module(
    "access_log",
    (
        command("log_format", "http stream", (2, None), _log_format),
        command("access_log", f"{_LEVELS} if limit_except", (1, None), _access_log),
        command("open_log_file_cache", _LEVELS, (1, 4), _log_file_cache),
    ),
    {"http": _close_http, "stream": _close_section},
)
