"""Which peers an upstream tries for one key after another: as recorded of nginx in tests/cases/balancers, and here."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import TypedDict

from upwell.modules.load import load
from upwell.modules.upstream import UpstreamsSettings
from upwell.peers.live import Peer
from upwell.peers.peer import UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.zone.table import PeerTable

FOLDER = Path(__file__).parents[1] / "cases" / "balancers"
_NOW = 1e6


class Case(TypedDict):
    """`upstream` are the lines of the block. The peers of `failing` refuse connections; `tried` are those that one
    request after another tried, by its key.
    """

    upstream: list[str]
    failing: list[str]
    tried: list[tuple[str, list[str]]]


def recorded() -> dict[str, Case]:
    """The cases of all files, by name."""
    cases: dict[str, Case] = {}
    for path in sorted(FOLDER.glob("*.json")):
        cases[path.stem] = json.loads(path.read_text())
    return cases


def write(name: str, case: Case) -> None:
    """Keep `case` as a file that is read and compared line by line."""
    parts = [f'"upstream": {json.dumps(case["upstream"], indent=2)}', f'"failing": {json.dumps(case["failing"])}']
    lines = ",\n  ".join(json.dumps(line) for line in case["tried"])
    parts.append(f'"tried": [\n  {lines}\n]')
    (FOLDER / f"{name}.json").write_text("{" + ",\n".join(parts) + "}\n")


def spec_of(lines: list[str], folder: Path) -> UpstreamSpec:
    """The upstream whose block has these lines."""
    text = "events {}\nhttp {\nupstream u {\n" + "\n".join(lines) + "\n}\n}\n"
    (folder / "choices.conf").write_text(text)
    (http,) = load("choices.conf", str(folder)).main.of("http")
    (spec,) = http[UpstreamsSettings].specs
    return spec


def choices(case: Case, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """What upwell tries for the keys of `case`, as proxy/forward.py would go about it."""
    spec = spec_of(case["upstream"], folder)
    upstream = Upstream(spec, PeerTable.create(peer_keys(spec), 1), chance=Random(1).random)
    failing = set(case["failing"])
    for key, _ in case["tried"]:
        tried: list[Peer] = []
        data = _address(key) if spec.method.name == "ip_hash" else key.encode()
        while (peer := upstream.pick(tried, _NOW, data)) is not None:
            tried.append(peer)
            failed = peer.name in failing
            upstream.release(peer, _NOW, failed)
            if not failed or len(tried) >= upstream.tries:
                break
        yield key, [peer.name for peer in tried]


def _address(text: str) -> bytes:
    address = ipaddress.ip_address(text)
    return address.packed[:3] if address.version == 4 else address.packed
