"""The status page for Prometheus, in its text format 0.0.4: upwell's own metrics, named and typed as its rules want.

lua-resty's metric is on lua-resty's page, Tengine's are on Tengine's: each where its users' scrapers look for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from upwell.check.pages.view import View
from upwell.check.probe import KINDS
from upwell.check.report import CHECKING, DOWN, UP, PeerReport
from upwell.version import VERSION
from upwell.zone.layout import BUCKETS
from upwell.zone.records import Record
from upwell.zone.resolvers import (
    CODES,
    COUNT_AT,
    COUNT_CODES,
    COUNT_FAILING,
    COUNT_JUNK,
    COUNT_LOOKUPS,
    COUNT_QUERIES,
)

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS: Final = (*(f"{bound / 1e6:g}" for bound in BUCKETS), "+Inf")
_STATES: Final = (UP, DOWN, CHECKING)

_PREFIX: Final = "upwell_upstream_peer_"
_TOGETHER: Final = 32  # peers that are one piece
_ALWAYS: Final = ("connect", "timeout")  # reasons that are told before there is one

_PEER: Final = (
    ("up", "gauge", "Whether the peer may get traffic."),
    ("transitions_total", "counter", "How often its checks together changed."),
    ("connections", "gauge", "Connections of workers to the peer."),
    ("requests_total", "counter", "Requests sent to the peer."),
    ("failed_requests_total", "counter", "Requests that failed at the peer."),
    ("suspended_workers", "gauge", "Workers that keep the peer out of use for failed requests."),
    ("sent_bytes_total", "counter", "Bytes sent to the peer."),
    ("received_bytes_total", "counter", "Bytes received from the peer."),
    ("responses_total", "counter", "Answers of the peer by class of status."),
)
_CHECK: Final = (
    ("check_up", "gauge", "Whether the check says that the peer is up."),
    ("check_passes_total", "counter", "Probes that passed."),
    (
        "check_last_timestamp_seconds",
        "gauge",
        "When the last probe ended, in seconds since 1970; 0: none has.",
    ),
    ("check_transitions_total", "counter", "How often the check turned up or down."),
    ("check_failures_total", "counter", "Probes that failed, by reason."),
    ("check_duration_seconds", "histogram", "How long answered probes took."),
)

_RESPONSES: Final = f"{_PREFIX}responses_total{{"
_FAILURES: Final = f"{_PREFIX}check_failures_total{{"
_ALWAYS_LISTED: Final = [kind for kind in KINDS if kind in _ALWAYS]

_LABELS: Final = "\0"
_NUMBER: Final = "\1"
_HISTOGRAM: Final = re.split(
    f"({_LABELS}|{_NUMBER})",
    "".join(f'{_PREFIX}check_duration_seconds_bucket{{{_LABELS},le="{bound}"}} {_NUMBER}\n' for bound in _BOUNDS)
    + f"{_PREFIX}check_duration_seconds_sum{{{_LABELS}}} {_NUMBER}\n"
    + f"{_PREFIX}check_duration_seconds_count{{{_LABELS}}} {_NUMBER}\n",
)
"""The lines of a histogram in parts: text, labels, text, number and so on. As it is most of the page, its parts are put
into their places and all of them joined at once."""

_RESOLVER: Final = (
    ("lookups_total", "counter", COUNT_LOOKUPS, "Names looked up."),
    ("queries_total", "counter", COUNT_QUERIES, "Questions sent to name servers."),
    ("junk_total", "counter", COUNT_JUNK, "Messages that were no answer to a question."),
    ("names_failing", "gauge", COUNT_FAILING, "Names whose last look-up failed."),
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
    yield "".join(_resolvers(view))
    states: list[str] = []
    panics: list[str] = []
    of_tiers: list[str] = []
    # Every peer is read once, and has its line in each family; a family is one after the other on the page.
    lines: list[list[str]] = [[] for _ in (*_PEER, *_CHECK)]
    texts = _Texts(view)
    for upstream in view.upstreams:
        label = f'upstream="{escaped(upstream.name)}"'
        count = dict.fromkeys(_STATES, 0)
        peers = view.peers(upstream)
        while some := list(islice(peers, _TOGETHER)):
            block: list[list[str]] = [[] for _ in lines]
            for peer in some:
                count[peer.state] += 1
                _add(block, view, texts, label, peer)
            for family, parts in zip(lines, block, strict=True):
                family.append("".join(parts))
            yield ""
        states += [f'upwell_upstream_peers{{{label},state="{state}"}} {count[state]}\n' for state in _STATES]
        used = view.report.tiers(upstream)
        if used is not None:
            for tiers, in_use in zip(used, (1, 0), strict=True):
                of_tiers += [f'upwell_upstream_tier_in_use{{{label},tier="{tier}"}} {in_use}\n' for tier in tiers]
        panics.append(f"upwell_upstream_panic{{{label}}} {int(view.panics(upstream))}\n")
    yield _family("upwell_upstream_peers", "gauge", "Peers of the upstream by state.")
    yield "".join(states)
    yield _family("upwell_upstream_panic", "gauge", "Whether all_down has health ignored now.")
    yield "".join(panics)
    if of_tiers:
        yield _family("upwell_upstream_tier_in_use", "gauge", "Whether peers of the tier get new requests.")
        yield "".join(of_tiers)
    for (name, kind, words), family in zip((*_PEER, *_CHECK), lines, strict=True):
        yield _family(f"{_PREFIX}{name}", kind, words)
        family.reverse()
        while family:
            yield family.pop()  # it is tens of megabytes: what is sent need not stay


class _Stamps(dict[int, str]):
    """Moments of the zone in seconds since 1970: of thousands, many are the same."""

    def __init__(self, view: View) -> None:
        super().__init__({0: "0"})
        self._view = view

    def __missing__(self, millis: int) -> str:
        text = self[millis] = repr(round(self._view.unix(millis), 3))
        return text


class _Texts:
    """What was put into words for one page already."""

    __slots__ = ("checks", "stamps")

    def __init__(self, view: View) -> None:
        self.checks: dict[int, str] = {}  # by id()
        self.stamps = _Stamps(view)


def _add(lines: list[list[str]], view: View, texts: _Texts, upstream: str, peer: PeerReport) -> None:
    """Append the lines of one peer to each family, in the order of _PEER and _CHECK."""
    (up, turns, connections, requests, failed, suspended, sent, received, responses, *rest) = lines
    labels = f'{upstream},peer="{escaped(peer.label)}",role="{peer.spec.role}"'
    end = f"{{{labels}}} "
    in_use, asked, fails, (ones, twos, threes, fours, fives), out, into, until = view.counts(peer)
    workers = view.suspended(view.counts(peer))[0] if until else 0
    up.append(f"{_PREFIX}up{end}{'1' if peer.state == UP else '0'}\n")
    turns.append(f"{_PREFIX}transitions_total{end}{peer.changes}\n")
    connections.append(f"{_PREFIX}connections{end}{in_use}\n")
    requests.append(f"{_PREFIX}requests_total{end}{asked}\n")
    failed.append(f"{_PREFIX}failed_requests_total{end}{fails}\n")
    suspended.append(f"{_PREFIX}suspended_workers{end}{workers}\n")
    sent.append(f"{_PREFIX}sent_bytes_total{end}{out}\n")
    received.append(f"{_PREFIX}received_bytes_total{end}{into}\n")
    responses.append(
        f'{_RESPONSES}{labels},class="1xx"}} {ones}\n{_RESPONSES}{labels},class="2xx"}} {twos}\n'
        f'{_RESPONSES}{labels},class="3xx"}} {threes}\n{_RESPONSES}{labels},class="4xx"}} {fours}\n'
        f'{_RESPONSES}{labels},class="5xx"}} {fives}\n'
    )
    (check_up, passes, stamp, turned, failures, durations) = rest
    for place, check in enumerate(peer.checks):
        title = texts.checks.get(id(check.spec)) if not place else None
        if title is None:
            title = _check_label(peer, place)
            if not place:
                texts.checks[id(check.spec)] = title
        of = labels + title
        end = f"{{{of}}} "
        record = check.record
        check_up.append(f"{_PREFIX}check_up{end}{'1' if check.state == UP else '0'}\n")
        passes.append(f"{_PREFIX}check_passes_total{end}{check.passes}\n")
        stamp.append(f"{_PREFIX}check_last_timestamp_seconds{end}{texts.stamps[check.at]}\n")
        turned.append(f"{_PREFIX}check_transitions_total{end}{record.changes}\n")
        if record.kind >= 0:
            for kind, count in zip(KINDS, record.kinds, strict=True):
                if count or kind in _ALWAYS:
                    failures.append(f'{_FAILURES}{of},reason="{kind}"}} {count}\n')
        else:
            for kind in _ALWAYS_LISTED:
                failures.append(f'{_FAILURES}{of},reason="{kind}"}} 0\n')
        durations += _durations(record, of)


def _durations(record: Record, labels: str) -> list[str]:
    """The histogram of a check's answer times, in parts."""
    parts = _HISTOGRAM.copy()
    total, text = 0, "0"
    numbers = []
    for count in record.buckets:
        if count:
            total += count
            text = str(total)
        numbers.append(text)
    numbers += ("%.6f" % (record.time / 1e6), text)
    parts[1::4] = [labels] * len(numbers)
    parts[3::4] = numbers
    return parts


