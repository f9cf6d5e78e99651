"""The main level and `events`: processes, user, pid, error logs. Opening or starting anything is not done here."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.slots import flag, once, parse_number, time
from upwell.errors import ConfigError, Position
from upwell.log import DEBUG, ERROR, LEVELS

_EVERYWHERE = "main http server location stream stream_server"
_DEBUG_PARTS = frozenset(f"debug_{part}" for part in ("core", "alloc", "mutex", "event", "http", "mail", "stream"))


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """ngx_core_module. `user`/`group` are names with their ids, None: stay who we are. `pid` is a full path.

    `worker_shutdown_timeout` is in seconds, None: no limit. `env` keeps the texts as written (`NAME` or `NAME=value`).
    """

    daemon: bool = True
    master_process: bool = True
    worker_processes: int = 1
    user: str | None = None
    uid: int | None = None
    group: str | None = None
    gid: int | None = None
    pid: str = ""
    worker_shutdown_timeout: float | None = None
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventsSettings:
    """The `events` block."""

    worker_connections: int = 512


@dataclass(frozen=True, slots=True)
class LogTarget:
    """One `error_log`: a full path or "stderr", and the index of its level in `log.LEVELS`."""

    path: str
    level: int
    position: Position


@dataclass(frozen=True, slots=True)
class ErrorLogSettings:
    """`error_log` of a level (main, http, server, location). Empty: none was given; the log of `-e` at level error."""

    logs: tuple[LogTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class _Seen:
    events: bool = field(default=False, metadata=LOCAL)


def full_path(block: Block, path: str) -> str:
    """`path` from nginx's prefix (`-p`)."""
    return os.path.join(block.loading.prefix, path)


def conf_path(block: Block, path: str) -> str:
    """`path` from the folder of the configuration file (nginx: conf_prefix), where certificates are looked for."""
    return os.path.join(block.loading.folder, path)


def _worker_processes(block: Block, directive: Directive) -> None:
    once(block, directive, CoreSettings, "worker_processes")
    text = directive.args[0]
    try:
        number = (os.cpu_count() or 1) if text == "auto" else parse_number(text)
    except ValueError:
        number = 0
    if number < 1:
        raise directive.error('"worker_processes" directive invalid value', 0)
    block.set(CoreSettings, "worker_processes", number)


def _user(block: Block, directive: Directive) -> None:
    once(block, directive, CoreSettings, "user")
    name = directive.args[0]
    if os.geteuid() != 0:
        message = 'the "user" directive makes sense only if the master process runs with super-user privileges, ignored'
        block.loading.warnings.append(directive.error(message))
        return
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise directive.error(f'getpwnam("{name}") failed', 0) from None
    # nginx: without a second argument the group has the user's name
    group = directive.args[-1]
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        raise directive.error(f'getgrnam("{group}") failed', len(directive.args) - 1) from None
    if os.geteuid() != 0:
        block.loading.warnings.append(
            directive.error(
                'the "user" directive makes sense only if the master process runs with super-user privileges, ignored'
            )
        )
    for setting, value in (("user", name), ("uid", account.pw_uid), ("group", group), ("gid", gid)):
        block.set(CoreSettings, setting, value)


def _pid(block: Block, directive: Directive) -> None:
    once(block, directive, CoreSettings, "pid")
    block.set(CoreSettings, "pid", full_path(block, directive.args[0]))


def _env(block: Block, directive: Directive) -> None:
    block.append(CoreSettings, "env", directive.args[0])


def _error_log(block: Block, directive: Directive) -> None:
    path = directive.args[0]
    for kind in ("memory:", "syslog:"):
        if path.startswith(kind):
            raise directive.error(f'"error_log {kind}" is not supported by upwell', 0)
    level = ERROR
    for index, name in enumerate(directive.args[1:], 1):
        if name in _DEBUG_PARTS:
            # nginx can debug one part of itself; here there is one debug level
            found = DEBUG
        elif name in LEVELS[1:]:
            found = LEVELS.index(name)
        else:
            raise directive.error(f'invalid log level "{name}"', index)
        if index > 1:
            raise directive.error(f'duplicate log level "{name}"', index)
        level = found
    target = path if path == "stderr" else full_path(block, path)
    block.append(ErrorLogSettings, "logs", LogTarget(target, level, directive.position))


def _worker_connections(block: Block, directive: Directive) -> None:
    once(block, directive, EventsSettings, "worker_connections")
    try:
        number = parse_number(directive.args[0])
    except ValueError:
        raise directive.error(f'invalid number "{directive.args[0]}"', 0) from None
    if not number:
        raise directive.error("0 worker_connections are not enough", 0)
    block.set(EventsSettings, "worker_connections", number)


def _events(block: Block, directive: Directive) -> None:
    outer = block.parent
    assert outer is not None
    once(outer, directive, _Seen, "events")
    outer.set(_Seen, "events", True)


def _close_main(block: Block) -> None:
    if not block[_Seen].events and not block.loading.errors:
        raise ConfigError('no "events" section in configuration')
    if not block[CoreSettings].pid:
        block.set(CoreSettings, "pid", full_path(block, "logs/nginx.pid"))


MODULE = Module(
    "core",
    (
        command("daemon", "main", 1, flag(CoreSettings, "daemon")),
        command("master_process", "main", 1, flag(CoreSettings, "master_process")),
        command("worker_processes", "main", 1, _worker_processes),
        command("user", "main", (1, 2), _user),
        command("pid", "main", 1, _pid),
        command("worker_shutdown_timeout", "main", 1, time(CoreSettings, "worker_shutdown_timeout")),
        command("env", "main", 1, _env),
        command("error_log", _EVERYWHERE, (1, None), _error_log),
        command("events", "main", 0, _events, opens="events"),
        command("worker_connections", "events", 1, _worker_connections),
    ),
    {"main": _close_main},
)
