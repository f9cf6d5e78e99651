"""The cookie of a session as nginx writes it: its times."""

from __future__ import annotations

import calendar

from upwell.proxy.sticky import cookie_time


def test_a_cookie_s_time_has_two_digits_for_the_year_up_to_2037() -> None:
    at = calendar.timegm((2026, 11, 2, 7, 5, 9))
    assert cookie_time(at) == b"Mon, 02-Nov-26 07:05:09 GMT"
    assert cookie_time(calendar.timegm((2037, 12, 31, 23, 59, 59))) == b"Thu, 31-Dec-37 23:59:59 GMT"
    assert cookie_time(calendar.timegm((2038, 1, 1, 0, 0, 0))) == b"Fri, 01-Jan-2038 00:00:00 GMT"
