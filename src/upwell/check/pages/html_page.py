"""The status page for people: self-contained, readable without JavaScript, following changes with it.

Nothing that comes from a configuration, a peer or the checker gets onto it unescaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final
from urllib.parse import quote

from upwell.check.pages.view import View, node, rfc3339
from upwell.check.report import CHECKING, DOWN, UP, CheckReport, PeerReport
from upwell.peers.panic import words
from upwell.peers.peer import UpstreamSpec
from upwell.version import VERSION
from upwell.zone.resolvers import CODES, COUNT_AT, COUNT_CODES, COUNT_FAILING, COUNT_LOOKUPS

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --up: #1a7f37; --down: #cf222e; --checking: #9a6700; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.up { color: var(--up); } .down { color: var(--down); font-weight: 600; } .checking { color: var(--checking); }
.stuck { color: var(--down); font-weight: 600; } nav a { margin-right: .8rem; }
details summary { cursor: pointer; } ol { margin: .3rem 0; padding-left: 1.4rem; } small { opacity: .75; }
"""

_SCRIPT: Final = """
(() => {
  let pause = 2000;
  async function follow() {
    if (document.hidden) { setTimeout(follow, pause); return; }
    const began = performance.now();
    const state = document.getElementById("live");
    try {
      const answer = await fetch(location.href, { cache: "no-store", redirect: "error" });
      if (!answer.ok) throw new Error("status " + answer.status);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const open = new Set([...document.querySelectorAll("details[open]")].map((one) => one.id));
      const fresh = page.querySelector("main");
      for (const one of fresh.querySelectorAll("details")) one.open = open.has(one.id);
      document.querySelector("main").replaceWith(document.adoptNode(fresh));
      state.textContent = "live";
      state.className = "up";
    } catch (error) {
      state.textContent = "no answer (" + error.message + "), what is shown is old";
      state.className = "down";
    }
    pause = Math.max(2000, 20 * (performance.now() - began));
    setTimeout(follow, pause);
  }
  document.getElementById("live").textContent = "live";
  setTimeout(follow, pause);
})();
"""

_MANY: Final = 1000
"""Peers that a page lists in full: more would be read by nobody, and be made too slowly."""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


FIELDS: Final = (
    (b"Cache-Control", b"no-store"),
    (
        b"Content-Security-Policy",
        f"default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}".encode(),
    ),
    (b"X-Content-Type-Options", b"nosniff"),
)
"""What the answer with the page says besides: the browser runs no other script than the page's own."""


def pieces(view: View) -> Iterator[str]:
    """The page in pieces: one for each peer, and what stands between them."""
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<noscript><meta http-equiv="refresh" content="5"></noscript>\n'
        f"<title>upwell: upstreams of {escape(node())}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Upstreams of {escape(node())}</h1>\n"
        f'<nav>{_links(view)} <small id="live"></small></nav>\n<main>\n'
    )
    yield _checker(view)
    shown = list(view.upstreams)
    short = len(shown) > 1 and not view.state and sum(len(view.report.members(upstream)) for upstream in shown) > _MANY
    if short:
        yield f"<p>More than {_MANY} peers: only those without traffic are listed. Click on an upstream.</p>\n"
    for upstream in shown:
        up = 0
        for so_far in view.report.up(upstream):
            up = so_far
            yield ""
        yield _title(view, upstream, up)
        for number, peer in enumerate(view.peers(upstream, troubled=short)):
            if number == _MANY:
                yield '<tr><td colspan="9">and more: the list is cut here</td></tr>\n'
                break
            yield _rows(view, f"{upstream.name} {peer.label} {peer.spec.role}", peer)
        yield "</tbody></table>\n"
    if not shown:
        yield "<p>There is no such upstream.</p>\n"
    yield "".join(_names(view))
    yield f"</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"


def _links(view: View) -> str:
    wanted = f"upstream={quote(view.upstream)}&" if view.upstream else ""
    links = [("all", f"?{wanted}")] + [(state, f"?{wanted}status={state}") for state in (UP, DOWN, CHECKING)]
    if view.upstream:
        links.insert(0, ("all upstreams", "?"))
    links += [("JSON", f"?{wanted}format=json"), ("Prometheus", f"?{wanted}format=prometheus")]
    return " ".join(f'<a href="{escape(address)}">{escape(name)}</a>' for name, address in links)


def _checker(view: View) -> str:
    age = view.heartbeat_age
    ago = f", last seen {_span(age)} ago" if age is not None else ""
    state = view.checker_state
    style = "up" if state == "running" else "stuck"
    if view.last_void is not None:
        since, why = view.last_void
        count = view.report.table.voids.probes
        ago += f", {count} probe(s) without a verdict (the last one {_span(since)} ago: {escape(why)})"
    return (
        f'<p>Checker <span class="{style}">{state}</span>{ago}, {_span(view.lateness)} late. '
        f"<small>{rfc3339(view.wall)}, upwell {escape(VERSION)}</small></p>\n"
    )


def _title(view: View, upstream: UpstreamSpec, up: int) -> str:
    total = len(view.report.members(upstream))
    style = "up" if up == total else "down" if up == 0 else "checking"
    name = escape(upstream.name)
    panic = ""
    if view.panics(upstream):
        panic = f' <span class="down">health is ignored (all_down {escape(words(upstream))})</span>'
    tiers = view.report.tiers(upstream)
    if tiers is not None:
        panic += f" <small>{escape(_tiers(*tiers))}</small>"
    return (
        f'<h2><a href="?upstream={quote(upstream.name)}">{name}</a> '
        f'<span class="{style}">{up} of {total} up</span>{panic}</h2>\n'
        "<table><thead><tr><th>Peer</th><th>State</th><th>Check</th><th>Last result</th><th>Checked</th>"
        "<th>Time: last, average, p99</th><th>Passes, failures</th><th>Next</th><th>Requests, failed</th></tr></thead>"
        "<tbody>\n"
    )


