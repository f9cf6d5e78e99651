"""`python -m soak` runs, says what it found, and finds what grows."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from soak.__main__ import Course, main, picture, report, soak, trends
from soak.load import WEBSOCKET, Done
from soak.plot import Panel, draw
from soak.sample import ROLES, Sample, trend

_MB = 1 << 20


def test_a_short_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)  # the workers' user has to reach its files
    chosen = argparse.Namespace(seconds=5.0, rate=60.0, every=0.5, sample=0.2)
    course = soak(chosen, tmp_path, lambda _: None)
    assert {what for _, what in course.marks} >= {"reload", "a worker is killed", "a peer stands still"}
    assert len(course.samples) >= 3
    assert all(one.memory["master"] > _MB and one.descriptors["master"] > 3 for one in course.samples)
    kinds = {one.kind for one in course.done}
    assert {"small", "small, stream", "POST of 10 KB", "100 KB", "Lua", WEBSOCKET} <= kinds
    for kind in ("small", "small, stream", "POST of 10 KB"):
        assert any(one.kind == kind and not one.failure for one in course.done), kind
    assert trends(course) == []  # nobody can say so soon
    assert "| small |" in report(course, {"date": "today"})
    ET.fromstring(picture(course, "a < b"))


def _course(growth: float, seconds: float = 600.0) -> Course:
    """A worker that grows by so many bytes a second."""
    course = Course(seconds, calm=0.0)
    for at in range(int(seconds)):
        memory = dict.fromkeys(ROLES, 20.0 * _MB + at % 7 * 10_000)
        memory["worker"] += growth * at
        course.samples.append(Sample(float(at), memory, dict.fromkeys(ROLES, 20.0 + at % 3), 4))
    return course


def test_what_stays_is_flat_and_what_grows_is_said_to() -> None:
    assert [one.what for one in trends(_course(0.0)) if not one.flat] == []
    assert len(trends(_course(0.0))) == 2 * len(ROLES)
    assert [one.what for one in trends(_course(5000.0)) if not one.flat] == ["memory of a worker"]
    assert "GROWS" in report(_course(5000.0), {})


def test_what_failed_is_said_with_what_was_done_before() -> None:
    course = Course(60.0, marks=[(10.0, "a worker is killed"), (20.0, "reload")])
    assert "Failed after" not in report(course, {})
    for ended, failure in ((5.0, "502"), (10.5, "cut off"), (10.6, "cut off"), (20.5, ""), (29.0, "502")):
        course.done.append(Done("small", ended - 1.0, 1.0, failure))
    said = "Failed after: a worker is killed (within a second): 2, nothing yet: 1, reload (later): 1."
    assert said in report(course, {})


@pytest.mark.parametrize(
    ("value", "flat"),
    [
        (lambda at: 10.0, True),
        (lambda at: 10.0 + 0.001 * at, True),
        (lambda at: 10.0 + 0.1 * at, False),
        (lambda at: 10.0 - 0.1 * at, True),
        (lambda at: 10.0 + min(at, 20) * 1.0, True),  # it fills its caches and then stays
        (lambda at: 10.0 if at % 10 else 1000.0, True),  # a few odd ones
    ],
)
def test_a_line_through_samples(value: object, flat: bool) -> None:
    assert callable(value)
    found = trend("x", "MB", [(float(at), value(at)) for at in range(100)], 0.05, 1.0)
    assert found is not None
    assert found.flat is flat


def test_too_few_samples_say_nothing() -> None:
    assert trend("x", "MB", [], 0.05, 1.0) is None
    assert trend("x", "MB", [(1.0, 1.0)] * 7, 0.05, 1.0) is None


def test_an_empty_picture_is_one() -> None:
    ET.fromstring(draw("nothing", [Panel("none", [("no curve", [])])], 0.0, []))


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--rate", "0"], ["--every", "0"], ["--sample", "0"], ["x"]])
def test_what_makes_no_sense_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage" in capsys.readouterr().err
