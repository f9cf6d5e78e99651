"""From a status line to a verdict, in lua-resty's words. Pure: bytes in, words out."""

from __future__ import annotations

import re
from collections.abc import Collection

MAX_LINE = 8192
"""Bytes of a status line at most; lua-resty reads without end, so a peer could fill its memory."""

_STATUS = re.compile(rb"HTTP/\d+\.\d+\s+(\d+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)


def status_of(line: bytes) -> int:
    """The status of a status line, 0 when it is none."""
    match = _STATUS.match(line)
    return int(match[1][:9]) if match else 0


def problem(line: bytes, status: int, statuses: Collection[int]) -> tuple[str, str] | None:
    """What is wrong with `line` (whose `status_of` is `status`), as (phrase, detail) around the peer's name.

    Without `statuses` nothing is: any line passes. None means that it passes.
    """
    if not statuses or status in statuses:
        return None
    if status == 0 and _STATUS.match(line) is None:
        return "bad status line from", line.decode("utf-8", "surrogateescape")
    return "bad status code from", str(status)


def is_whole(data: bytes, head_request: bool) -> bool:
    """Whether `data` is surely a whole response, so that closing now interrupts nobody; False if in doubt."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    if head_request:
        return True
    length = _LENGTH.search(data, 0, end + 2)
    if length is not None:
        return len(data) - end - 4 >= int(length[1])
    return data.endswith(b"\r\n0\r\n\r\n")
