"""What a health check is told to do: the frozen spec that each dialect (lua-resty, NGINX Plus, Tengine) ends in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final
from urllib.parse import urlsplit

DEFAULT_TIMEOUT = 60.0
"""Seconds: ngx_lua's lua_socket_connect_timeout, what a cosocket told to wait 0 ms takes."""

RESTY: Final = "resty"
PLUS: Final = "plus"
TENGINE: Final = "tengine"

RESTY_TYPES: Final = ("http", "https", "tcp")


@dataclass(frozen=True, slots=True)
class HeaderRule:
    """One `header` line of a `match` block. `operator` is "=", "!=", "~", "!~", or "" with no value: the header must be
    there ("!": must not)."""

    name: str
    operator: str = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class MatchSpec:
    """What an answer must look like (NGINX Plus: `match`); a rule that is empty accepts everything.

    `statuses` are inclusive ranges, turned round by `status_not`. `body` is a regular expression (PCRE) looked for in
    the first 256 KB of the content, turned round by `body_not`. `require` are templates that must be neither empty
    nor "0". `words` is how the status rule is told to people ("200-399", "! 500").
    """

    name: str = ""
    statuses: tuple[tuple[int, int], ...] = ()
    status_not: bool = False
    words: str = ""
    headers: tuple[HeaderRule, ...] = ()
    body: str = ""
    body_not: bool = False
    require: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """One active check of all peers of one upstream.

    What is probed: `type` is a name in `check.probes.PROBES`. `dialect` (RESTY, PLUS, TENGINE) says whose rules hold
    where they differ: lua-resty's cycles, its time-out for each single operation, its log lines; all others give each
    peer its own timetable and the probe as a whole `timeout`. `request` is sent as it is; `expect` is a regular
    expression awaited in what the peer sends (tcp, tls); `match` judges an HTTP answer (None outside RESTY: 200-399);
    `statuses` are RESTY's, empty: any status line passes. `port` 0 means the peer's own. `host` is the TLS server name,
    `verify` whether its certificate is checked, against `ca` (a file; empty: the system's authorities); `certificate`
    and `certificate_key` are files with the client's own. `service` and `grpc_status` (-1: SERVING is asked for) are
    gRPC's, `command` is exec's, `function` ("module:name") is python's, `params` are FastCGI's.

    When: `interval`, `timeout`, `jitter`, `fast_interval` (in between up and down), `down_interval` are seconds; a
    `timeout` not above 0 stands for DEFAULT_TIMEOUT, an interval of 0 for `interval`, a negative `jitter` for a first
    probe at once and an even spread of the next ones. `fall` failures in a row turn a peer down, `rise` passes up;
    `initial` is "up", "down" (`rise` passes needed), or "checking" (no traffic before the first pass, which suffices;
    one that a state file tells of will do if `persistent`).
    `concurrency`: RESTY's number of slices, else how many peers are probed at once at most (0: no bound of its own).
    `keepalive_time` (seconds) and `keepalive_requests` bound how long one connection is probed on; 0: one probe each,
    and no bound. `revives_down`: the check may turn up a peer that is configured `down` (lua-resty does, NGINX Plus
    does not). `label` is what pages call the check, `ordinal` tells equal checks of one upstream apart, `number` (2,
    3...) those of one name.
    """

    upstream: str
    type: str = "http"
    request: bytes = b""
    interval: float = 1.0
    timeout: float = 1.0
    fall: int = 5
    rise: int = 2
    statuses: tuple[int, ...] = ()
    port: int = 0
    host: str = ""
    verify: bool = True
    concurrency: int = 1
    revives_down: bool = False
    dialect: str = RESTY
    label: str = ""
    expect: str = ""
    match: MatchSpec | None = None
    jitter: float = -1.0
    fast_interval: float = 0.0
    down_interval: float = 0.0
    initial: str = "up"
    persistent: bool = False
    ca: str = ""
    certificate: str = ""
    certificate_key: str = ""
    keepalive_time: float = 0.0
    keepalive_requests: int = 0
    service: str = ""
    grpc_status: int = -1
    command: tuple[str, ...] = ()
    function: str = ""
    params: tuple[tuple[str, str], ...] = ()
    ordinal: int = 0
    number: int = 0

    @property
    def identity(self) -> int:
        """A number in 1..2^62, the same for the same check in every process: it names the check's slot in the zone.

        But for lua-resty's checks (two that differ in anything run side by side there) it says what is probed, not
        when, so that a reload with another interval keeps what is known.
        """
        message = to_message(self)
        if self.dialect != RESTY:
            for name in _TIMING:
                del message[name]
        text = json.dumps(message, sort_keys=True)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2 | 1

    @property
    def title(self) -> str:
        """What pages and logs call this check: its label, or what can be said from its type and port."""
        name = self.label or (f"{self.type} port {self.port}" if self.port else self.type)
        return f"{name} #{self.number}" if self.number > 1 else name


