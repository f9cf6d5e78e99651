"""Conditional requests: whether what a client has of a file is what there is (RFC 9110, 13; nginx's rules).

Knows entity tags and dates; not files.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"), 1
    )
}
_IMF: Final = re.compile(rb"[^ ,]*, *([0-9]{2}) ([A-Z][a-z]{2}) ([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2})")
_RFC850: Final = re.compile(rb"[^ ,]*, *([0-9]{2})-([A-Z][a-z]{2})-([0-9]{2}) ([0-9]{2}):([0-9]{2}):([0-9]{2})")
_ASCTIME: Final = re.compile(rb"[^ ,]* +([A-Z][a-z]{2}) ([ 0-9][0-9]) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([0-9]{4})")
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

OFF: Final = 0
EXACT: Final = 1
BEFORE: Final = 2


@lru_cache(maxsize=512)
def parse_date(text: bytes) -> int | None:
    """Seconds since 1970 of a date in one of HTTP's three forms; None for anything else."""
    match = _IMF.match(text)
    if match is not None:
        day, month, year, hour, minute, second = match.groups()
        full = int(year)
    else:
        match = _RFC850.match(text)
        if match is not None:
            day, month, year, hour, minute, second = match.groups()
            full = int(year) + (2000 if int(year) < 70 else 1900)
        else:
            match = _ASCTIME.match(text)
            if match is None:
                return None
            month, day, hour, minute, second, year = match.groups()
            full = int(year)
    number = _MONTHS.get(month)
    if number is None or full < 1970 or int(hour) > 23 or int(minute) > 59 or int(second) > 59:
        return None
    leap = full % 4 == 0 and (full % 100 != 0 or full % 400 == 0)
    if not 1 <= int(day) <= _DAYS[number - 1] + (1 if leap and number == 2 else 0):
        return None
    return timegm((full, number, int(day), int(hour), int(minute), int(second)))


def names_tag(listed: bytes, tag: bytes | None, weak: bool) -> bool:
    """Whether the list of an If-Match or If-None-Match names `tag`, compared weakly or not."""
    if listed == b"*":
        return True
    if tag is None:
        return False
    if weak and tag.startswith(b"W/"):
        tag = tag[2:]
    at = 0
    end = len(listed)
    while at < end:
        if weak and listed.startswith(b"W/", at):
            at += 2
        if listed.startswith(tag, at):
            after = at + len(tag)
            while after < end and listed[after] in b" \t":
                after += 1
            if after >= end or listed[after] == 44:
                return True
        at = listed.find(b",", at)
        if at < 0:
            return False
        while at < end and listed[at] in b" \t,":
            at += 1
    return False


def verdict(values: Mapping[bytes, bytes], tag: bytes | None, modified: int, since: int) -> int:
    """What a request's conditions make of an answer 200: 0 nothing, 304 or 412. `since` is one of the constants above
    (nginx: if_modified_since).
    """
    unmodified = values.get(b"if-unmodified-since")
    if unmodified is not None:
        limit = parse_date(unmodified)
        if limit is None or limit < modified:
            return 412
    wanted = values.get(b"if-match")
    if wanted is not None and not names_tag(wanted, tag, False):
        return 412
    date = values.get(b"if-modified-since")
    known = values.get(b"if-none-match")
    if date is None and known is None:
        return 0
    if date is not None:
        if since == OFF:
            return 0
        held = parse_date(date)
        if held != modified and (since == EXACT or held is None or held < modified):
            return 0
    if known is not None and not names_tag(known, tag, True):
        return 0
    return 304
