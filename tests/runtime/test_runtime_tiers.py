"""Tiers of peers on the status page and in what `upwell explain` says."""

from __future__ import annotations

import json
from pathlib import Path

from tests.runtime.serving import Serving
from upwell.modules.load import load
from upwell.runtime.build import plan
from upwell.runtime.explain import explain
from upwell.zone.layout import ADMIN_DOWN

CONFIGURATION = """
upstream u {
    server 10.0.0.1:80;
    server 10.0.0.2:80 tier=1;
    server 10.0.0.3:80 tier=4 drain;
    server 10.0.0.4:80 backup;
    tier_threshold 60%;
}
upstream plain { server 10.0.0.1:80; server 10.0.0.2:80 backup; }
server {
    listen 127.0.0.1:8080;
    allow all;
    location / { upwell_status; }
    location /app { proxy_pass http://u; }
}
"""


def page(served: Serving, what: str) -> str:
    return served.ask(f"GET /?{what} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).body.decode()


def test_the_page_says_which_tiers_are_in_use(tmp_path: Path) -> None:
    with Serving(tmp_path, CONFIGURATION) as served:
        first, second = json.loads(page(served, "format=json"))["upstreams"]
        assert first["tiers"] == {"in_use": [0], "waiting": [1, 4], "threshold": 60}
        assert "tiers" not in second
        assert [peer.get("tier") for peer in first["peers"]] == [None, 1, 4, None]
        assert [peer.get("draining") for peer in first["peers"]] == [None, None, True, None]
        html = page(served, "format=html")
        assert "tier 0 of 0, 1, 4 in use" in html
        assert "<small>drain</small> <small>tier 4</small>" in html
        served.table.set_admin(0, ADMIN_DOWN)
        served.table.publish()
        assert json.loads(page(served, "format=json"))["upstreams"][0]["tiers"]["in_use"] == [0, 1, 4]
        assert "tiers 0, 1, 4 of 0, 1, 4 in use" in page(served, "format=html")
        metrics = page(served, "format=prometheus")
        assert 'upwell_upstream_tier_in_use{upstream="u",tier="4"} 1\n' in metrics
        assert 'tier_in_use{upstream="plain"' not in metrics


def test_explain_says_who_is_asked_first(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{ {CONFIGURATION} }}\n")
    told = "".join(explain(plan(load("nginx.conf", str(tmp_path)))))
    assert "10.0.0.3:80 (drains, tier 4)" in told
    assert (
        "Tier 0 gets all requests; tiers 1, 4 join one by one while less than 60 % of the peers before is up "
        "(tier_threshold)." in told
    )
    assert told.count("tier_threshold") == 1
