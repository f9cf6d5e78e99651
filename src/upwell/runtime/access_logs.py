"""Where a worker's access-log lines go: files by their paths, paths with variables, syslog servers; each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from upwell.modules.access_log import AccessLog, LogFileCache
from upwell.proxy.location import Filter
from upwell.runtime.log_paths import LogPaths
from upwell.runtime.logs import AccessLogFile
from upwell.runtime.render import Render, log_line, render
from upwell.runtime.syslog import SyslogServer

if TYPE_CHECKING:
    import asyncio

    from upwell.config.template import Template
    from upwell.log import ErrorLog
    from upwell.modules.syslog import Syslog

T = TypeVar("T")


class AccessLogs:
    """All of one worker's. The files were opened by the master; the rest is opened when there is a line for it."""

    __slots__ = ("_files", "_formats", "_log", "_loop", "_paths", "_servers")

    def __init__(self, files: Iterable[AccessLogFile], loop: asyncio.AbstractEventLoop, log: ErrorLog) -> None:
        self._files = {file.path: file for file in files}
        self._loop = loop
        self._log = log
        self._paths: dict[LogFileCache, LogPaths] = {}
        self._servers: dict[Syslog, SyslogServer] = {}
        self._formats: dict[object, Render] = {}
        for file in self._files.values():
            file.use(loop, log)

    def __repr__(self) -> str:
        return f"<AccessLogs {len(self._files)} files, {len(self._paths)} caches, {len(self._servers)} servers>"

    def handler(self, log: AccessLog, cache: LogFileCache) -> Filter:
        """What writes the line of one `access_log`."""
        line = self._formats.get(log.format)
        if line is None:
            line = self._formats[log.format] = log_line(log.format.template, log.format.escape)
        return self.writer(log, cache, line, render)

    def writer(
        self,
        log: AccessLog,
        cache: LogFileCache,
        line: Callable[[T], bytes],
        render: Callable[[Template], Callable[[T], bytes]],
    ) -> Callable[[T], None]:
        """What writes `line` of something that `render` makes templates for, as `log` says."""
        write = self._writer(log, line, cache, render)
        if log.condition is None:
            return write
        condition = render(log.condition)

        def conditional(subject: T) -> None:
            if condition(subject) not in (b"", b"0"):
                write(subject)

        return conditional

    def _writer(
        self,
        log: AccessLog,
        line: Callable[[T], bytes],
        cache: LogFileCache,
        render: Callable[[Template], Callable[[T], bytes]],
    ) -> Callable[[T], None]:
        if log.template is not None:
            paths = self._paths.get(cache)
            if paths is None:
                paths = self._paths[cache] = LogPaths(cache, self._loop, self._log)
            write_to, path = paths.write, render(log.template)
            return lambda subject: write_to(path(subject), line(subject))
        if log.syslog is not None:
            server = self._servers.get(log.syslog)
            if server is None:
                server = self._servers[log.syslog] = SyslogServer(log.syslog, self._log)
            write = server.write
        else:
            write = self._files[log.path].write
        return lambda subject: write(line(subject))

    def close(self) -> None:
        """Write what was collected and let go of what was opened here."""
        for file in self._files.values():
            file.write_out()
        for paths in self._paths.values():
            paths.close()
        for server in self._servers.values():
            server.close()