@dataclass(frozen=True, slots=True)
class NotifySpec:
    """One receiver: a `url`, a `command` or a `function`. A `timeout` (seconds) is for one try, of which there are
    `retries` more; `debounce` (seconds) is how long a transition is held back for others of the same check and peer to
    join it: the last state counts, and where that is the one it began with, nothing is told."""

    url: str = field(default="", repr=False)
    command: tuple[str, ...] = field(default=(), repr=False)
    function: str = ""
    timeout: float = 5.0
    retries: int = 0
    debounce: float = 0.0

    @property
    def title(self) -> str:
        """What logs call it: no user, no password, no path, no query, no arguments, for these may be secret (the path
        of a chat service's webhook is its key)."""
        if self.url:
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{'...' if parts.path not in ('', '/') else ''}"
        return self.command[0] if self.command else self.function


_TIMING: Final = (
    "interval",
    "timeout",
    "jitter",
    "fast_interval",
    "down_interval",
    "fall",
    "rise",
    "initial",
    "persistent",
    "concurrency",
    "keepalive_time",
    "keepalive_requests",
    "label",
    "number",
)
"""What says when and how often, not what: no part of a check's identity."""


def to_message(spec: CheckSpec) -> dict[str, Any]:
    """`spec` as JSON-able data, for the way from a worker to the checker."""
    message = asdict(spec)
    message["request"] = spec.request.decode("latin-1")
    return message


def from_message(message: Mapping[str, Any]) -> CheckSpec:
    """The spec that `to_message` wrote of one of lua-resty's checks: only these come as messages, from workers, which
    could be somebody's who broke into one. Raises TypeError or ValueError for anything else.
    """
    known = {one.name for one in fields(CheckSpec)}
    values: dict[str, Any] = {}
    for name, value in message.items():
        if name not in known:
            raise ValueError(f"a check has no {name}")
        values[name] = tuple(value) if isinstance(value, list) else value
    values["request"] = str(values.get("request", "")).encode("latin-1")
    spec = CheckSpec(**values)
    for name in ("upstream", "type", "host", "label"):
        if not isinstance(getattr(spec, name), str):
            raise TypeError(f"{name} is not a text")
    for name, most in _NUMBERS.items():
        number = getattr(spec, name)
        if type(number) not in (int, float) or not 0 <= number <= most:
            raise ValueError(f"{name} is {number!r}")
    if not all(type(status) is int and 0 <= status < _MOST for status in spec.statuses):
        raise ValueError(f"statuses are {spec.statuses!r}")
    plain = CheckSpec(spec.upstream, **{name: getattr(spec, name) for name in _RESTY})
    if plain != spec or spec.type not in RESTY_TYPES:
        raise ValueError("that is no check of lua-resty's")
    return spec


_MOST: Final = 1 << 31
_NUMBERS: Final = {
    "interval": _MOST,
    "timeout": _MOST,
    "fall": _MOST,
    "rise": _MOST,
    "port": 65535,
    "concurrency": _MOST,
}
_RESTY: Final = (
    *_NUMBERS,
    "type",
    "request",
    "statuses",
    "host",
    "verify",
    "revives_down",
)
"""What lua-resty's checks have; the rest is other dialects', and as it begins in theirs."""
