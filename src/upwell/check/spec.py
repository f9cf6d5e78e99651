"""What a health check is told to do: the frozen spec that each dialect (lua-resty, NGINX Plus, Tengine) ends in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

DEFAULT_TIMEOUT = 60.0
"""Seconds: ngx_lua's lua_socket_connect_timeout, what a cosocket told to wait 0 ms takes."""


@dataclass(frozen=True, slots=True)
class CheckSpec:
    """One active check of all peers of one upstream.

    `type` is a name in `check.probes.PROBES` ("http", "https", "tcp"). `request` is sent as it is. `interval` and
    `timeout` are seconds; a `timeout` not above 0 stands for DEFAULT_TIMEOUT. `statuses` empty means: any status line
    passes (lua-resty without `valid_statuses`). `port` 0 means the peer's own. `host` is the TLS server name, `verify`
    whether its certificate is checked. `concurrency` is the number of slices that a cycle is cut into, each probed one
    peer after the other (lua-resty). `revives_down`: the check may turn up a peer that is configured `down` (lua-resty
    does, NGINX Plus does not).
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

    @property
    def identity(self) -> int:
        """A number in 1..2^62, the same for the same check in every process: it names the check's slot in the zone."""
        text = json.dumps(to_message(self), sort_keys=True)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 2 | 1


def to_message(spec: CheckSpec) -> dict[str, Any]:
    """`spec` as JSON-able data, for the way from a worker to the checker."""
    message = asdict(spec)
    message["request"] = spec.request.decode("latin-1")
    return message


def from_message(message: Mapping[str, Any]) -> CheckSpec:
    """The spec that `to_message` wrote. Raises TypeError or AttributeError for anything else."""
    fields = dict(message)
    fields["request"] = fields["request"].encode("latin-1")
    fields["statuses"] = tuple(fields["statuses"])
    return CheckSpec(**fields)
