"""The wall clock as text, made once a second and shared by every answer and log line (design, speed rule 1)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FULL_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(seconds: float) -> bytes:
    """IMF-fixdate (RFC 9110, 5.6.7)."""
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year:04d} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT"
    ).encode()


def ssi_date(t: time.struct_time, zone: str) -> bytes:
    """nginx's $date_gmt and $date_local, in the form they have without SSI's timefmt."""
    day = _FULL_DAYS[t.tm_wday]
    clock = f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
    return f"{day}, {t.tm_mday:02d}-{_MONTHS[t.tm_mon - 1]}-{t.tm_year:04d} {clock} {zone}".encode()


class Clock:
    """`date` is the Date line of this second; `local` and `iso8601` are nginx's $time_local and $time_iso8601."""

    __slots__ = ("_handle", "_second", "date", "iso8601", "local")

    def __init__(self) -> None:
        self._second = 0
        self._handle: asyncio.TimerHandle | None = None
        self.date = b""
        self.local = b""
        self.iso8601 = b""
        self.refresh()

    def tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep the texts true from now on: they are made anew at each whole second, until `stop`."""
        self.refresh()
        self._handle = loop.call_later(1.0 - time.time() % 1.0, self.tick, loop)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def refresh(self) -> None:
        """Make the texts of the current second, unless they are made."""
        now = int(time.time())
        if now != self._second:
            self._second = now
            self.date = b"Date: " + http_date(now) + b"\r\n"
            t = time.localtime(now)
            offset = t.tm_gmtoff // 60
            sign = "-" if offset < 0 else "+"
            hours, minutes = divmod(abs(offset), 60)
            clock = f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
            self.local = (
                f"{t.tm_mday:02d}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{clock} {sign}{hours:02d}{minutes:02d}".encode()
            )
            self.iso8601 = f"{t.tm_year}-{t.tm_mon:02d}-{t.tm_mday:02d}T{clock}{sign}{hours:02d}:{minutes:02d}".encode()
