"""ngx.now and its kin, ngx.worker, ngx.timer: time, the process, what runs later."""

from __future__ import annotations

import os
import time
from calendar import timegm
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from upwell.lua.bridge import LuaFailure, integer, string
from upwell.lua.contexts import INIT

if TYPE_CHECKING:
    from upwell.lua.vm import Vm

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
_LAST = 253_402_300_799  # the end of the year 9999, where gmtime's four digits end


def _moment(value: object, name: str) -> time.struct_time:
    seconds = integer(value, 1, name)
    if not 0 <= seconds <= _LAST:
        raise LuaFailure(f"bad argument #1 to '{name}' (time out of range)")
    return time.gmtime(seconds)


def _http_time(value: object = None) -> bytes:
    at = _moment(value, "http_time")
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    text = f"{day}, {at.tm_mday:02} {month} {at.tm_year} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
    return text.encode()


def _cookie_time(value: object = None) -> bytes:
    at = _moment(value, "cookie_time")
    year = at.tm_year if at.tm_year > 2037 else f"{at.tm_year % 100:02}"
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    text = f"{day}, {at.tm_mday:02}-{month}-{year} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT"
    return text.encode()


def _parse_http_time(value: object = None) -> int | None:
    text = string(value, 1, "parse_http_time").decode("latin-1")
    for layout in _FORMATS:
        try:
            return timegm(time.strptime(text, layout))
        except ValueError:
            continue
    return None


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    host = vm.host
    now = host.time

    def text(layout: str, convert: Callable[[float], time.struct_time]) -> bytes:
        return time.strftime(layout, convert(now())).encode()

    def timer_add(delay: float, every: bool) -> Any:
        run = vm.current
        if run is None or run.phase == INIT:
            raise LuaFailure(b"API disabled in the context of init_by_lua*")
        return vm.timers.add(delay, every)

    return {
        "clock_now": lambda: round(now(), 3),
        "clock_time": lambda: int(now()),
        "clock_today": lambda: text("%Y-%m-%d", time.localtime),
        "clock_localtime": lambda: text("%Y-%m-%d %H:%M:%S", time.localtime),
        "clock_utctime": lambda: text("%Y-%m-%d %H:%M:%S", time.gmtime),
        "http_time": _http_time,
        "cookie_time": _cookie_time,
        "parse_http_time": _parse_http_time,
        "worker_pid": os.getpid,
        "worker_id": lambda: host.worker_id,
        "worker_count": lambda: host.worker_count,
        "worker_exiting": lambda: host.exiting(),
        "timer_add": timer_add,
        "timers_running": lambda: vm.timers.running,
        "timers_pending": lambda: vm.timers.pending,
    }
