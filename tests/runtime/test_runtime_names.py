"""What pages and `upwell explain` say of names, and what it costs where there is no resolver: nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.runtime.serving import Serving
from tests.wire.joined import get
from upwell.modules.load import load
from upwell.runtime.build import plan
from upwell.runtime.explain import explain
from upwell.zone.resolvers import COUNT_AT, COUNT_CODES, COUNT_FAILING, COUNT_LOOKUPS, ResolverTable

PAGES = """
server {
    listen 127.0.0.1:8080;
    allow all;
    location / { upwell_status; status_format json; }
    location /by { proxy_pass http://$arg_name; %s }
}
"""


def _explained(folder: Path, http: str) -> str:
    (folder / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{http}\n}}\n")
    return "\n".join(explain(plan(load("nginx.conf", str(folder)))))


def test_what_was_counted_is_on_the_pages(tmp_path: Path) -> None:
    http = PAGES % 'resolver 127.0.0.1 "status_zone=a\\"b"; resolver_timeout 1s;'
    with Serving(tmp_path, http) as serving:
        words = serving._plan.lookups.counts('a"b', 0)
        words[COUNT_LOOKUPS] = 7
        words[COUNT_CODES + 2] = 3
        other = serving._plan.lookups.counts('a"b', 1)
        other[COUNT_LOOKUPS], other[COUNT_FAILING], other[COUNT_AT] = 2, 1, 1000
        page = json.loads(serving.ask(get("/")).body)
        [resolver] = page["resolvers"]
        assert (resolver["name"], resolver["lookups"], resolver["names_failing"]) == ('a"b', 9, 1)
        assert resolver["answers"]["servfail"] == 3
        assert resolver["last_answer"]["age"] > 0
        text = serving.ask(get("/?format=prometheus")).body.decode()
        assert 'upwell_resolver_lookups_total{resolver="a\\"b"} 9\n' in text
        assert 'upwell_resolver_answers_total{resolver="a\\"b",code="servfail"} 3\n' in text
        html = serving.ask(get("/?format=html")).body.decode()
        assert "<td>a&quot;b</td>" in html
        assert "servfail 3" in html
        assert 'upwell_resolver_names_failing{resolver="a\\"b"} 1\n' in text


def test_without_a_resolver_there_is_none_on_the_pages(tmp_path: Path) -> None:
    with Serving(tmp_path, PAGES % "") as serving:
        assert json.loads(serving.ask(get("/")).body)["resolvers"] == []
        assert "<h2>Names" not in serving.ask(get("/?format=html")).body.decode()
        assert "upwell_resolver" not in serving.ask(get("/?format=prometheus")).body.decode()


def test_the_library_is_loaded_for_a_resolver_only(tmp_path: Path) -> None:
    code = (
        "import sys; from upwell.modules.load import load; from upwell.runtime.build import plan; "
        "import upwell.runtime.runtime, upwell.check.checker; plan(load('nginx.conf', sys.argv[1])); "
        "print('dns.name' in sys.modules)"
    )
    found = []
    for http in (PAGES % "", PAGES % "resolver 127.0.0.1;"):
        (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{http}\n}}\n")
        run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        found.append(run.stdout.strip())
    assert found == ["False", "True"]


def test_explain_says_who_is_asked_and_how_often(tmp_path: Path) -> None:
    said = _explained(
        tmp_path,
        """
        resolver 127.0.0.1:5353 [::1] valid=30s;
        upstream u { server a.example resolve; server b.example service=http resolve backup; }
        upstream v { server 127.0.0.1; server c.example resolve; resolver 127.0.0.2 ipv6=off; }
        server { location / { proxy_pass http://u; health_check; } location /v { proxy_pass http://v; }
            location /x { proxy_pass http://$arg_a; } }
        """,
    )
    for words in (
        "upstream u (nginx.conf:5): the peers behind 2 names",
        "Peers: what a.example resolves to, looked up (IPv4 and IPv6) every 30 s at 127.0.0.1:5353, [::1]:53.",
        "Peers as backups: what SRV records of _http._tcp.b.example lead to, looked up",
        "whom     each of the peers behind names",
        "upstream v (nginx.conf:6): 1 peer and those behind 1 name",
        "what c.example resolves to, looked up (IPv4) as often as answers say (TTL) at 127.0.0.2:53.",
        "Failed requests: 1 failure within 10 s leaves a peer out for 10 s.",
        "What the proxy_pass in nginx.conf:8 comes to, if it is a name but no upstream, is looked up (IPv4",
    ):
        assert words in said


def test_explain_says_that_there_is_nobody_to_ask(tmp_path: Path) -> None:
    said = _explained(tmp_path, "server { location /x { proxy_pass http://$arg_a; } }")
    assert "in nginx.conf:3 comes to, if it is a name but no upstream, gets a 502: there is no resolver." in said


def test_each_process_counts_for_itself() -> None:
    table = ResolverTable(["a", "b"], 2)
    for name in ("a", "b"):
        for writer in range(3):
            assert table.counts(name, writer)[COUNT_LOOKUPS] == 0
            table.counts(name, writer)[COUNT_LOOKUPS] = 1
            table.counts(name, writer)[COUNT_AT] = writer + 5
    assert table.sums("b")[COUNT_LOOKUPS] == 3
    assert table.sums("b")[COUNT_AT] == 7
    table.counts("b", 0)[COUNT_FAILING] = 4
    after = ResolverTable(["c", "b"], 1)
    after.adopt(table)
    assert after.sums("b")[COUNT_LOOKUPS] == 3
    assert after.sums("b")[COUNT_FAILING] == 0
    assert after.sums("c")[COUNT_LOOKUPS] == 0
