"""The status page in its three forms: what is in it, what it refuses, and that nothing on it can be code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.serving import Serving
from tests.wire.joined import Answer
from upwell.peers.membership import Membership
from upwell.peers.peer import PeerSpec, UpstreamSpec
from upwell.zone.records import note_change, note_failure, note_pass, note_time

CONFIGURATION = """
upstream "app" {
    server 10.0.0.1:80;
    server 10.0.0.2:80 weight=2;
    server 10.0.0.3:80 backup;
    server 10.0.0.4:80 down;
    server 10.0.0.1:80;
    check interval=3000 rise=2 fall=5 type=http port=8081;
}
upstream other { server 10.0.0.9:80; }
server {
    listen 127.0.0.1:8080;
    allow all;
    location / { upwell_status; }
    location /json { upwell_status; status_format json; }
    location /prometheus { status_format prometheus; upwell_status; }
}
"""
ODD = 'status <b>"503"</b> & \\ more'


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path, CONFIGURATION) as one:
        table = one.table
        (spec,) = one.checks
        for row, up in ((0, True), (1, False), (2, True)):
            slot = table.add_check(row, spec.identity, 2, 6 if up else 0)
            at, record = table.layout.check(row, slot), table.record_at(row, slot)
            table.set_check(at, 6 if up else 0, 5000, 200 if up else 503, 1500, up)
            note_time(table.words, table.halves, record, 1500)
            if up:
                note_pass(table.words, record)
            else:
                why = table.phrases.keep(ODD)
                note_failure(table.words, record, 5, why, 5000)
                note_change(table.words, record, 5000, False, why)
            table.summarise(row, 5000)
        yield one


def page(serving: Serving, target: str, method: str = "GET") -> Answer:
    return serving.ask(f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def found(serving: Serving, target: str) -> dict[str, Any]:
    answer = page(serving, target)
    assert answer.status == 200
    assert answer.field("content-type") == "application/json"
    whole: dict[str, Any] = json.loads(answer.body)
    return whole


def test_json_says_how_each_peer_stands_and_why(serving: Serving) -> None:
    whole = found(serving, "/json")
    app, other = whole["upstreams"]
    assert (app["name"], app["peers_total"], app["peers_up"]) == ("app", 5, 3)
    assert (other["name"], other["peers_up"]) == ("other", 1)
    first, second, third, fourth, again = app["peers"]
    assert (first["state"], first["why"], first["role"]) == ("up", None, "primary")
    assert (second["state"], second["why"], second["weight"]) == ("down", ODD, 2)
    assert (third["role"], fourth["why"]) == ("backup", "configured down")
    assert (again["name"], again["label"]) == ("10.0.0.1:80", "10.0.0.1:80 #2")
    (check,) = second["checks"]
    assert (check["check"], check["type"], check["dialect"]) == ("http port 8081", "http", "tengine")
    assert (check["state"], check["streak"], check["rise"], check["fall"]) == ("down", -1, 2, 5)
    last = check["last"]
    assert (last["passed"], last["why"], last["status"], last["time"]) == (False, ODD, 503, 0.0015)
    assert check["failures_by_kind"] == {"status": 1}
    (change,) = check["transitions"]
    assert (change["to"], change["why"]) == ("down", ODD)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", change["at"])
    assert again["checks"] == []
    assert whole["checker"]["state"] == "not started"


def test_every_form_says_when_health_is_ignored(tmp_path: Path) -> None:
    http = CONFIGURATION.replace(
        "server 10.0.0.9:80;", "server 10.0.0.9:80; check default_down=false; all_down serve_all;"
    )
    with Serving(tmp_path, http) as serving:
        row = next(row for row, key in enumerate(serving.table.keys) if key[0] == "other")

        def told() -> tuple[bool, bool, bool]:
            other = found(serving, "/json")["upstreams"][1]
            assert other["all_down"] == "serve_all"
            sample = b'upwell_upstream_panic{upstream="other"} 1\n' in page(serving, "/prometheus").body
            return other["health_ignored"], sample, b"health is ignored (all_down serve_all)" in page(serving, "/").body

        assert told() == (False, False, False)
        slot = serving.table.add_check(row, serving.checks[1].identity, 2, 0)
        serving.table.set_check(serving.table.layout.check(row, slot), 0, 5, 0, 0, False)
        serving.table.summarise(row, 5)
        assert told() == (True, True, True)


def test_every_form_says_when_requests_keep_a_peer_out_of_use(serving: Serving) -> None:
    def told() -> tuple[int, str | None, bool, bool]:
        peer = found(serving, "/json")["upstreams"][0]["peers"][0]
        assert peer["state"] == "up"
        assert (peer["suspended_for"] > 0) == (peer["suspended_workers"] > 0)
        name = b'upwell_upstream_peer_suspended_workers{upstream="app",peer="10.0.0.1:80",role="primary"} 1\n'
        return (
            peer["suspended_workers"],
            peer["why"],
            name in page(serving, "/prometheus").body,
            b"requests failed: out of use in 1 of 1 workers for " in page(serving, "/").body,
        )

    assert told() == (0, None, False, False)
    serving.table.set_suspended(0, 0, int(time.monotonic() * 1000) + 3_600_000)
    workers, why, sample, row = told()
    assert (workers, sample, row) == (1, True, True)
    assert re.fullmatch(r"requests failed: out of use in 1 of 1 workers for 3\d\d\d\.\d s more", why or "")
    serving.table.set_suspended(0, 0, int(time.monotonic() * 1000) - 1)
    assert told() == (0, None, False, False)


def test_a_part_can_be_asked_for(serving: Serving) -> None:
    (only,) = found(serving, "/json?upstream=other")["upstreams"]
    assert only["name"] == "other"
    app, other = found(serving, "/json?status=down")["upstreams"]
    assert [peer["name"] for peer in app["peers"]] == ["10.0.0.2:80", "10.0.0.4:80"]
    assert other["peers"] == []
    assert len(found(serving, "/json?status=up")["upstreams"][0]["peers"]) == 3
    assert found(serving, "/json?upstream=no")["upstreams"] == []


@pytest.mark.parametrize("target", ["/?format=xml", "/?status=odd", "/json?format=%3Cb%3E"])
def test_what_makes_no_sense_is_refused(serving: Serving, target: str) -> None:
    assert page(serving, target).status == 400


def test_only_get_and_head_are_allowed(serving: Serving) -> None:
    assert page(serving, "/", "POST").status == 405
    head = page(serving, "/", "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.field("content-length") or 0) > 1000


class Tags(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_for_people_shows_reasons_and_runs_nothing_of_them(serving: Serving) -> None:
    answer = page(serving, "/")
    assert answer.field("content-type") == "text/html; charset=utf-8"
    policy = answer.field("content-security-policy") or ""
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    tags = Tags()
    tags.feed(answer.body.decode())
    assert ODD in tags.text
    assert "b" not in tags.seen
    assert tags.seen.count("script") == 1
    assert "3 of 5 up" in tags.text
    assert "configured down" in tags.text
    assert "not checked" in tags.text


def test_an_unknown_upstream_is_said_to_be_one_and_not_echoed(serving: Serving) -> None:
    answer = page(serving, "/?upstream=%3Cscript%3E1%3C/script%3E")
    assert b"<script>1" not in answer.body
    assert b"no such upstream" in answer.body


METRIC = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\[\\"n])*",?)*\})? -?[0-9.e+-]+')


def test_every_line_for_prometheus_is_a_comment_or_a_sample(serving: Serving) -> None:
    answer = page(serving, "/prometheus")
    assert answer.field("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    samples = [line for line in lines if not line.startswith("# ")]
    assert all(METRIC.fullmatch(line) for line in samples)
    series = [line.rsplit(" ", 1)[0] for line in samples]
    assert len(series) == len(set(series))
    assert all(line.startswith(("# HELP upwell_", "# TYPE upwell_")) for line in lines if line not in samples)
    peer = 'upstream="app",peer="10.0.0.2:80",role="primary"'
    assert f"upwell_upstream_peer_up{{{peer}}} 0" in samples
    assert f"upwell_upstream_peer_up{{{peer.replace('.2:80', '.1:80 #2')}}} 1" in samples
    check = f'{peer},check="http port 8081"'
    assert f'upwell_upstream_peer_check_failures_total{{{check},reason="status"}} 1' in samples
    assert f'upwell_upstream_peer_check_duration_seconds_bucket{{{check},le="0.001"}} 0' in samples
    assert f'upwell_upstream_peer_check_duration_seconds_bucket{{{check},le="0.0025"}} 1' in samples
    assert f'upwell_upstream_peer_check_duration_seconds_bucket{{{check},le="+Inf"}} 1' in samples
    assert f"upwell_upstream_peer_check_duration_seconds_count{{{check}}} 1" in samples
    assert 'upwell_upstream_peers{upstream="app",state="down"} 2' in samples


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (apt-get install prometheus)")
def test_promtool_has_nothing_to_say(serving: Serving) -> None:
    content = page(serving, "/prometheus").body
    told = subprocess.run(["promtool", "check", "metrics"], input=content, capture_output=True, timeout=60, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (0, b"", b"")


def test_a_long_page_lets_others_have_their_turn_and_loses_nothing(tmp_path: Path) -> None:
    servers = "".join(f"server 10.1.{number // 250}.{number % 250}:80;" for number in range(1500))
    http = f"upstream u {{ {servers} }} server {{ listen 127.0.0.1:8080; allow all; location / {{ upwell_status; }} }}"
    with Serving(tmp_path, http) as serving:
        whole = found(serving, "/?format=json")
        assert len(whole["upstreams"][0]["peers"]) == 1500
        assert b"the list is cut here" in page(serving, "/").body
        answer = page(serving, "/?format=prometheus")
        assert len(answer.body) == int(answer.field("content-length") or 0)
        assert answer.body.count(b"\nupwell_upstream_peer_up{") == 1500
        assert page(serving, "/?format=prometheus", "HEAD").body == b""


def test_a_client_that_goes_away_in_the_middle_harms_nobody(tmp_path: Path) -> None:
    servers = "".join(f"server 10.1.{number // 250}.{number % 250}:80;" for number in range(1500))
    http = f"upstream u {{ {servers} }} server {{ listen 127.0.0.1:8080; allow all; location / {{ upwell_status; }} }}"
    with Serving(tmp_path, http) as serving:
        client = serving.client()
        client.send(b"GET /?format=json HTTP/1.1\r\nHost: x\r\n\r\n")
        client.far.reset()
        serving.loop.run()
        assert page(serving, "/?format=json").status == 200


def test_every_form_shows_who_belongs_there_now(serving: Serving) -> None:
    other = UpstreamSpec("other", (PeerSpec("10.0.0.9:80", ("10.0.0.9", 80)),))
    membership = Membership(serving.table, (other,))
    spec = PeerSpec("10.0.0.10:80", ("10.0.0.10", 80))
    key = membership.key_for("other", spec)
    membership.join(key, spec, membership.row_for("other"))
    serving.table.publish()
    for form in ("json", "html", "prometheus"):
        assert "10.0.0.10:80" in page(serving, f"/json?format={form}&upstream=other").body.decode()
    [about] = found(serving, "/json?upstream=other")["upstreams"]
    assert (about["peers_total"], about["peers_up"]) == (2, 2)
    membership.leave(key)
    serving.table.publish()
    [about] = found(serving, "/json?upstream=other")["upstreams"]
    assert [peer["name"] for peer in about["peers"]] == ["10.0.0.9:80"]
    assert about["peers_total"] == 1


CHOOSING = """
upstream plain { server 10.0.0.1:80; }
upstream cookie { server 10.0.0.1:80; sticky cookie id; keepalive 0; }
upstream route { hash $uri$arg_x consistent; server 10.0.0.1:80; sticky route $cookie_r $arg_r; }
upstream learn {
    server 10.0.0.1:80 max_conns=1;
    sticky learn create=$upstream_cookie_s lookup=$cookie_s zone=sessions:1m timeout=30s;
    queue 7 timeout=3s; keepalive 5; keepalive_requests 9; keepalive_time 2m; keepalive_timeout 8s;
}
server { listen 127.0.0.1:8080; allow all; location / { upwell_status; status_format json; } }
"""


def test_how_peers_are_chosen_and_kept(tmp_path: Path) -> None:
    with Serving(tmp_path, CHOOSING) as serving:
        upstreams = json.loads(page(serving, "/").body)["upstreams"]
    said = {
        upstream["name"]: {name: upstream[name] for name in ("hash", "sticky", "queue", "keepalive")}
        for upstream in upstreams
    }
    usual = {"connections": 32, "requests": 1000, "time": 3600.0, "timeout": 60.0}
    nothing = {"hash": None, "sticky": None, "queue": None, "keepalive": usual}
    learnt = {
        "method": "learn",
        "lookup": ["$cookie_s"],
        "create": ["$upstream_cookie_s"],
        "zone": "sessions",
        "timeout": 30.0,
    }
    assert said == {
        "plain": nothing,
        "cookie": {**nothing, "sticky": {"method": "cookie", "cookie": "id"}, "keepalive": None},
        "route": {
            **nothing,
            "hash": {"key": "$uri$arg_x", "consistent": True, "bounded": None},
            "sticky": {"method": "route", "lookup": ["$cookie_r", "$arg_r"]},
        },
        "learn": {
            "hash": None,
            "sticky": learnt,
            "queue": {"size": 7, "timeout": 3.0},
            "keepalive": {"connections": 5, "requests": 9, "time": 120.0, "timeout": 8.0},
        },
    }
