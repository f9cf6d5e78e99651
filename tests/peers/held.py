"""Which peers an upstream tries while requests are under way: as recorded of nginx in tests/cases/balancers/held, and
here."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import TypedDict

from tests.peers.choices import FOLDER, spec_of
from upwell.peers.live import Peer
from upwell.peers.peer import peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.table import PeerTable

HELD = FOLDER / "held"
_NOW = 1e6


class Case(TypedDict):
    """`upstream` are the lines of the block. The peers of `failing` refuse connections. In `steps`, a list of names
    says that a request came and which peers it tried, the last of them having it now; a number that the request of
    that number (from 0) ended."""

    upstream: list[str]
    failing: list[str]
    steps: list[list[str] | int]


def recorded() -> dict[str, Case]:
    """The cases of all files, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(HELD.glob("*.json"))}


def write(name: str, case: Case) -> None:
    """Keep `case` as a file that is read and compared line by line."""
    parts = [f'"upstream": {json.dumps(case["upstream"], indent=2)}', f'"failing": {json.dumps(case["failing"])}']
    lines = ",\n  ".join(json.dumps(line) for line in case["steps"])
    parts.append(f'"steps": [\n  {lines}\n]')
    (HELD / f"{name}.json").write_text("{" + ",\n".join(parts) + "}\n")


def replay(case: Case, folder: Path) -> list[list[str] | int]:
    """The steps of `case` with what upwell tries."""
    spec = spec_of(case["upstream"], folder)
    upstream = Upstream(spec, PeerTable.create(peer_keys(spec), 1), chance=Random(1).random)
    failing = set(case["failing"])
    held: list[Peer | None] = []
    found: list[list[str] | int] = []
    for step in case["steps"]:
        if isinstance(step, int):
            peer = held[step]
            if peer is not None:
                upstream.release(peer, _NOW, failed=False)
            found.append(step)
            continue
        tried: list[Peer] = []
        # as tests/system/test_system_held.py asks: the target is the request's number
        key = b"\x7f\0\0" if spec.method.name == "ip_hash" else b"/%d" % len(held)
        while (peer := upstream.pick(tried, _NOW, key)) is not None:
            tried.append(peer)
            if peer.name not in failing:
                break
            upstream.release(peer, _NOW, failed=True)
            if len(tried) >= upstream.tries:
                peer = None
                break
        held.append(peer)
        found.append([one.name for one in tried])
    return found
