"""How an `upstream` block chooses among its peers: the directives that name a method, into a Method."""

from __future__ import annotations

import re

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.modules.sticky import StickySettings
from upwell.modules.upstream import UpstreamSettings
from upwell.peers.peer import Method
from upwell.peers.server_lines import WITHOUT_SLOW_START

_TIMES = {"upstream": ("header", "last_byte"), "stream_upstream": ("connect", "first_byte", "last_byte")}
_FACTOR = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


def choose(block: Block, directive: Directive, method: Method) -> None:
    """Let the upstream be balanced by `method`; the last one counts, as in nginx."""
    own = block.own(UpstreamSettings)
    if "method" in own or "sticky" in block.own(StickySettings):
        block.loading.warnings.append(directive.error("load balancing method redefined"))
    if method.name in WITHOUT_SLOW_START and any(peer.slow_start for peer in own.get("peers", ())):
        raise directive.error('balancing method does not support parameter "slow_start"')
    block.set(UpstreamSettings, "method", method)


def _ip_hash(block: Block, directive: Directive) -> None:
    choose(block, directive, Method("ip_hash"))


def _hash(block: Block, directive: Directive) -> None:
    args = directive.args
    block.template(directive, 0)
    bounded = 0.0
    if len(args) == 3 and not args[2].startswith("bounded="):
        raise directive.error('invalid number of arguments in "hash" directive')
    if len(args) > 1 and args[1] != "consistent":
        raise directive.error(f'invalid parameter "{args[1]}"', 1)
    if len(args) == 3:
        value = args[2].removeprefix("bounded=")
        bounded = float(value) if _FACTOR.fullmatch(value) else 0.0
        if bounded <= 1.0:  # with their shares alone there might be no room for the next request
            raise directive.error(f'invalid parameter "{args[2]}"', 2)
    choose(block, directive, Method("hash", key=args[0], consistent=len(args) > 1, bounded=bounded))


def _least_conn(block: Block, directive: Directive) -> None:
    choose(block, directive, Method("least_conn"))


def _least_time(block: Block, directive: Directive) -> None:
    args = directive.args
    inflight = len(args) > 1
    if inflight and args[1] != "inflight":
        raise directive.error(f'invalid parameter "{args[1]}"', 1)
    if args[0] not in _TIMES[block.kind]:
        raise directive.error(f'invalid value "{args[0]}"', 0)
    choose(block, directive, Method("least_time", measure=args[0], inflight=inflight))


def _ewma(block: Block, directive: Directive) -> None:
    choose(block, directive, Method("ewma"))


def _random(block: Block, directive: Directive) -> None:
    args = directive.args
    if args and args[0] != "two":
        raise directive.error(f'invalid parameter "{args[0]}"', 0)
    measure = "least_conn" if args else ""
    if len(args) == 2:
        name, equals, time = args[1].partition("=")
        if name == "least_time" and time in _TIMES[block.kind]:  # NGINX Plus
            measure = time
        elif name != "least_conn" or equals:
            raise directive.error(f'invalid parameter "{args[1]}"', 1)
    choose(block, directive, Method("random", two=bool(args), measure=measure))


MODULE = Module(
    "balancing",
    (
        command("ip_hash", "upstream", 0, _ip_hash),
        command("hash", "upstream stream_upstream", (1, 3), _hash),
        command("least_conn", "upstream stream_upstream", 0, _least_conn),
        command("least_time", "upstream stream_upstream", (1, 2), _least_time),
        command("ewma", "upstream stream_upstream", 0, _ewma),
        command("random", "upstream stream_upstream", (0, 2), _random),
    ),
    options=(
        "http_upstream_hash_module",
        "http_upstream_ip_hash_module",
        "http_upstream_least_conn_module",
        "http_upstream_least_time_module",
        "http_upstream_random_module",
    ),
)
