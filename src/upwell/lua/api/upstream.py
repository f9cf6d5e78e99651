"""What ngx.upstream and resty.upstream.healthcheck know and do: peers as this worker sees them, checks to run."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from upwell.check.spec import DEFAULT_TIMEOUT, CheckSpec
from upwell.lua.bridge import LuaFailure, integer, number, string

if TYPE_CHECKING:
    from upwell.lua.vm import Vm
    from upwell.peers.upstream import Peer, Upstream

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_MOST_RESULTS = 1 << 30
_LONGEST = 1 << 15  # bytes of a request; with escapes it must fit one message to the checker
_NOT_FOUND = (False, b"upstream not found")


def functions(vm: Vm) -> Mapping[str, Callable[..., Any]]:
    host = vm.host
    upstreams: dict[bytes, Upstream] = {
        upstream.name.encode(): upstream for upstream in host.upstreams if not upstream.spec.implicit
    }
    names = list(upstreams)

    def seconds(moment: float) -> int | None:
        """A time of the peers' clock as seconds since 1970; None for never."""
        return int(host.time() - host.clock() + moment) if moment else None

    def entry(peer: Peer) -> tuple[Any, ...]:
        return (
            peer.id,
            peer.name.encode(),
            peer.weight,
            peer.current_weight,
            peer.effective_weight,
            peer.connections,
            peer.fails,
            peer.max_fails,
            int(peer.fail_timeout),
            seconds(peer.accessed),
            seconds(peer.checked),
            True if peer.down else None,
        )

    def flat(rows: Sequence[Sequence[Any]]) -> Any:
        return vm.table([False if value is None else value for row in rows for value in row])

    def peers(name: bytes, backup: bool) -> Any:
        upstream = upstreams.get(name)
        if upstream is None:
            return _NOT_FOUND
        group = upstream.backup if backup else upstream.primary
        return True, len(group), flat([entry(peer) for peer in group])

    def servers(name: bytes) -> Any:
        upstream = upstreams.get(name)
        if upstream is None:
            return _NOT_FOUND
        lines: list[list[Any]] = []
        for peer in upstream.peers:
            spec = peer.spec
            same = lines and spec.server and lines[-1][0] == spec.server.encode() and lines[-1][7] is spec.backup
            if same:
                lines[-1][1] += b" " + spec.name.encode()
                continue
            lines.append(
                [
                    (spec.server or spec.name).encode(),
                    spec.name.encode(),
                    spec.weight,
                    spec.max_fails,
                    int(spec.fail_timeout),
                    spec.backup or None,
                    spec.down or None,
                    spec.backup,
                ]
            )
        return True, len(lines), flat([line[:7] for line in lines])

    def set_down(name: bytes, backup: bool, peer_id: object, down: bool) -> Any:
        upstream = upstreams.get(name)
        if upstream is None:
            return None, b"upstream not found"
        group = upstream.backup if backup else upstream.primary
        if backup and not group:
            return None, b"no backup peers"
        index = integer(peer_id, 3, "set_peer_down")
        if not 0 <= index < len(group):
            return None, b"bad peer id"
        # This worker sees its own word at once; the others when the checker has taken it in.
        upstream.set_local_down(backup, index, down)
        host.control.set_down(group[index].key, down)
        return True

    def current() -> Any:
        name = vm.request()[1].variable("proxy_host")
        return name if name in upstreams else None

    def check_add(
        name: bytes,
        kind: bytes,
        request: bytes,
        interval: object,
        timeout: object,
        fall: object,
        rise: object,
        statuses: bytes,
        port: object,
        server_name: object,
        verify: bool,
        concurrency: object,
    ) -> Any:
        """None, or what is wrong."""
        patience = integer(timeout, 1, "spawn_checker")  # cosockets count whole milliseconds
        if interval in (math.inf, -math.inf):
            return b'invalid "interval" option: it must be finite'
        if max(_count(fall), _count(rise)) > _MOST_RESULTS:
            return b'invalid "fall" or "rise" option: at most %d results are counted' % _MOST_RESULTS
        if len(request) > _LONGEST or len(string(server_name, 1, "spawn_checker")) > 255:
            return b'"http_req" or "host" option too long'
        spec = CheckSpec(
            upstream=name.decode(),
            type=kind.decode(),
            request=request,
            interval=float(number(interval, 1, "spawn_checker")),
            timeout=patience / 1000 if patience > 0 else DEFAULT_TIMEOUT,
            fall=_count(fall),
            rise=_count(rise),
            statuses=tuple(dict.fromkeys(int(status) for status in statuses.split() if status.isdigit())),
            port=integer(port, 1, "spawn_checker"),
            host=string(server_name, 1, "spawn_checker").decode("latin-1"),
            verify=verify,
            concurrency=max(1, integer(concurrency, 1, "spawn_checker")),
            revives_down=True,
        )
        if not 0 <= spec.port <= 65535:
            raise LuaFailure(b"bad port number")
        if spec.type == "https" and spec.host and not _is_server_name(spec.host):
            return f'invalid "host" option: {spec.host!r} is no name for TLS'.encode("utf-8", "backslashreplace")
        try:
            host.control.add_check(spec)
        except ValueError as error:
            return str(error).encode("utf-8", "surrogateescape")
        return None

    return {
        "upstream_names": lambda: vm.table(names),
        "upstream_peers": peers,
        "upstream_servers": servers,
        "upstream_set_down": set_down,
        "upstream_current": current,
        "check_add": check_add,
    }


def _is_server_name(host: str) -> bool:
    """Whether TLS takes `host` as the name of a server: labels of 1 to 63 characters, or an IP address."""
    labels = host.removesuffix(".").split(".")
    named = len(host) <= 253 and all(map(_LABEL.fullmatch, labels))
    return named or _ADDRESS.fullmatch(host) is not None


def _count(value: object) -> int:
    """A number of results in a row: the library compares with >=, so a fraction counts up and less than 1 is 1."""
    return max(1, math.ceil(number(value, 1, "spawn_checker")))
