"""The status page as JSON: everything that is known, for programs. Durations are seconds, moments RFC 3339 in UTC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from upwell.check.pages.view import View, node, rfc3339
from upwell.check.probe import KINDS
from upwell.check.report import CheckReport, PeerReport
from upwell.peers.panic import words
from upwell.version import VERSION

_encode = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode


def pieces(view: View) -> Iterator[str]:
    """The page in pieces: one for each peer, and what stands between them."""
    void = view.last_void
    head = {
        "version": VERSION,
        "node": node(),
        "time": rfc3339(view.wall),
        "generation": view.generation,
        "configurations": view.report.table.configurations,
        "checker": {
            "state": view.checker_state,
            "pid": view.report.table.checker_pid,
            "heartbeat_age": _rounded(view.heartbeat_age),
            "lateness": _rounded(view.lateness),
            "void_probes": view.report.table.voids.probes,
            "last_void": {"age": _rounded(void[0]), "why": void[1]} if void is not None else None,
        },
    }
    yield _encode(head)[:-1] + ', "upstreams": ['
    between = "\n"
    for upstream in view.upstreams:
        about = {
            "name": upstream.name,
            "balancer": upstream.balancer,
            "implicit": upstream.implicit,
            "peers_total": len(upstream.peers),
            "peers_up": view.report.up(upstream),
            "all_down": words(upstream),
            "health_ignored": view.panics(upstream),
        }
        yield f'{between}{_encode(about)[:-1]}, "peers": ['
        between = ",\n"
        inner = "\n  "
        for peer in view.peers(upstream):
            yield inner + _encode(_peer(view, peer))
            inner = ",\n  "
        yield "]}"
    yield "]}\n"


def _peer(view: View, peer: PeerReport) -> dict[str, Any]:
    counts = view.counts(peer)
    spec = peer.spec
    return {
        "name": spec.name,
        "label": peer.label,
        "server": spec.server,
        "role": spec.role,
        "weight": spec.weight,
        "state": peer.state,
        "why": peer.why or None,
        "admin": peer.admin or None,
        "since": view.moment(peer.since),
        "changes": peer.changes,
        "connections": counts.connections,
        "requests": counts.requests,
        "failed_requests": counts.fails,
        "responses": dict(zip(("1xx", "2xx", "3xx", "4xx", "5xx"), counts.responses, strict=True)),
        "sent": counts.sent,
        "received": counts.received,
        "checks": [_check(view, check) for check in peer.checks],
    }


def _check(view: View, check: CheckReport) -> dict[str, Any]:
    spec, record = check.spec, check.record
    passed = check.passed
    last = None
    if passed is not None:
        last = {
            "at": view.moment(check.at),
            "age": _rounded(view.age(check.at)),
            "passed": passed,
            "why": None if passed else record.why,
            "status": check.status or None,
            "time": check.latency / 1e6,
        }
    failure = None
    if record.kind >= 0:
        failure = {"at": view.moment(record.failed_at), "kind": check.kind, "why": record.why}
    return {
        "check": spec.title,
        "type": spec.type,
        "dialect": spec.dialect,
        "state": check.state,
        "since": view.moment(check.since),
        "last": last,
        "last_failure": failure,
        "time_average": record.average / 1e6,
        "time_p99": record.p99 / 1e6,
        "streak": record.streak,
        "rise": spec.rise,
        "fall": spec.fall,
        "passes": check.passes,
        "failures": check.fails,
        "failures_by_kind": {kind: count for kind, count in zip(KINDS, record.kinds, strict=True) if count},
        "next": view.moment(record.next),
        "changes": record.changes,
        "transitions": [
            {"at": view.moment(change.at), "to": "up" if change.up else "down", "why": change.why or None}
            for change in record.history
        ],
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
