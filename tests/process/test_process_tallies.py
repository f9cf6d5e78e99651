"""What workers of several generations count is in all tables that serve, once, however generations follow and end."""

from __future__ import annotations

from upwell.peers.membership import Membership
from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.process.parts import table_of
from upwell.process.tallies import SHARE, Tallies
from upwell.zone.table import Counts, PeerTable

WORKERS = 2


def peer(name: str) -> PeerSpec:
    return PeerSpec(name, ("127.0.0.1", 80), server=name)


def key(name: str) -> PeerKey:
    return PeerKey("backend", "primary", name, 0)


class World:
    """Generations as the master has them: each of the peers with these names."""

    def __init__(self, *names: str) -> None:
        self.tallies = Tallies()
        self.tables: dict[int, PeerTable] = {}
        self.counted: dict[tuple[int, int, str], Counts] = {}
        self.newest = 0
        self.follow(0, *names)

    def follow(self, old: int, *names: str) -> int:
        """A generation is made of the one with the number `old`."""
        self.newest += 1
        spec = UpstreamSpec("backend", tuple(peer(name) for name in names))
        table = table_of([spec], WORKERS)
        if old:
            self.tell()
            table.adopt(self.tables[old])
        self.tables[self.newest] = table
        self.tallies.begin(self.newest, [spec], table, old)
        return self.newest

    def tell(self) -> None:
        self.tallies.tell(self.tables)

    def serve(self, generation: int, worker: int, name: str, requests: int, connections: int = 0) -> None:
        """The worker has done so many more requests, and has these connections."""
        before = self.counted.get((generation, worker, name), Counts(0, 0, 0, (0, 0, 0, 0, 0), 0, 0))
        now = replace_counts(before, requests, connections)
        self.counted[generation, worker, name] = now
        self.tables[generation].set_counts(self.row(generation, name), worker, now)

    def row(self, generation: int, name: str) -> int:
        return self.tables[generation].row(key(name))

    def end(self, generation: int) -> None:
        for worker in range(WORKERS):
            self.tables[generation].vacate(worker)
        self.tell()
        self.tallies.end(generation)
        del self.tables[generation]

    def total(self, generation: int, name: str) -> Counts:
        return self.tables[generation].counts(self.row(generation, name))

    def requests(self, generation: int, *names: str) -> list[int]:
        return [self.total(generation, name).requests for name in names]


def replace_counts(before: Counts, requests: int, connections: int) -> Counts:
    zero, two, three, four, five = before.responses
    return before._replace(
        connections=connections,
        requests=before.requests + requests,
        fails=before.fails + requests,
        responses=(zero, two + requests, three, four, five),
        sent=before.sent + 10 * requests,
        received=before.received + 100 * requests,
    )


def test_what_old_workers_go_on_counting_is_there_once() -> None:
    world = World("a", "b")
    world.serve(1, 0, "a", 5)
    world.serve(1, 1, "a", 2, connections=3)
    second = world.follow(1, "b", "a")
    assert world.total(second, "a") == Counts(3, 7, 7, (0, 7, 0, 0, 0), 70, 700)
    world.serve(1, 1, "a", 1, connections=2)
    world.serve(1, 0, "b", 4)
    world.serve(second, 0, "a", 10, connections=1)
    for _ in range(2):
        world.tell()
        assert world.total(second, "a") == Counts(3, 18, 18, (0, 18, 0, 0, 0), 180, 1800)
        assert world.total(second, "b") == Counts(0, 4, 4, (0, 4, 0, 0, 0), 40, 400)
    # An old worker was killed in the middle of its two: nobody has them any more.
    world.end(1)
    assert world.total(second, "a") == Counts(1, 18, 18, (0, 18, 0, 0, 0), 180, 1800)
    third = world.follow(second, "a", "b")
    assert world.requests(third, "a", "b") == [18, 4]


def test_several_generations_end_in_any_order() -> None:
    world = World("a")
    world.serve(1, 0, "a", 1)
    second = world.follow(1, "a")
    world.serve(second, 0, "a", 10)
    world.serve(1, 0, "a", 1)
    third = world.follow(second, "a")
    world.serve(1, 1, "a", 1)
    world.serve(second, 1, "a", 10)
    world.serve(third, 1, "a", 100)
    world.tell()
    assert [world.requests(number, "a") for number in (1, second, third)] == [[123], [123], [123]]
    world.serve(1, 1, "a", 1)
    world.serve(second, 1, "a", 10)
    world.end(second)
    world.serve(1, 1, "a", 1)
    fourth = world.follow(third, "a")
    world.serve(1, 1, "a", 1)
    world.end(third)
    world.end(1)
    assert world.requests(fourth, "a") == [136]


