"""What a program of one's own may not ask of a Group: settings that nobody would take from a configuration file."""

from __future__ import annotations

from math import isfinite
from typing import Final

from upwell.check.spec import CheckSpec
from upwell.peers.balancers import BALANCERS
from upwell.peers.panic import FAIL, PANIC, SERVE_ALL
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec
from upwell.peers.server_lines import misfit, senseless

_MEASURES: Final = ("", "least_conn", "header", "connect", "first_byte", "last_byte")
_TIMES: Final = ("timeout", "jitter", "fast_interval", "down_interval", "keepalive_time")


def refuse_upstream(spec: UpstreamSpec) -> None:
    """Raises ValueError with a sentence that says what of `spec` cannot be."""
    method = spec.method
    if method.name not in BALANCERS:
        raise ValueError(f'no balancing method "{method.name}"')
    if method.bounded and not (method.name == "hash" and method.consistent and 1.0 < method.bounded < 1e4):
        raise ValueError(f"invalid bounded {method.bounded!r}: a consistent hash can have a factor above 1.0")
    if method.measure not in _MEASURES:
        raise ValueError(f"invalid measure {method.measure!r}")
    if spec.all_down not in (FAIL, SERVE_ALL, PANIC):
        raise ValueError(f'invalid all_down {spec.all_down!r}, it must be "fail", "serve_all" or "panic"')
    percentages = ["mass_down", "tier_threshold"]
    if spec.all_down == PANIC:
        percentages.append("panic")
    for name in percentages:
        value: object = getattr(spec, name)
        if type(value) is not int or not 1 <= value <= 100:
            raise ValueError(f"invalid {name} {value!r}, it must be from 1 to 100")
    for peer in spec.peers:
        refuse_peer(peer, method)


def refuse_peer(peer: PeerSpec, method: Method) -> None:
    """Raises ValueError like `refuse_upstream`."""
    wrong = senseless(peer) or misfit(peer, method)
    if wrong:
        raise ValueError(wrong)


def refuse_check(check: CheckSpec) -> None:
    """Raises ValueError like `refuse_upstream`."""
    if not (isfinite(check.interval) and check.interval > 0.0):
        raise ValueError(f"invalid interval {check.interval!r} of a check")
    for name in _TIMES:
        seconds: float = getattr(check, name)
        if not isfinite(seconds):
            raise ValueError(f"invalid {name} {seconds!r} of a check")
    for name, least, most in (("fall", 1, 1 << 31), ("rise", 1, 1 << 31), ("port", 0, 65535)):
        count: object = getattr(check, name)
        if type(count) is not int or not least <= count <= most:
            raise ValueError(f"invalid {name} {count!r} of a check")
