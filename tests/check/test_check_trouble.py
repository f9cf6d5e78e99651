"""Trouble of the machine's own: said when it begins, now and then while it goes on, and when it is over."""

from __future__ import annotations

from upwell.check.trouble import AGAIN, Trouble


def test_thousands_of_probes_are_a_few_lines() -> None:
    trouble = Trouble()
    said: list[str] = []
    for now in range(100, 160):
        said += ["begun"] * sum(trouble.met("no file", now) for _ in range(1000))
        said += trouble.settle(now)
    more = "more probe(s) got no verdict: no file"
    assert said == ["begun", f"10999 {more}", *[f"10000 {more}"] * 4]
    assert trouble.settle(160) == [f"9000 {more}"]
    assert trouble.settle(159 + AGAIN - 0.1) == []
    assert trouble.settle(159 + AGAIN) == ["no longer so, 60000 probe(s) got no verdict: no file"]
    assert trouble.settle(1000.0) == []


def test_another_episode_begins_anew() -> None:
    trouble = Trouble()
    for now in (100.0, 200.0):
        assert trouble.met("no file", now)
        assert trouble.settle(now) == []
        assert trouble.settle(now + AGAIN) == ["no longer so, 1 probe(s) got no verdict: no file"]


def test_kinds_are_kept_apart() -> None:
    trouble = Trouble()
    assert trouble.met("no file", 1.0)
    assert trouble.met("no port", 5.0)
    assert not trouble.met("no file", 6.0)
    assert sorted(trouble.settle(15.0)) == [
        "1 more probe(s) got no verdict: no file",
        "no longer so, 1 probe(s) got no verdict: no port",
    ]