def test_two_generations_made_of_one_both_know_of_each_other() -> None:
    """As when HUP comes twice, or a generation that accepted already is given up."""
    world = World("a")
    world.serve(1, 0, "a", 1)
    second, third = world.follow(1, "a"), world.follow(1, "a")
    world.serve(second, 0, "a", 10)
    world.serve(third, 0, "a", 100)
    world.serve(1, 0, "a", 1)
    world.tell()
    assert [world.requests(number, "a") for number in (1, second, third)] == [[112], [112], [112]]
    world.serve(third, 0, "a", 100)
    world.end(third)
    assert [world.requests(number, "a") for number in (1, second)] == [[212], [212]]


def test_peers_that_one_side_does_not_have_are_nobodys() -> None:
    world = World("a", "b")
    world.serve(1, 0, "a", 1)
    world.serve(1, 0, "b", 2)
    second = world.follow(1, "b", "c")
    world.serve(1, 0, "a", 1)
    world.serve(1, 0, "b", 2)
    world.serve(second, 0, "c", 5)
    third = world.follow(second, "a", "b", "c")
    assert world.requests(third, "a", "b", "c") == [0, 4, 5]
    world.serve(1, 0, "a", 1)
    world.tell()
    assert world.requests(third, "a", "b", "c") == [1, 4, 5]  # from then on


def test_who_takes_a_row_over_begins_with_nothing() -> None:
    """A peer that joined leaves, and another one gets its row, while old workers still count for the first one."""
    world = World("a")
    spec = UpstreamSpec("backend", (peer("a"),))
    first = Membership(world.tables[1], [spec])
    first.join(key("b"), peer("b"), first.row_for("backend"))
    world.tables[1].know(1, key("b"))
    world.serve(1, 0, "b", 3, connections=2)
    second = world.follow(1, "a")
    table = world.tables[second]
    members = Membership(table, [spec])

    def join(name: str) -> int:
        row = members.row_for("backend")
        members.join(key(name), peer(name), row)
        return row

    row = join("b")
    world.serve(1, 0, "b", 4, connections=1)
    world.tell()
    assert table.counts(row) == Counts(0, 4, 4, (0, 4, 0, 0, 0), 40, 400)
    world.serve(1, 0, "b", 1, connections=2)
    members.leave(key("b"))
    assert join("c") == row
    assert table.counts(row) == Counts(0, 0, 0, (0, 0, 0, 0, 0), 0, 0)
    world.tell()
    assert table.counts(row).requests == 0
    # And back again, with a worker here that has counted for whoever had the row.
    world.serve(second, 0, "c", 9)
    world.tell()
    members.leave(key("c"))
    table.let_go(row, 0)
    assert join("b") == row
    world.serve(1, 0, "b", 1, connections=1)
    world.tell()
    assert table.counts(row) == Counts(0, 1, 1, (0, 1, 0, 0, 0), 10, 100)
    assert world.tables[1].counts(1).requests == 9


def test_settings_of_a_peer_that_stays_change_nothing() -> None:
    world = World("a", "b")
    second = world.follow(1, "a", "b")
    members = Membership(world.tables[second], [UpstreamSpec("backend", (peer("a"), peer("b")))])
    world.serve(1, 0, "b", 1)
    world.tell()
    members.change(key("b"), weight=7)
    world.serve(1, 0, "b", 1)
    world.tell()
    assert world.requests(second, "b") == [2]


def test_a_worker_that_begins_anew_takes_nothing_away() -> None:
    world = World("a")
    second = world.follow(1, "a")
    world.serve(1, 0, "a", 8)
    world.tell()
    world.tables[1].let_go(0, 0)
    world.tell()
    assert world.requests(second, "a") == [8]


def test_looking_is_bounded() -> None:
    world = World("a")
    assert not world.tallies.is_due(1000.0)  # there is nobody to be told
    world.follow(1, "a")
    assert world.tallies.is_due(1000.0)
    world.tallies.took(1000.0, 1000.001, 1.0)
    assert not world.tallies.is_due(1001.0)
    assert world.tallies.is_due(1001.1)
    world.tallies.took(1000.0, 1001.0, 1.0)
    assert not world.tallies.is_due(1000.0 + SHARE)
    assert world.tallies.is_due(1001.0 + SHARE)
