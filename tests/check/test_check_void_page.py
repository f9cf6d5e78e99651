"""Probes without a verdict are on every page."""

from __future__ import annotations

import json

import pytest

from upwell.check.pages import html_page, json_page, prometheus_page
from upwell.check.pages.view import View
from upwell.check.report import Report
from upwell.peers.peer import PeerSpec, UpstreamSpec, peer_keys
from upwell.zone.table import PeerTable


@pytest.fixture
def table() -> PeerTable:
    return PeerTable.create(peer_keys(SPEC), 1)


SPEC = UpstreamSpec("u", (PeerSpec("a", ("a", 80)),))


def view(table: PeerTable) -> View:
    return View(Report(table, [SPEC], (), dict), now=100.0, wall=1e9)


def test_there_are_none(table: PeerTable) -> None:
    checker = json.loads("".join(json_page.pieces(view(table))))["checker"]
    assert (checker["void_probes"], checker["last_void"]) == (0, None)
    assert "without a verdict" not in "".join(html_page.pieces(view(table)))
    assert "\nupwell_checker_void_probes_total 0\n" in "".join(prometheus_page.pieces(view(table)))


def test_how_many_when_and_why(table: PeerTable) -> None:
    table.note_void(90_000, "no file")
    table.note_void(97_500, "no <port>")
    checker = json.loads("".join(json_page.pieces(view(table))))["checker"]
    assert (checker["void_probes"], checker["last_void"]) == (2, {"age": 2.5, "why": "no <port>"})
    page = "".join(html_page.pieces(view(table)))
    assert ", 2 probe(s) without a verdict (the last one 2.5 s ago: no &lt;port&gt;)" in page
    assert "\nupwell_checker_void_probes_total 2\n" in "".join(prometheus_page.pieces(view(table)))
