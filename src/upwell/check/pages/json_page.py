"""The status page as JSON: everything that is known, for programs. Durations are seconds, moments RFC 3339 in UTC."""

from __future__ import annotations

import json
from collections.abc import Iterator

from upwell.check.pages.view import View, node, rfc3339
from upwell.check.probe import KINDS
from upwell.check.report import CheckReport, PeerReport
from upwell.peers.panic import words
from upwell.version import VERSION

_encode = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode
_text = json.encoder.encode_basestring


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
    texts: dict[int, str] = {}
    for upstream in view.upstreams:
        about = {
            "name": upstream.name,
            "balancer": upstream.method.name,
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
            yield inner + _peer(view, peer, texts)
            inner = ",\n  "
        yield "]}"
    yield "]}\n"


def _peer(view: View, peer: PeerReport, texts: dict[int, str]) -> str:
    """One peer as text: of thousands, putting it together takes a third of what dictionaries and an encoder do."""
    counts = view.counts(peer)
    spec = peer.spec
    ones, twos, threes, fours, fives = counts.responses
    name = _text(spec.name)
    server = name if spec.server == spec.name else _text(spec.server)
    label = name if peer.label == spec.name else _text(peer.label)
    checks = ", ".join([_check(view, check, texts) for check in peer.checks])
    workers, seconds = view.suspended(counts)
    why = peer.why or (view.suspension(counts) if workers else "")
    return (
        f'{{"name": {name}, "label": {label}, "server": {server}, "role": "{spec.role}", "weight": {spec.weight},'
        f' "state": "{peer.state}", "why": {_text_or_null(why)}, "admin": {_text_or_null(peer.admin)},'
        f' "since": {_moment(view, peer.since)}, "changes": {peer.changes}, "connections": {counts.connections},'
        f' "requests": {counts.requests}, "failed_requests": {counts.fails}, "suspended_workers": {workers},'
        f' "suspended_for": {round(seconds, 3)}, "responses": {{"1xx": {ones},'
        f' "2xx": {twos}, "3xx": {threes}, "4xx": {fours}, "5xx": {fives}}}, "sent": {counts.sent},'
        f' "received": {counts.received}, "checks": [{checks}]}}'
    )


def _check(view: View, check: CheckReport, texts: dict[int, str]) -> str:
    spec, record = check.spec, check.record
    passed = check.passed
    last = "null"
    if passed is not None:
        last = (
            f'{{"at": {_moment(view, check.at)}, "age": {round(view.age(check.at), 6)},'
            f' "passed": {"true" if passed else "false"}, "why": {"null" if passed else _text(record.why)},'
            f' "status": {check.status or "null"}, "time": {check.latency / 1e6}}}'
        )
    failure, kinds = "null", ""
    if record.kind >= 0:
        at = _moment(view, record.failed_at)
        failure = f'{{"at": {at}, "kind": "{check.kind}", "why": {_text(record.why)}}}'
        kinds = ", ".join([f'"{kind}": {count}' for kind, count in zip(KINDS, record.kinds, strict=True) if count])
    changes = ""
    if record.history:
        changes = ", ".join(
            [
                f'{{"at": {_moment(view, change.at)}, "to": "{"up" if change.up else "down"}",'
                f' "why": {_text_or_null(change.why)}}}'
                for change in record.history
            ]
        )
    void = "null"
    if check.void:
        void = f'{{"at": {_moment(view, record.void_at)}, "why": {_text(check.void)}}}'
    about = texts.get(id(spec))
    if about is None:
        about = texts[id(spec)] = _encode({"check": spec.title, "type": spec.type, "dialect": spec.dialect})[1:-1]
    return (
        f'{{{about}, "state": "{check.state}", "since": {_moment(view, check.since)}, "last": {last},'
        f' "no_verdict": {void}, "last_failure": {failure},'
        f' "time_average": {record.average / 1e6}, "time_p99": {record.p99 / 1e6},'
        f' "streak": {record.streak}, "rise": {spec.rise}, "fall": {spec.fall}, "passes": {check.passes},'
        f' "failures": {check.fails}, "failures_by_kind": {{{kinds}}}, "next": {_moment(view, record.next)},'
        f' "changes": {record.changes}, "transitions": [{changes}]}}'
    )


def _text_or_null(text: str) -> str:
    return _text(text) if text else "null"


def _moment(view: View, millis: int) -> str:
    return f'"{view.moment(millis)}"' if millis else "null"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