def _resolvers(view: View) -> Iterator[str]:
    lookups = view.report.lookups
    sums = {f'resolver="{escaped(name)}"': lookups.sums(name) for name in lookups.names}
    if not sums:
        return
    for name, kind, place, help in _RESOLVER:
        yield _family(f"upwell_resolver_{name}", kind, help)
        for label, words in sums.items():
            yield f"upwell_resolver_{name}{{{label}}} {words[place]}\n"
    yield _family("upwell_resolver_answers_total", "counter", "Look-ups by what came of them.")
    for label, words in sums.items():
        for code, count in zip(CODES, words[COUNT_CODES:], strict=True):
            yield f'upwell_resolver_answers_total{{{label},code="{code}"}} {count}\n'
    name = "upwell_resolver_last_answer_timestamp_seconds"
    yield _family(name, "gauge", "When a look-up was last answered, in seconds since 1970; 0: none was.")
    for label, words in sums.items():
        yield f"{name}{{{label}}} {round(view.unix(words[COUNT_AT]), 3) if words[COUNT_AT] else 0}\n"


def _family(name: str, kind: str, words: str) -> str:
    return f"# HELP {name} {words}\n# TYPE {name} {kind}\n"


def _check_label(peer: PeerReport, at: int) -> str:
    """The check's title, with its place where two have the same."""
    title = peer.checks[at].spec.title
    before = sum([check.spec.title == title for check in peer.checks[:at]])
    return f',check="{escaped(f"{title} #{before + 1}" if before else title)}"'


def escaped(text: str) -> str:
    """`text` as the value of a label."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
