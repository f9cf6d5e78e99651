"""What a configuration says of peers that are known by name. Who they are is names.py's business."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.peers.peer import PeerSpec
from upwell.resolve.spec import Question, ResolverSpec


@dataclass(frozen=True, slots=True)
class NamedPeers:
    """One `server name resolve` of `upstream`: its peers are `template` with the addresses that `resolver` gives for
    `question`; `port` is for those that come without one."""

    upstream: str
    template: PeerSpec
    question: Question
    port: int
    resolver: ResolverSpec
