"""The status page as JSON: everything that is known, for programs. Durations are seconds, moments RFC 3339 in UTC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from upwell.check.pages.view import View, node, rfc3339
from upwell.check.probe import KINDS
from upwell.check.report import CheckReport, PeerReport
from upwell.peers.panic import words
from upwell.peers.peer import STREAM, Method, UpstreamSpec
from upwell.version import VERSION
from upwell.zone.resolvers import (
    CODES,
    COUNT_AT,
    COUNT_CODES,
    COUNT_FAILING,
    COUNT_JUNK,
    COUNT_LOOKUPS,
    COUNT_QUERIES,
)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode
_text = json.encoder.encode_basestring
_TOGETHER = 32  # peers that are one piece


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
    texts = _Texts(view)
    for upstream in view.upstreams:
        up = 0
        for so_far in view.report.up(upstream):
            up = so_far
            yield ""
        about: dict[str, object] = {
            "name": upstream.name,
            "balancer": upstream.method.name,
            "hash": _hash(upstream.method),
            "sticky": view.report.sticky.get(upstream.name),
            "queue": _queue(upstream),
            "keepalive": _keepalive(upstream),
            "implicit": upstream.implicit,
            "peers_total": len(view.report.members(upstream)),
            "peers_up": up,
            "all_down": words(upstream),
            "health_ignored": view.panics(upstream),
        }
        tiers = view.report.tiers(upstream)
        if tiers is not None:
            about["tiers"] = {"in_use": tiers[0], "waiting": tiers[1], "threshold": upstream.tier_threshold}
        yield f'{between}{_encode(about)[:-1]}, "peers": ['
        between = ",\n"
        inner = "\n  "
        peers = view.peers(upstream)
        while some := [_peer(view, peer, texts) for peer in islice(peers, _TOGETHER)]:
            yield inner + ",\n  ".join(some)
            inner = ",\n  "
        yield "]}"
    resolvers = [_encode(_resolver(view, name)) for name in view.report.lookups.names]
    yield f'], "resolvers": [{", ".join(resolvers)}]}}\n'


def _hash(method: Method) -> dict[str, object] | None:
    if not method.key:
        return None
    return {"key": method.key, "consistent": method.consistent, "bounded": method.bounded or None}


def _queue(upstream: UpstreamSpec) -> dict[str, object] | None:
    return {"size": upstream.queue, "timeout": upstream.queue_timeout} if upstream.queue else None


def _keepalive(upstream: UpstreamSpec) -> dict[str, object] | None:
    if not upstream.keepalive or upstream.name.startswith(STREAM):
        return None
    return {
        "connections": upstream.keepalive,
        "requests": upstream.keepalive_requests,
        "time": upstream.keepalive_time,
        "timeout": upstream.keepalive_timeout,
    }


def _resolver(view: View, name: str) -> dict[str, object]:
    words = view.report.lookups.sums(name)
    at = words[COUNT_AT]
    return {
        "name": name,
        "lookups": words[COUNT_LOOKUPS],
        "answers": dict(zip(CODES, words[COUNT_CODES:], strict=True)),
        "queries": words[COUNT_QUERIES],
        "junk": words[COUNT_JUNK],
        "names_failing": words[COUNT_FAILING],
        "last_answer": {"at": view.moment(at), "age": _rounded(view.age(at))} if at else None,
    }


class _Spans(dict[int, str]):
    """Microseconds as seconds: of thousands of answer times, many are the same."""

    def __missing__(self, micros: int) -> str:
        text = self[micros] = repr(micros / 1e6)
        return text


class _Moments(dict[int, str]):
    """Moments of the zone as JSON has them: most are of the last few seconds."""

    def __init__(self, view: View) -> None:
        super().__init__({0: "null"})
        self._view = view

    def __missing__(self, millis: int) -> str:
        text = self[millis] = f'"{self._view.moment(millis)}"'
        return text


class _Lasts(dict[int, str]):
    """When the last probe was, and how long ago."""

    def __init__(self, view: View, moments: _Moments) -> None:
        super().__init__()
        self._view = view
        self._moments = moments

    def __missing__(self, millis: int) -> str:
        text = self[millis] = f'{{"at": {self._moments[millis]}, "age": {round(self._view.age(millis), 6)}, "passed": '
        return text


class _Texts:
    """What was put into words for one page already."""

    __slots__ = ("checks", "lasts", "moments", "spans")

    def __init__(self, view: View) -> None:
        self.spans = _Spans()
        self.moments = _Moments(view)
        self.lasts = _Lasts(view, self.moments)
        self.checks: dict[int, str] = {}  # by id()


def _peer(view: View, peer: PeerReport, texts: _Texts) -> str:
    """One peer as text: of thousands, putting it together takes a third of what dictionaries and an encoder do."""
    spec, label, why = peer.spec, peer.label, peer.why
    admin = _text_or_null(peer.admin)
    connections, requests, fails, (ones, twos, threes, fours, fives), sent, received, until = view.counts(peer)
    name = _text(spec.name)
    server = name if spec.server == spec.name else _text(spec.server)
    label = name if label == spec.name else _text(label)
    workers, seconds = 0, 0.0
    if until:
        counts = view.counts(peer)
        workers, seconds = view.suspended(counts)
        why = why or (view.suspension(counts) if workers else "")
    more = (', "draining": true' if spec.drain else "") + (f', "tier": {spec.tier}' if spec.tier else "")
    of_checks = ", ".join([_check(check, texts) for check in peer.checks])
    return (
        f'{{"name": {name}, "label": {label}, "server": {server}, "role": "{spec.role}"{more}, "weight": {spec.weight},'
        f' "state": "{peer.state}", "why": {_text(why) if why else "null"}, "admin": {admin},'
        f' "since": {texts.moments[peer.since]}, "changes": {peer.changes}, "connections": {connections},'
        f' "requests": {requests}, "failed_requests": {fails}, "suspended_workers": {workers},'
        f' "suspended_for": {round(seconds, 3)}, "responses": {{"1xx": {ones},'
        f' "2xx": {twos}, "3xx": {threes}, "4xx": {fours}, "5xx": {fives}}}, "sent": {sent},'
        f' "received": {received}, "checks": [{of_checks}]}}'
    )


def _check(check: CheckReport, texts: _Texts) -> str:
    spec, at, record = check.spec, check.at, check.record
    moments, spans = texts.moments, texts.spans
    streak = record.streak
    last = "null"
    if at:
        passed = "true" if streak > 0 else "false"
        why = "null" if streak > 0 else _text(record.why)
        time = spans[check.latency]
        last = f'{texts.lasts[at]}{passed}, "why": {why}, "status": {check.status or "null"}, "time": {time}}}'
    failure = void = "null"
    kinds = changes = ""
    if record.kind >= 0:
        failure = f'{{"at": {moments[record.failed_at]}, "kind": "{check.kind}", "why": {_text(record.why)}}}'
        kinds = ", ".join([f'"{kind}": {count}' for kind, count in zip(KINDS, record.kinds, strict=True) if count])
    if record.changes:
        changes = ", ".join(
            [
                f'{{"at": {moments[change.at]}, "to": "{"up" if change.up else "down"}",'
                f' "why": {_text_or_null(change.why)}}}'
                for change in record.history
            ]
        )
    if record.void_at and check.void:
        void = f'{{"at": {moments[record.void_at]}, "why": {_text(check.void)}}}'
    about = texts.checks.get(id(spec))
    if about is None:
        about = texts.checks[id(spec)] = _encode({"check": spec.title, "type": spec.type, "dialect": spec.dialect})[
            1:-1
        ]
    return (
        f'{{{about}, "state": "{check.state}", "since": {moments[check.since]}, "last": {last},'
        f' "no_verdict": {void}, "last_failure": {failure},'
        f' "time_average": {spans[record.average]}, "time_p99": {spans[record.p99]},'
        f' "streak": {streak}, "rise": {spec.rise}, "fall": {spec.fall}, "passes": {check.passes},'
        f' "failures": {check.fails}, "failures_by_kind": {{{kinds}}}, "next": {moments[record.next]},'
        f' "changes": {record.changes}, "transitions": [{changes}]}}'
    )


def _text_or_null(text: str) -> str:
    return _text(text) if text else "null"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
