"""The status page for Prometheus, in its text format 0.0.4: upwell's own metrics, named and typed as its rules want.

lua-resty's metric is on lua-resty's page, Tengine's are on Tengine's: each where its users' scrapers look for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from upwell.check.pages.view import View
from upwell.check.probe import KINDS
from upwell.check.report import CHECKING, DOWN, UP, CheckReport, PeerReport
from upwell.version import VERSION
from upwell.zone.layout import BUCKETS
from upwell.zone.table import Counts

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS: Final = (*(f"{bound / 1e6:g}" for bound in BUCKETS), "+Inf")
_STATES: Final = (UP, DOWN, CHECKING)

_PEER: Final[tuple[tuple[str, str, str, Callable[[PeerReport, Counts], float]], ...]] = (
    ("up", "gauge", "Whether the peer may get traffic.", lambda peer, _: int(peer.state == UP)),
    ("transitions_total", "counter", "How often its checks together changed.", lambda peer, _: peer.changes),
    ("connections", "gauge", "Connections of workers to the peer.", lambda _, counts: counts.connections),
    ("requests_total", "counter", "Requests sent to the peer.", lambda _, counts: counts.requests),
    ("failed_requests_total", "counter", "Requests that failed at the peer.", lambda _, counts: counts.fails),
    ("sent_bytes_total", "counter", "Bytes sent to the peer.", lambda _, counts: counts.sent),
    ("received_bytes_total", "counter", "Bytes received from the peer.", lambda _, counts: counts.received),
)
_CHECK: Final[tuple[tuple[str, str, str, Callable[[View, CheckReport], float]], ...]] = (
    ("up", "gauge", "Whether the check says that the peer is up.", lambda _, check: int(check.state == UP)),
    ("passes_total", "counter", "Probes that passed.", lambda _, check: check.passes),
    (
        "last_timestamp_seconds",
        "gauge",
        "When the last probe ended, in seconds since 1970; 0: none has.",
        lambda view, check: round(view.unix(check.at), 3) if check.at else 0,
    ),
    ("transitions_total", "counter", "How often the check turned up or down.", lambda _, check: check.record.changes),
)


def pieces(view: View) -> Iterator[str]:
    """The page in pieces: for each metric, one for each peer."""
    table = view.report.table
    yield _family("upwell_build_info", "gauge", "What runs here.") + f'upwell_build_info{{version="{VERSION}"}} 1\n'
    yield _family("upwell_checker_heartbeat_timestamp_seconds", "gauge", "When the checker last went round its loop.")
    beat = table.checker_heartbeat
    yield f"upwell_checker_heartbeat_timestamp_seconds {round(view.unix(beat), 3) if beat else 0}\n"
    yield _family("upwell_checker_lateness_seconds", "gauge", "How late the checker's last due work began.")
    yield f"upwell_checker_lateness_seconds {view.lateness:g}\n"
    yield _family(
        "upwell_checker_void_probes_total", "counter", "Probes without a verdict, for trouble of this machine."
    )
    yield f"upwell_checker_void_probes_total {table.voids.probes}\n"
    yield _family("upwell_configurations_total", "counter", "Configurations in use since the start, reloads included.")
    yield f"upwell_configurations_total {table.configurations}\n"
    seen = []
    for upstream in view.upstreams:
        peers = [(_peer_labels(upstream.name, peer), peer) for peer in view.peers(upstream)]
        seen.append((f'upstream="{_escaped(upstream.name)}"', peers))
        yield ""
    yield _family("upwell_upstream_peers", "gauge", "Peers of the upstream by state.")
    for labels, peers in seen:
        for state in _STATES:
            count = sum(peer.state == state for _, peer in peers)
            yield f'upwell_upstream_peers{{{labels},state="{state}"}} {count}\n'
    yield _family("upwell_upstream_panic", "gauge", "Whether all_down has health ignored now.")
    for upstream in view.upstreams:
        yield f'upwell_upstream_panic{{upstream="{_escaped(upstream.name)}"}} {int(view.panics(upstream))}\n'
    everyone = [one for _, peers in seen for one in peers]
    counted = [(labels, peer, view.counts(peer)) for labels, peer in everyone]
    for name, kind, words, value in _PEER:
        yield _family(f"upwell_upstream_peer_{name}", kind, words)
        for labels, peer, counts in counted:
            yield f"upwell_upstream_peer_{name}{{{labels}}} {value(peer, counts)}\n"
    yield _family("upwell_upstream_peer_responses_total", "counter", "Answers of the peer by class of status.")
    for labels, _, counts in counted:
        yield "".join(
            f'upwell_upstream_peer_responses_total{{{labels},class="{digit}xx"}} {count}\n'
            for digit, count in enumerate(counts.responses, 1)
        )
    checks = [
        (_check_labels(labels, peer, at), check) for labels, peer in everyone for at, check in enumerate(peer.checks)
    ]
    for name, kind, words, of in _CHECK:
        yield _family(f"upwell_upstream_peer_check_{name}", kind, words)
        for labels, check in checks:
            yield f"upwell_upstream_peer_check_{name}{{{labels}}} {of(view, check)}\n"
    yield _family("upwell_upstream_peer_check_failures_total", "counter", "Probes that failed, by reason.")
    for labels, check in checks:
        yield "".join(
            f'upwell_upstream_peer_check_failures_total{{{labels},reason="{kind}"}} {count}\n'
            for kind, count in zip(KINDS, check.record.kinds, strict=True)
            if count or kind in ("connect", "timeout")
        )
    yield _family("upwell_upstream_peer_check_duration_seconds", "histogram", "How long answered probes took.")
    for labels, check in checks:
        yield _histogram(labels, check)


def _family(name: str, kind: str, words: str) -> str:
    return f"# HELP {name} {words}\n# TYPE {name} {kind}\n"


def _histogram(labels: str, check: CheckReport) -> str:
    name = "upwell_upstream_peer_check_duration_seconds"
    total = 0
    lines = []
    for bound, count in zip(_BOUNDS, check.record.buckets, strict=True):
        total += count
        lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}\n')
    lines.append(f"{name}_sum{{{labels}}} {check.record.time / 1e6:.6f}\n")
    lines.append(f"{name}_count{{{labels}}} {total}\n")
    return "".join(lines)


def _peer_labels(upstream: str, peer: PeerReport) -> str:
    return f'upstream="{_escaped(upstream)}",peer="{_escaped(peer.label)}",role="{peer.spec.role}"'


def _check_labels(labels: str, peer: PeerReport, at: int) -> str:
    """With the check's title, and its place where two have the same."""
    title = peer.checks[at].spec.title
    before = sum(check.spec.title == title for check in peer.checks[:at])
    return f'{labels},check="{_escaped(f"{title} #{before + 1}" if before else title)}"'


def _escaped(text: str) -> str:
    """`text` as the value of a label."""
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