def _names(view: View) -> Iterator[str]:
    """How look-ups of names go, where there is a resolver."""
    lookups = view.report.lookups
    if not lookups.names:
        return
    yield "<h2>Names</h2>\n<table><thead><tr><th>Resolver</th><th>Names that fail</th><th>Look-ups</th>"
    yield "<th>What came of them</th><th>Last answer</th></tr></thead><tbody>\n"
    for name in lookups.names:
        counts = lookups.sums(name)
        came = [f"{code} {count}" for code, count in zip(CODES, counts[COUNT_CODES:], strict=True) if count]
        failing = counts[COUNT_FAILING]
        last = f"{_span(view.age(counts[COUNT_AT]))} ago" if counts[COUNT_AT] else "never"
        yield f'<tr><td>{escape(name)}</td><td class="n {DOWN if failing else UP}">{failing}</td>'
        yield f'<td class="n">{counts[COUNT_LOOKUPS]}</td><td>{", ".join(came)}</td><td>{last}</td></tr>\n'
    yield "</tbody></table>\n"


def _tiers(used: Sequence[int], waiting: Sequence[int]) -> str:
    """Which tiers get requests: "tier 0 of 0, 1 in use"."""
    shown = ", ".join(map(str, used))
    every = ", ".join(map(str, (*used, *waiting)))
    return f"tier{'s' * (len(used) > 1)} {shown} of {every} in use"


def _rows(view: View, place: str, peer: PeerReport) -> str:
    """One row for each check of a peer, one for a peer without."""
    spec = peer.spec
    counts = view.counts(peer)
    said = (("backup", spec.backup), ("down", spec.down), ("drain", spec.drain), (f"tier {spec.tier}", spec.tier > 0))
    marks = "".join(f" <small>{mark}</small>" for mark, is_so in said if is_so)
    since = f"<br><small>for {_span(view.age(peer.since))}</small>" if peer.since else ""
    reason = peer.why or view.suspension(counts)
    why = f"<br><small>{escape(reason)}</small>" if reason else ""
    span = f' rowspan="{len(peer.checks)}"' if len(peer.checks) > 1 else ""
    first = (
        f"<td{span}>{escape(peer.label)}{marks}</td>"
        f'<td{span}><span class="{peer.state}">{peer.state}</span>{since}{why}</td>'
    )
    last = f'<td{span} class="n">{counts.requests}, {counts.fails}</td>'
    if not peer.checks:
        return f'<tr>{first}<td colspan="6"><small>not checked</small></td>{last}</tr>\n'
    rows = []
    for number, check in enumerate(peer.checks):
        cells = _cells(view, f"{place} {number}", check)
        rows.append(f"<tr>{first if number == 0 else ''}{cells}{last if number == 0 else ''}</tr>\n")
    return "".join(rows)


def _cells(view: View, place: str, check: CheckReport) -> str:
    record = check.record
    if check.at:
        passed = check.passed
        words = f"passed{f' with status {check.status}' if check.status else ''}" if passed else record.why
        style = UP if passed else DOWN
        result = f'<span class="{style}">{escape(words)}</span>'
        if record.streak < -1 or record.streak > 1:
            result += f" <small>{abs(record.streak)} times in a row</small>"
        checked = f"{_span(view.age(check.at))} ago"
        times = f"{_span(check.latency / 1e6)}, {_span(record.average / 1e6)}, {_span(record.p99 / 1e6)}"
    else:
        result, checked, times = "<small>none yet</small>", "never", ""
    if check.void:
        result += f" <small>no verdict {_span(view.age(record.void_at))} ago: {escape(check.void)}</small>"
    due = record.next / 1000 - view.now
    following = "" if not record.next else f"in {_span(due)}" if due > 0 else "now"
    return (
        f'<td>{escape(check.spec.title)} <span class="{check.state}">{check.state}</span></td>'
        f"<td>{result}{_history(view, place, check)}</td>"
        f'<td class="n">{checked}</td><td class="n">{times}</td><td class="n">{check.passes}, {check.fails}</td>'
        f'<td class="n">{following}</td>'
    )


def _history(view: View, place: str, check: CheckReport) -> str:
    record = check.record
    if not record.history:
        return ""
    items = "".join(
        f'<li><span class="{UP if change.up else DOWN}">{UP if change.up else DOWN}</span> '
        f"<small>{view.moment(change.at)}</small>{f' {escape(change.why)}' if change.why else ''}</li>"
        for change in reversed(record.history)
    )
    return (
        f'<details id="{escape(place)}"><summary><small>{record.changes} changes</small></summary>'
        f"<ol>{items}</ol></details>"
    )


def _span(seconds: float) -> str:
    """A length of time in words as long as it deserves: "250 us", "1.2 ms", "3.4 s", "12 min", "5 h", "3 d"."""
    seconds = max(seconds, 0.0)
    for limit, unit, name in ((1e-3, 1e-6, "us"), (1.0, 1e-3, "ms"), (100.0, 1.0, "s")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:.0f} {name}"
    for limit, unit, name in ((7200.0, 60.0, "min"), (172800.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} d"
