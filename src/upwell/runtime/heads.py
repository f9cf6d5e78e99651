"""How heads of requests are read where the servers of one address differ in that: as the server wants that is named.

nginx reads a line by the settings of the server that it knows at that line: the default one, and from the line with the
host on the one that is named. Here all field lines are read in one way, wherever Host stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from upwell.errors import MessageError
from upwell.http1.fields import FieldReader, check_host
from upwell.http1.head import RequestHead, parse_request_head
from upwell.http1.limits import Counted, HeadLimits
from upwell.http1.syntax import ABSOLUTE_TARGET, HOST_LINE, REQUEST_LINE
from upwell.modules.server import ServerSettings
from upwell.pcre import PatternTimeout
from upwell.proxy.location import Server

if TYPE_CHECKING:
    from upwell.proxy.client import ClientConnection
    from upwell.runtime.servers import Names


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """What of ServerSettings is the named server's."""

    underscores: bool
    ignore_invalid: bool
    most: int
    buffers: tuple[int, int]

    @classmethod
    def of(cls, settings: ServerSettings) -> HeadSettings:
        return cls(
            settings.underscores_in_headers,
            settings.ignore_invalid_headers,
            settings.max_headers,
            settings.large_client_header_buffers,
        )

    def reading(self, first: int) -> Reading:
        """With `first` as the size of the buffer that a head starts in, which is the default server's."""
        limits = HeadLimits(first, *self.buffers)
        return Reading(
            FieldReader(self.underscores, self.ignore_invalid, limits.line, max_fields=self.most),
            limits,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """A reader of fields and the limits that go with it."""

    reader: FieldReader
    limits: HeadLimits

    def exceeded(self, data: bytes, end: int) -> bool:
        """Whether the head that starts `data` is too much already at `end`, the end of one of its lines."""
        if self.limits.exceeded(data, end):
            return True
        if data.count(b"\n", 0, end) <= self.reader.max_fields:
            return False
        return self.reader.count(data[data.find(b"\n") + 1 : end]) > self.reader.max_fields


class HeadsByName:
    """The heads of one listening socket. `names` gives those of a connection's address, `settings` those of a server;
    `first` as in HeadSettings.reading.
    """

    __slots__ = ("_names", "_readings")

    def __init__(
        self, names: Callable[[ClientConnection], Names], settings: Mapping[Server, HeadSettings], first: int
    ) -> None:
        self._names = names
        by_settings = {one: one.reading(first) for one in settings.values()}
        self._readings = {server: by_settings[one] for server, one in settings.items()}

    def __repr__(self) -> str:
        return f"<HeadsByName {len(self._readings)} servers>"

    def parse(
        self, client: ClientConnection, data: bytes, searched: int, counted: Counted | None
    ) -> RequestHead | None:
        """As parse_request_head."""
        if counted is None:
            reading = self._choose(client, data, Counted())
        elif counted.chosen is not None:
            reading = cast("Reading", counted.chosen)
        elif counted.host_line and data.find(b"\n", searched) < 0:
            reading = self._readings[self._names(client).default]  # no line has ended since the host was looked for
        else:
            reading = self._choose(client, data, counted)
        return parse_request_head(data, reading.reader, reading.limits, searched, counted)

    def _choose(self, client: ClientConnection, data: bytes, counted: Counted) -> Reading:
        """How to read a head, as far as is known; `counted` keeps what need not be looked for again."""
        names = self._names(client)
        default = self._readings[names.default]
        host, end = _host(data, counted)
        if host is None:
            return default
        reading = default
        with suppress(MessageError, PatternTimeout):  # what is wrong will be told when the head is read
            reading = self._readings[names.named(check_host(host)[0])]
        if reading is not default:
            # Up to here nobody knew: so it is at any split of the bytes.
            if default.exceeded(data, end):
                reading = default
            else:
                counted.restart_fields()
        counted.chosen = reading
        return reading


def _host(data: bytes, counted: Counted) -> tuple[bytes | None, int]:
    """The host that a head names, if it has come so far, and where the line that names it ends."""
    start = counted.host_line
    if not start:
        line = REQUEST_LINE.match(data) if data.find(b"\n") >= 0 else None
        if line is None:
            return None, 0
        absolute = ABSOLUTE_TARGET.fullmatch(line[2])
        if absolute is not None:
            return absolute[2], line.end()
        start = line.end() - 2
    end = data.find(b"\r\n\r\n", start)
    found = HOST_LINE.search(data, start, len(data) if end < 0 else end + 2)
    if found is None:
        counted.host_line = data.rfind(b"\r\n")
        return None, 0
    return found[1].strip(b" \t"), found.end()
