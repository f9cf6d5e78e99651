"""How heads of requests are read where the servers of one address differ in that: as the server wants that is named.

nginx reads a line by the settings of the server that it knows at that line: the default one, and from the line with the
host on the one that is named. Here all field lines are read in one way, wherever Host stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        names = self._names(client)
        reading = default = self._readings[names.default]
        host, end = _host(data)
        if host is not None:
            with suppress(MessageError, PatternTimeout):  # what is wrong will be told when the head is read
                reading = self._readings[names.named(check_host(host)[0])]
        if reading is not default:
            status = default.limits.exceeded(data, end)  # up to here nobody knew: so it is at any split of the bytes
            if status:
                reading = default
        return parse_request_head(data, reading.reader, reading.limits, searched, counted)


def _host(data: bytes) -> tuple[bytes | None, int]:
    """The host that a head names, if it has come so far, and where the line that names it ends."""
    line = REQUEST_LINE.match(data)
    if line is None:
        return None, 0
    absolute = ABSOLUTE_TARGET.fullmatch(line[2])
    if absolute is not None:
        return absolute[2], line.end()
    end = data.find(b"\r\n\r\n", line.end() - 2)
    found = HOST_LINE.search(data, line.end() - 2, len(data) if end < 0 else end + 2)
    if found is None:
        return None, 0
    return found[1].strip(b" \t"), found.end()
