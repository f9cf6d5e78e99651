"""How an `upstream` block chooses among its peers: the directives that name a method, into a Method."""

from __future__ import annotations

import re

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.modules.upstream import WITHOUT_SLOW_START, UpstreamSettings
from upwell.peers.peer import Method

_FACTOR = re.compile(r"[0-9]{1,4}(\.[0-9]{1,6})?")


def choose(block: Block, directive: Directive, method: Method) -> None:
    """Let the upstream be balanced by `method`; the last one counts, as in nginx."""
    own = block.own(UpstreamSettings)
    if "method" in own:
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
    if len(args) > 1 and args[1] != "consistent":
        raise directive.error(f'invalid parameter "{args[1]}"', 1)
    if len(args) == 3:
        name, equals, value = args[2].partition("=")
        if name != "bounded" or not equals:
            raise directive.error('invalid number of arguments in "hash" directive')
        bounded = float(value) if _FACTOR.fullmatch(value) else 0.0
        if bounded <= 1.0:  # with their shares alone there might be no room for the next request
            raise directive.error(f'invalid parameter "{args[2]}"', 2)
    choose(block, directive, Method("hash", key=args[0], consistent=len(args) > 1, bounded=bounded))


def _random(block: Block, directive: Directive) -> None:
    args = directive.args
    for index, known in enumerate((("two",), ("least_conn",))):
        if len(args) > index and args[index] not in known:
            raise directive.error(f'invalid parameter "{args[index]}"', index)
    choose(block, directive, Method("random", two=bool(args), measure="least_conn" if args else ""))


MODULE = Module(
    "balancing",
    (
        command("ip_hash", "upstream", 0, _ip_hash),
        command("hash", "upstream", (1, 3), _hash),
        command("random", "upstream", (0, 2), _random),
    ),
    options=("http_upstream_hash_module", "http_upstream_ip_hash_module", "http_upstream_random_module"),
)
