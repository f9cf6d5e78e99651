"""Many peers of one upstream that turn down at once: said once, with numbers and the reason, and when it is over."""

from __future__ import annotations

from upwell.check.mass import Mass

WHY = "connection refused"


def mass(size: int, percent: int = 50) -> Mass:
    one = Mass("u", percent)
    one.watch(range(size), ())
    return one


def test_it_is_said_once_with_numbers_and_the_most_frequent_reason() -> None:
    one = mass(10)
    whys = ["timeout", WHY, WHY, "timeout", WHY]
    assert [one.turned_down(row, why, 5.0, 100.0 + row) for row, why in enumerate(whys)] == [""] * 5
    assert one.turned_down(5, WHY, 5.0, 105.0) == (
        '6 of 10 peers of upstream "u" turned down within 5 s, more than 50% (mass_down_threshold); '
        "most often (4 times): connection refused"
    )
    assert [one.turned_down(row, WHY, 5.0, 105.0) for row in (6, 7)] == [""] * 2
    assert [one.turned_up(row) for row in (0, 1)] == [""] * 2
    assert one.turned_up(2) == '5 of 10 peers of upstream "u" are down, no longer more than 50% (it were 8)'
    assert one.turned_up(3) == ""


def test_peers_that_turn_down_one_after_the_other_are_no_mass() -> None:
    one = mass(10)
    assert [one.turned_down(row, WHY, 5.0, 100.0 + row * 1.1) for row in range(10)] == [""] * 10
    assert [one.turned_up(row) for row in range(10)] == [""] * 10


def test_a_peer_that_flaps_is_one_peer() -> None:
    one = mass(4)
    for turn in range(20):
        assert one.turned_down(0, WHY, 60.0, 100.0 + turn) == ""
        assert one.turned_up(0) == ""
    assert [one.turned_down(row, WHY, 60.0, 121.0) for row in (0, 0, 1)] == [""] * 3
    assert one.turned_down(2, WHY, 60.0, 121.0) != ""


def test_the_threshold_must_be_exceeded() -> None:
    one = mass(4, percent=75)
    assert [one.turned_down(row, WHY, 5.0, 1.0) for row in range(3)] == [""] * 3
    assert one.turned_down(3, WHY, 5.0, 1.0) != ""
    never = mass(4, percent=100)
    assert [never.turned_down(row, WHY, 5.0, 1.0) for row in range(4)] == [""] * 4


def test_one_peer_is_no_mass() -> None:
    assert mass(1).turned_down(0, WHY, 5.0, 1.0) == ""
    assert mass(3, percent=1).turned_down(0, WHY, 5.0, 1.0) == ""


def test_another_episode_is_said_again() -> None:
    one = mass(2)
    for start in (100.0, 200.0):
        assert one.turned_down(0, WHY, 5.0, start) == ""
        assert one.turned_down(1, WHY, 5.0, start) != ""
        assert one.turned_up(0) != ""
        assert one.turned_up(1) == ""


def test_those_that_a_successor_finds_down_are_not_new() -> None:
    one = Mass("u", 50)
    one.watch(range(4), (0, 1, 2))
    assert one.turned_down(3, WHY, 5.0, 1.0) == ""
