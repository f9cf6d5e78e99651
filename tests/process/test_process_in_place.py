"""Which reloads need no new workers, and what the checker is told then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from upwell.check.checker import Checker
from upwell.log import ErrorLogs
from upwell.peers.peer import Method, PeerKey, PeerSpec, UpstreamSpec, peer_keys
from upwell.process.control import apply
from upwell.process.in_place import Difference, difference
from upwell.process.parts import table_of


def peer(port: int, **settings: object) -> PeerSpec:
    name = f"127.0.0.1:{port}"
    return replace(PeerSpec(name, ("127.0.0.1", port), server=name), **settings)  # type: ignore[arg-type]


def upstream(*peers: PeerSpec, **settings: object) -> UpstreamSpec:
    return replace(UpstreamSpec("backend", peers), **settings)  # type: ignore[arg-type]


class Running:
    """What serves: a table made for `spec`, a checker, and what the configuration said last."""

    def __init__(self, spec: UpstreamSpec) -> None:
        self.made = self.said = spec
        self.table = table_of((spec,), 1)
        self.checker = Checker(self.table, (spec,), ErrorLogs(()))

    def compare(self, now: UpstreamSpec) -> Difference | None:
        return difference((self.made,), self.table, (self.said,), (now,))

    def reload(self, now: UpstreamSpec, carry_out: bool = True) -> Difference:
        found = self.compare(now)
        assert found is not None
        self.said = now
        if carry_out:
            self.carry_out(found)
        return found

    def carry_out(self, found: Difference) -> None:
        for message in found.orders:
            apply(message, self.checker)

    def members(self) -> list[PeerSpec]:
        return [member.spec for member in self.checker.members("backend")]

    def identities(self) -> list[PeerKey]:
        return [member.key for member in self.checker.members("backend")]


def test_peers_join_leave_and_change() -> None:
    running = Running(upstream(peer(81), peer(82), peer(83)))
    now = upstream(peer(81, weight=3), peer(83), peer(84, down=True), peer(85, backup=True))
    found = running.reload(now)
    assert running.members() == list(now.peers)
    assert running.identities() == peer_keys(now)
    assert found.text == 'peers of "backend" (2 joined, 1 left, 1 changed)'


def test_somebody_is_always_there() -> None:
    """A list that is replaced as a whole is never empty on the way."""
    running = Running(upstream(peer(81)))
    found = running.reload(upstream(peer(82)), carry_out=False)
    for message in found.orders:
        apply(message, running.checker)
        assert running.members()
    assert running.members() == [peer(82)]


def test_there_and_back_again_and_again() -> None:
    first, second = upstream(peer(81), peer(82)), upstream(peer(82, weight=2), peer(83))
    running = Running(first)
    for _ in range(5):
        running.reload(second)
        assert running.members() == list(second.peers)
        running.reload(first)
        assert set(running.members()) == set(first.peers)


def test_the_same_address_twice() -> None:
    running = Running(upstream(peer(81, weight=1), peer(81, weight=2), peer(82)))
    now = upstream(peer(81, weight=2), peer(82))
    running.reload(now)
    assert sorted(running.identities()) == sorted(peer_keys(now))
    running.reload(upstream(peer(81), peer(81), peer(81), peer(82)))
    assert [key.ordinal for key in running.identities() if key.name == "127.0.0.1:81"] == [0, 1, 2]


def test_a_reload_that_is_not_carried_out_yet_counts_in_the_next_one() -> None:
    running = Running(upstream(peer(81)))
    first = running.reload(upstream(peer(81, weight=2), peer(82)), carry_out=False)
    second = running.reload(upstream(peer(81), peer(83)), carry_out=False)
    running.carry_out(first)
    running.carry_out(second)
    assert running.members() == [peer(81), peer(83)]


def test_what_was_ordered_otherwise_is_as_the_configuration_says_again() -> None:
    running = Running(upstream(peer(81), peer(82), peer(83)))
    running.checker.add_peer("backend", peer(84))
    running.checker.remove_peer(PeerKey("backend", "primary", "127.0.0.1:82", 0))
    running.checker.change_peer(PeerKey("backend", "primary", "127.0.0.1:81", 0), weight=7)
    now = upstream(peer(81), peer(82), peer(83, weight=2))
    running.reload(now)
    assert set(running.members()) == set(now.peers)


def test_what_was_ordered_before_the_configuration_says_it_is_nothing_new() -> None:
    running = Running(upstream(peer(81)))
    running.checker.add_peer("backend", peer(82))
    found = running.reload(upstream(peer(81), peer(82)))
    assert found.text == "all peers are as the configuration says already"
    assert running.members() == [peer(81), peer(82)]


def test_peers_known_by_name_stay() -> None:
    line = PeerSpec("app.example", ("", 0), server="app.example")
    running = Running(upstream(peer(81), lines=(line,)))
    running.checker.add_peer("backend", peer(90, server="app.example"))
    running.reload(upstream(peer(82), lines=(line,)))
    assert set(running.members()) == {peer(82), peer(90, server="app.example")}
    # Two would have one identity.
    assert running.compare(upstream(peer(82), peer(90), lines=(line,))) is None


@pytest.mark.parametrize(
    ("method", "in_place"),
    [
        (Method(), True),
        (Method("least_conn"), True),
        (Method("hash", key="$uri", consistent=True), True),
        (Method("hash", key="$uri"), False),
        (Method("ip_hash"), False),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else f"{value.name}{value.consistent:d}",
)
def test_where_keys_go_by_the_place_in_the_list_the_list_has_its_order(method: Method, in_place: bool) -> None:
    running = Running(upstream(peer(81), peer(83), method=method))
    assert (running.compare(upstream(peer(81), peer(82), peer(83), method=method)) is not None) is in_place
    assert running.compare(upstream(peer(81), peer(83), peer(84), method=method)) is not None
    assert running.compare(upstream(peer(83), method=method)) is not None
    assert running.compare(upstream(peer(81, weight=2), peer(83), method=method)) is not None


def test_nothing_that_differs_is_no_reload_in_place() -> None:
    running = Running(upstream(peer(81), peer(82)))
    assert running.compare(upstream(peer(81), peer(82))) is None
    running.checker.add_peer("backend", peer(83))
    assert running.compare(upstream(peer(81), peer(82))) is None


def test_another_order_alone_is_for_new_workers() -> None:
    running = Running(upstream(peer(81), peer(82)))
    assert running.compare(upstream(peer(82), peer(81))) is None


def test_lists_in_files_are_only_read() -> None:
    running = Running(upstream(peer(81), state="/x"))
    running.checker.add_peer("backend", peer(82))
    one = UpstreamSpec("other", (peer(91),))
    two = replace(one, peers=(peer(92),))
    table = table_of((running.made, one), 1)
    checker = Checker(table, (running.made, one), ErrorLogs(()))
    checker.add_peer("backend", peer(82))
    kept = upstream(peer(81), peer(82), state="/x")
    assert difference((running.made, one), table, (running.made, one), (kept, one)) is None
    found = difference((running.made, one), table, (running.made, one), (kept, two))
    assert found is not None
    assert found.text == 'peers of "other" (1 joined, 1 left)'
    by_hand = upstream(peer(81), state="/x")
    assert difference((running.made, one), table, (running.made, one), (by_hand, two)) is None


def test_what_the_zone_cannot_hold_is_for_new_workers() -> None:
    running = Running(upstream(peer(81)))
    assert running.compare(upstream(peer(81), peer(82, server="x" * 900))) is None
    spare = running.table.layout.row_count - running.table.rows_used
    assert running.compare(upstream(peer(81), *(peer(1000 + n) for n in range(spare)))) is not None
    assert running.compare(upstream(peer(81), *(peer(1000 + n) for n in range(spare + 1)))) is None


def test_many_upstreams_make_no_long_line() -> None:
    before = [UpstreamSpec(f"u{n}", (peer(81),)) for n in range(8)]
    now = [replace(one, peers=(peer(82), peer(83))) for one in before]
    found = difference(before, table_of(before, 1), before, now)
    assert found is not None
    assert found.text.startswith('peers of "u0" (2 joined, 1 left), "u1" (2 joined')
    assert found.text.endswith(" and 3 more")
