"""The master's policy as tables of events and the actions that they ask for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from upwell.process.actions import (
    Action,
    Deafen,
    Exit,
    Forget,
    Load,
    Log,
    Renew,
    Reopen,
    Restore,
    Serve,
    Signal,
    Spawn,
    Upgrade,
    Vacate,
)
from upwell.process.supervisor import (
    FIRST_WAIT,
    LAST_WAIT,
    LOOK,
    PATIENCE,
    QUICK,
    START_PATIENCE,
    TERM_GRACE,
    TIMEOUT_GRACE,
    Supervisor,
)


class World:
    """Carries out spawns at once (pids count up from 100) and keeps every action but log lines for the test."""

    def __init__(
        self,
        workers: int = 2,
        timeout: float = 0.0,
        patience: float = 0.0,
        background: bool = True,
        predecessor: bool = False,
    ) -> None:
        self.supervisor = Supervisor(background, predecessor)
        self.patience = patience
        self.pids = itertools.count(100)
        self.place: dict[int, tuple[str, int, int]] = {}
        self.logged: list[str] = []
        self.did: list[Action] = []
        self.now = 0.0
        self.loaded(workers, timeout)

    def take(self, actions: list[Action]) -> list[Action]:
        kept: list[Action] = []
        for action in actions:
            if isinstance(action, Log):
                self.logged.append(action.message)
                continue
            kept.append(action)
            if isinstance(action, Spawn):
                pid = next(self.pids)
                self.place[pid] = (action.kind, action.slot, action.generation)
                spawned = self.supervisor.spawned(
                    pid, action.kind, action.slot, action.generation, self.now, action.seat
                )
                kept += self.take(spawned)
        return kept

    def loaded(self, workers: int = 2, timeout: float = 0.0) -> list[Action]:
        return self.take(self.supervisor.loaded(workers, timeout, self.now, self.patience))

    def ready(self, *pids: int) -> list[Action]:
        return [action for pid in pids for action in self.take(self.supervisor.ready(pid, self.now))]

    def exited(self, pid: int, code: int | None = 0, signal: int | None = None) -> list[Action]:
        return self.take(self.supervisor.exited(pid, code if signal is None else None, signal, self.now))

    def signalled(self, name: str) -> list[Action]:
        return self.take(self.supervisor.signalled(name, self.now))

    def tick(self, seconds: float) -> list[Action]:
        self.now += seconds
        return self.take(self.supervisor.tick(self.now))

    def heard(self, beat: int, seconds: float = LOOK, generation: int = 1, kind: str = "checker") -> list[Action]:
        """`seconds` later all children of this kind have this beat."""
        self.now += seconds
        actions: list[Action] = []
        for one in self.supervisor.watched(self.now):
            if (one.kind, one.generation) == (kind, generation):
                actions += self.supervisor.heard(one.pid, beat, self.now)
        return self.take(actions)

    def worn(self, pid: int) -> list[Action]:
        return self.take(self.supervisor.worn(pid, "is worn", self.now))


def serving(
    workers: int = 2, timeout: float = 0.0, patience: float = 0.0, background: bool = True, predecessor: bool = False
) -> World:
    """A world whose first generation serves: checker 100, workers 101 and on, an hour old."""
    world = World(workers, timeout, patience, background, predecessor)
    world.ready(*world.place)
    world.now = 3600.0
    return world


def test_the_first_generation() -> None:
    world = World(workers=2)
    assert world.place == {100: ("checker", 0, 1), 101: ("worker", 0, 1), 102: ("worker", 1, 1)}
    assert world.logged[0] == "start worker processes"
    assert "start worker process 101" in world.logged
    assert world.ready(100) == []
    assert world.ready(102) == []
    assert world.supervisor.serving == 0
    assert world.ready(101) == [Serve(1)]
    assert world.supervisor.serving == 1


@pytest.mark.parametrize(("pid", "place"), [(100, ("checker", 0, 1)), (101, ("worker", 0, 1)), (102, ("worker", 1, 1))])
def test_the_dead_come_back_at_once(pid: int, place: tuple[Any, int, int]) -> None:
    world = serving()
    assert world.exited(pid, signal=9) == [Spawn(*place)]
    assert any(line.endswith(f"process {pid} exited on signal 9") for line in world.logged)
    assert world.exited(103, code=1) == [Spawn(*place)]


def test_quick_deaths_wait_longer_and_longer() -> None:
    world = serving(workers=1)
    assert world.exited(101, signal=9) == [Spawn("worker", 0, 1)]
    assert world.exited(102, signal=9) == [Spawn("worker", 0, 1)]
    waits = []
    for pid in range(103, 112):
        assert world.exited(pid, signal=9) == []
        deadline = world.supervisor.deadline()
        assert deadline is not None
        waits.append(deadline - world.now)
        assert world.tick(waits[-1] - 0.001) == []
        assert world.tick(0.001) == [Spawn("worker", 0, 1)]
    assert waits == pytest.approx([FIRST_WAIT * 2**n for n in range(6)] + [LAST_WAIT] * 3)
    assert waits[1] <= 1.0
    world.now += 1.0
    assert world.exited(112, signal=9) == [Spawn("worker", 0, 1)]


def test_a_failing_worker_does_not_hold_up_its_neighbours() -> None:
    world = serving(workers=2)
    for pid in (101, 103, 104):
        world.exited(pid, signal=9)
    assert world.exited(102, signal=9) == [Spawn("worker", 1, 1)]


def test_a_process_that_cannot_be_made_is_tried_again() -> None:
    world = serving(workers=1)
    assert Spawn("worker", 0, 1) in world.supervisor.exited(101, None, 9, world.now)
    assert world.take(world.supervisor.not_spawned("worker", 0, 1, world.now)) == []
    assert world.tick(FIRST_WAIT) == [Spawn("worker", 0, 1)]


def test_fatal_start_errors_are_not_tried_again() -> None:
    world = serving(workers=2)
    assert world.exited(101, code=2) == []
    assert "worker process 101 exited with fatal code 2 and cannot be respawned" in world.logged
    assert world.supervisor.deadline() is None
    assert world.exited(102, code=2) == [Signal(100, "TERM")]
    assert world.exited(100) == [Exit(1)]


def test_a_start_that_fails_for_want_of_something_is_tried_again_where_it_has_served() -> None:
    """Who cannot start in a new configuration may never do so: there it is as fatal as any other reason."""
    world = serving(workers=1)
    assert world.exited(101, signal=9) == [Spawn("worker", 0, 1)]
    world.now += QUICK
    assert world.exited(102, code=3) == [Spawn("worker", 0, 1)]
    world.now += QUICK  # it takes its time to fail
    assert world.exited(103, code=3) == []
    assert world.tick(FIRST_WAIT) == [Spawn("worker", 0, 1)]
    world.ready(104)
    world.loaded(workers=1)
    assert world.exited(106, code=3) == [Serve(1), Signal(105, "TERM")]


def test_a_checker_is_never_given_up() -> None:
    world = serving(workers=1)
    assert world.exited(100, code=2) == [Spawn("checker", 0, 1)]
    assert world.exited(102, code=2) == [Spawn("checker", 0, 1)]
    assert world.exited(103, code=2) == []
    assert world.tick(FIRST_WAIT) == [Spawn("checker", 0, 1)]


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_fast_stop(name: str) -> None:
    world = serving()
    assert world.signalled(name) == [Signal(100, "TERM"), Signal(101, "TERM"), Signal(102, "TERM")]
    assert f"({'SIG' + name}) received, exiting" in world.logged[-1]
    assert world.exited(101) == []
    assert world.exited(100, signal=15) == []
    assert world.tick(TERM_GRACE) == [Signal(102, "KILL")]
    assert world.exited(102, signal=9) == [Exit(0)]


def test_graceful_stop_waits_for_workers_but_not_for_the_checker() -> None:
    world = serving()
    assert world.signalled("QUIT") == [Signal(100, "TERM"), Signal(101, "QUIT"), Signal(102, "QUIT"), Deafen()]
    assert world.exited(100) == []
    assert world.tick(86400.0) == []
    assert world.signalled("HUP") == []
    assert world.exited(101) == []
    assert world.exited(102) == [Exit(0)]


def test_graceful_stop_can_be_cut_short() -> None:
    world = serving(workers=1)
    world.signalled("QUIT")
    assert world.signalled("QUIT") == []
    assert Signal(101, "TERM") in world.signalled("TERM")
    assert Signal(101, "KILL") in world.tick(TERM_GRACE)


def test_worker_shutdown_timeout_bounds_a_graceful_stop() -> None:
    world = serving(workers=1, timeout=5.0)
    world.signalled("QUIT")
    world.exited(100)
    assert world.tick(5.0) == []
    assert world.tick(TIMEOUT_GRACE) == [Signal(101, "KILL")]


def test_stop_during_a_wait_ends() -> None:
    world = World(workers=1)
    for pid in (101, 102):
        world.exited(pid, signal=9)
    world.signalled("TERM")
    assert world.exited(100) == [Exit(0)]
    assert world.supervisor.deadline() is None


def test_reload() -> None:
    world = serving(workers=1)
    assert world.signalled("HUP") == [Load()]
    assert world.logged[-2:] == ["signal 1 (SIGHUP) received, reconfiguring", "reconfiguring"]
    assert world.loaded(workers=2) == [Spawn("checker", 0, 2), Spawn("worker", 0, 2), Spawn("worker", 1, 2)]
    assert world.ready(103, 102) == []
    assert world.ready(104) == [Serve(2), Signal(100, "TERM"), Signal(101, "QUIT")]
    assert world.exited(100) == []
    assert world.exited(101) == [Vacate(0, 1, 0), Forget(1)]  # nothing is open there any more, however it ended
    assert world.exited(103, signal=9) == [Spawn("worker", 0, 2)]


def test_a_bad_configuration_changes_nothing() -> None:
    world = serving(workers=1)
    world.signalled("HUP")
    assert world.take(world.supervisor.failed()) == []
    assert world.exited(101, signal=9) == [Spawn("worker", 0, 1)]


def test_a_worker_that_dies_before_the_hand_over_comes_back_and_is_waited_for() -> None:
    world = serving(workers=1)
    world.loaded(workers=2)
    assert world.ready(103) == []
    assert world.exited(103, signal=9) == [Spawn("worker", 0, 2)]
    assert world.ready(104) == []
    assert world.ready(105)[0] == Serve(2)


def test_a_new_generation_that_cannot_start_is_dropped_before_the_first_one_serves() -> None:
    world = World(workers=1)
    assert world.supervisor.current == 1
    world.loaded(workers=1)
    assert world.supervisor.current == 2
    assert world.exited(103, code=2) == [Signal(102, "TERM")]
    assert world.logged[-1] == "the new configuration could not be started, the old one goes on"
    assert world.supervisor.current == 1
    assert world.ready(101) == [Serve(1)]
    assert world.exited(102) == [Forget(2)]


def test_nobody_is_said_to_go_on_who_was_sent_away() -> None:
    world = serving(workers=1)
    world.signalled("WINCH")
    world.signalled("HUP")
    world.loaded(workers=1)
    assert world.exited(103, code=2) == [Serve(1), Signal(102, "TERM")]
    assert world.logged[-1] == "the new configuration could not be started, nobody serves until a reload can be"
    world.loaded(workers=1)
    assert world.ready(105)[0] == Serve(3)


def test_an_old_generation_that_cannot_start_makes_way_for_the_one_that_follows() -> None:
    world = World(workers=1)
    world.loaded(workers=1)
    assert world.exited(101, code=2) == [Signal(100, "TERM")]
    assert world.logged[-1] == "the old configuration could not be started, the new one follows"
    assert world.exited(100) == [Forget(1)]
    assert world.ready(103) == [Serve(2)]


def test_a_generation_without_workers_waits_for_the_one_that_follows() -> None:
    world = serving(workers=1)
    world.loaded(workers=1)
    assert world.exited(101, code=2) == []
    assert world.ready(103)[0] == Serve(2)


@pytest.mark.parametrize("ready_first", [False, True])
def test_the_first_generation_serves_with_the_workers_that_can_start(ready_first: bool) -> None:
    world = World(workers=2)
    if ready_first:
        assert world.ready(101) == []
        assert world.exited(102, code=2) == [Serve(1)]
    else:
        assert world.exited(102, code=2) == []
        assert world.ready(101) == [Serve(1)]


def test_two_generations_of_which_none_can_start_end_the_master() -> None:
    world = World(workers=1)
    world.loaded(workers=1)
    assert world.exited(103, code=2) == [Signal(102, "TERM")]
    assert world.exited(101, code=2) == [Signal(100, "TERM"), Signal(102, "TERM")]
    assert world.exited(102) == [Forget(2)]
    assert world.exited(100) == [Exit(1)]


def test_a_new_generation_that_cannot_start_is_dropped() -> None:
    world = serving(workers=1)
    world.loaded(workers=1)
    assert world.exited(103, code=2) == [Serve(1), Signal(102, "TERM")]
    assert world.exited(102) == [Forget(2)]
    assert world.supervisor.serving == 1
    assert world.exited(101, signal=9) == [Spawn("worker", 0, 1)]
    world.loaded(workers=1)
    assert world.supervisor.newest == 3
    assert world.ready(106)[0] == Serve(3)


def test_reload_during_a_reload_retires_both() -> None:
    world = serving(workers=1)
    world.loaded(workers=1)
    world.loaded(workers=1)
    assert world.ready(105) == [
        Serve(3),
        Signal(100, "TERM"),
        Signal(101, "QUIT"),
        Signal(102, "TERM"),
        Signal(103, "QUIT"),
    ]
    # The middle one's workers report too late; that must not bring it back.
    assert world.ready(103) == []
    assert world.supervisor.serving == 3


def test_the_old_generation_is_ended_after_its_own_timeout() -> None:
    world = serving(workers=1, timeout=2.0)
    world.loaded(workers=1, timeout=60.0)
    world.ready(103)
    world.exited(100)
    assert world.tick(2.0 + TIMEOUT_GRACE) == [Signal(101, "KILL")]
    assert world.exited(101, signal=9) == [Vacate(0, 1, 0), Forget(1)]


def test_a_retired_generation_is_not_filled_again() -> None:
    world = serving(workers=2)
    world.loaded(workers=1)
    world.ready(104)
    assert world.exited(101, signal=9) == [Vacate(0, 1, 0)]
    assert world.exited(100) == []
    assert world.exited(102, signal=11) == [Vacate(1, 1, 0), Forget(1)]


def test_reopen() -> None:
    world = serving(workers=1)
    assert world.signalled("USR1") == [Reopen(), Signal(100, "USR1"), Signal(101, "USR1")]


@pytest.mark.parametrize(("name", "number"), [("USR2", 12), ("WINCH", 28)])
def test_what_another_master_would_take_over_is_refused_in_the_foreground(name: str, number: int) -> None:
    world = serving(workers=1, background=False)
    assert world.signalled(name) == []
    assert world.logged[-1].startswith(f"signal {number} (SIG{name}) received, ignoring: in the foreground")
    assert world.exited(101, signal=9) == [Spawn("worker", 0, 1)]


def upgraded(workers: int = 1) -> World:
    """A world whose successor runs as 999."""
    world = serving(workers)
    assert world.signalled("USR2") == [Upgrade()]
    assert world.logged[-2:] == ["signal 12 (SIGUSR2) received, changing binary", "changing binary"]
    assert world.take(world.supervisor.upgrading(999)) == []
    assert world.logged[-1] == "start new binary process 999"
    return world


def test_an_upgrade_changes_nothing_here() -> None:
    world = upgraded()
    assert world.supervisor.successor == 999
    assert world.exited(101, signal=9) == [Spawn("worker", 0, 1)]
    world.ready(102)
    assert world.signalled("QUIT") == [Signal(100, "TERM"), Signal(102, "QUIT"), Deafen()]
    world.exited(100)
    assert world.exited(102) == [Exit(0)]
    assert world.supervisor.successor == 999


def test_one_upgrade_at_a_time() -> None:
    world = upgraded()
    assert world.signalled("USR2") == []
    assert world.logged[-2] == "signal 12 (SIGUSR2) received, ignoring"
    assert "the changing binary signal is ignored" in world.logged[-1]
    world = serving(predecessor=True)
    assert world.signalled("USR2") == []
    assert world.take(world.supervisor.predecessor_gone()) == []
    assert world.signalled("USR2") == [Upgrade()]


def test_an_upgrade_that_could_not_begin_can_be_tried_again() -> None:
    world = serving()
    world.signalled("USR2")
    assert world.take(world.supervisor.not_upgraded()) == []
    assert world.signalled("USR2") == [Upgrade()]


def test_winch_lets_the_workers_leave_and_fills_no_slot() -> None:
    world = upgraded(workers=2)
    assert world.signalled("WINCH") == [Signal(100, "TERM"), Signal(101, "QUIT"), Signal(102, "QUIT")]
    assert world.exited(100) == []
    assert [world.exited(pid) for pid in (101, 102)] == [[Vacate(0, 1, 0)], [Vacate(1, 1, 0)]]
    assert world.tick(3600.0) == []
    assert world.supervisor.deadline() is None
    assert world.signalled("QUIT") == [Deafen(), Exit(0)]


def test_winch_forgets_a_spawn_that_waits() -> None:
    world = serving(workers=1)
    for pid in (101, 102, 103):
        world.exited(pid, signal=9)
    assert world.supervisor.deadline() is not None
    world.signalled("WINCH")
    world.exited(100)
    assert world.supervisor.deadline() is None
    assert world.tick(3600.0) == []


def test_hup_brings_the_workers_back_without_reading_what_the_other_master_reads() -> None:
    world = upgraded()
    world.signalled("WINCH")
    assert world.signalled("HUP") == [Renew()]
    assert world.loaded(workers=1) == [Spawn("checker", 0, 2), Spawn("worker", 0, 2)]
    assert world.exited(100, signal=15) == []
    # The old worker may still have a long answer under way.
    assert world.ready(103) == [Serve(2)]
    assert world.exited(101) == [Vacate(0, 1, 0), Forget(1)]
    assert world.exited(103, signal=9) == [Spawn("worker", 0, 2)]
    assert world.signalled("HUP") == [Load()]


def test_hup_after_winch_alone_reads_the_configuration() -> None:
    world = serving(workers=1)
    world.signalled("WINCH")
    assert world.signalled("HUP") == [Load()]
    world.take(world.supervisor.failed())
    world.exited(100)
    world.exited(101)
    assert world.tick(10.0) == []
    world.signalled("HUP")
    world.loaded(workers=1)
    assert world.ready(103)[0] == Serve(2)


def test_the_end_of_the_new_master_brings_the_old_one_back() -> None:
    world = upgraded()
    assert world.exited(999, code=1) == [Restore()]
    assert "new binary process 999 exited with code 1" in world.logged
    assert world.supervisor.successor == 0
    assert world.signalled("USR2") == [Upgrade()]
    world.take(world.supervisor.upgrading(998))
    world.signalled("WINCH")
    assert world.exited(998, signal=9) == [Restore(), Renew()]
    assert "new binary process 998 exited on signal 9" in world.logged


def test_a_new_master_that_ends_during_a_stop_brings_nothing_back() -> None:
    world = upgraded()
    world.signalled("WINCH")
    world.signalled("QUIT")
    assert world.exited(999, code=0) == [Restore()]


@pytest.mark.parametrize("name", ["HUP", "USR2", "WINCH"])
def test_a_stop_is_not_turned_round(name: str) -> None:
    world = serving(workers=1)
    world.signalled("QUIT")
    assert world.signalled(name) == []
    assert world.logged[-1].endswith("received, ignoring")


def test_a_worn_worker_leaves_when_the_next_one_is_ready() -> None:
    world = serving(workers=2)
    assert world.worn(101) == [Spawn("worker", 0, 1, 1)]
    assert "worker process 101 is worn, it is replaced" in world.logged
    assert world.worn(101) == []
    assert world.worn(102) == []
    assert world.ready(103) == [Signal(101, "QUIT")]
    # The other one's turn: the slot of the first is served.
    assert world.worn(102) == [Spawn("worker", 1, 1, 1)]
    # The first seat of slot 0 is taken until its long download is over.
    world.ready(104)
    assert world.worn(103) == []
    assert world.exited(101) == [Vacate(0, 1, 0)]
    assert world.worn(103) == [Spawn("worker", 0, 1, 0)]
    assert world.ready(105) == [Signal(103, "QUIT")]


def test_a_worker_that_dies_while_the_next_one_starts_is_not_replaced_twice() -> None:
    world = serving(workers=1)
    world.worn(101)
    assert world.exited(101, signal=9) == [Vacate(0, 1, 0)]
    assert world.ready(102) == []
    assert world.exited(102, signal=9) == [Spawn("worker", 0, 1, 1)]


def test_a_worn_worker_goes_on_until_another_one_can_start() -> None:
    world = serving(workers=1)
    world.worn(101)
    assert world.exited(102, code=1) == [Spawn("worker", 0, 1, 1)]
    assert world.exited(103, code=1) == []
    assert world.worn(101) == []
    assert world.tick(FIRST_WAIT) == [Spawn("worker", 0, 1, 1)]
    assert world.exited(104, code=2) == []
    assert "worker process 101 goes on in spite of its limit" in world.logged
    assert world.worn(101) == []
    assert world.exited(101, signal=9) == [Spawn("worker", 0, 1, 0)]


def test_a_worn_worker_whose_successor_cannot_be_made_goes_on_in_its_seat() -> None:
    world = serving(workers=1)
    assert Spawn("worker", 0, 1, 1) in world.supervisor.worn(101, "is worn", world.now)
    assert world.take(world.supervisor.not_spawned("worker", 0, 1, world.now)) == []
    assert world.tick(LAST_WAIT) == []
    assert world.worn(101) == [Spawn("worker", 0, 1, 1)]


def test_a_worn_worker_that_is_to_end_anyhow_is_not_replaced() -> None:
    world = serving(workers=1)
    world.signalled("WINCH")
    assert world.worn(101) == []
    world = serving(workers=1)
    world.loaded(workers=1)
    assert world.worn(103) == []  # it does not serve yet
    world.ready(103)
    assert world.worn(101) == []
    assert world.worn(9) == []


def test_a_reload_while_a_worker_is_replaced_ends_both() -> None:
    world = serving(workers=1)
    world.worn(101)
    world.loaded(workers=1)
    assert world.ready(104) == [Serve(2), Signal(100, "TERM"), Signal(101, "QUIT"), Signal(102, "QUIT")]
    assert world.ready(102) == []
    for pid in (100, 101):
        world.exited(pid)
    assert world.exited(102) == [Vacate(0, 1, 1), Forget(1)]


def test_a_hung_worker_is_killed_and_replaced_at_once() -> None:
    world = serving(workers=1, patience=5.0)
    assert [world.heard(7, kind="worker") for _ in range(5)] == [[]] * 5
    assert world.heard(7, kind="worker") == [Signal(101, "KILL"), Spawn("worker", 0, 1)]
    assert (
        "worker process 101 has given no sign of life for 5 seconds or more, it is killed and replaced" in world.logged
    )
    assert world.exited(101, signal=9) == []
    # One that starts is not watched: init_worker may load a lot.
    assert [world.heard(7, kind="worker") for _ in range(100)] == [[]] * 100
    world.ready(102)
    assert [world.heard(beat, kind="worker") for beat in range(100)] == [[]] * 100


def test_no_patience_is_patience_without_end() -> None:
    world = serving(workers=1, patience=0.0)
    assert [world.heard(7, kind="worker") for _ in range(1000)] == [[]] * 1000


def test_a_worker_that_hangs_while_it_leaves_is_killed_and_not_replaced() -> None:
    world = serving(workers=1, patience=3.0)
    world.loaded(workers=1)
    world.ready(103)
    assert [world.heard(7, kind="worker") for _ in range(4)] == [[], [], [], [Signal(101, "KILL")]]
    assert world.logged[-1].endswith("it is killed")
    world = serving(workers=1, patience=3.0)
    world.signalled("QUIT")
    assert [world.heard(7, kind="worker") for _ in range(4)][-1] == [Signal(101, "KILL")]
    world.exited(100)
    assert world.exited(101, signal=9) == [Exit(0)]


def test_news_of_strangers_is_no_news() -> None:
    world = serving(workers=1)
    assert world.ready(9) == []
    assert world.exited(9) == []


STUCK = [Signal(100, "KILL"), Spawn("checker", 0, 1)]


def test_a_checker_that_beats_is_left_alone() -> None:
    world = serving()
    assert [world.heard(beat) for beat in range(1, 100)] == [[]] * 99


def test_a_stuck_checker_is_killed_and_replaced_at_once() -> None:
    world = serving()
    assert [world.heard(7) for _ in range(PATIENCE)] == [[]] * PATIENCE  # the first look only learns the beat
    assert world.heard(7) == STUCK
    assert "checker process 100 has given no sign of life for 10 seconds or more, it is killed and replaced" in (
        world.logged
    )
    # It hangs in the system and ends late: the one that took its place (103) stays.
    assert [world.heard(beat) for beat in range(8, 30)] == [[]] * 22
    assert world.exited(100, signal=9) == []
    assert world.supervisor.deadline() is None
    assert world.exited(103, signal=9) == [Spawn("checker", 0, 1)]


def test_a_replacement_that_gets_stuck_is_replaced_too() -> None:
    world = serving()
    while world.heard(7) != STUCK:
        pass
    world.exited(100, signal=9)
    world.ready(103)
    actions = [world.heard(7) for _ in range(PATIENCE + 1)]
    assert actions[-1] == [Signal(103, "KILL"), Spawn("checker", 0, 1)]
    assert actions[:-1] == [[]] * PATIENCE


def test_one_beat_in_time_is_enough() -> None:
    world = serving()
    for beat in range(1, 5):
        assert [world.heard(beat) for _ in range(PATIENCE)] == [[]] * PATIENCE


def test_looks_are_counted_not_seconds() -> None:
    """A machine that stood still, or a master that was late, sees an old beat without anybody being stuck."""
    world = serving()
    assert world.heard(7) == []
    assert world.heard(7, 86400.0) == []
    assert world.heard(7, 86400.0) == []
    assert world.heard(8) == []
    # Nor does a master that is woken often count faster.
    assert [world.heard(8, LOOK / 100) for _ in range(50 * PATIENCE)] == [[]] * 50 * PATIENCE


def test_a_checker_that_starts_has_more_time() -> None:
    world = World(workers=1)
    actions = [world.heard(0) for _ in range(START_PATIENCE)]
    assert actions == [*[[]] * (START_PATIENCE - 1), STUCK]
    assert World(workers=1).heard(0, generation=2) == []


def test_a_checker_that_is_to_end_is_not_watched() -> None:
    world = serving()
    world.signalled("TERM")
    assert [world.heard(7) for _ in range(2 * PATIENCE)] == [[]] * 2 * PATIENCE
    world = serving(workers=1)
    world.loaded(workers=1)
    world.ready(103)
    assert [world.heard(7) for _ in range(2 * PATIENCE)] == [[]] * 2 * PATIENCE
    assert world.heard(7, generation=2) == []


def test_a_stop_reaches_a_stuck_checker_too() -> None:
    world = serving(workers=1)
    while not world.heard(7):
        pass
    assert world.signalled("TERM") == [Signal(100, "TERM"), Signal(101, "TERM"), Signal(102, "TERM")]
    for pid in (101, 102):
        world.exited(pid)
    assert world.exited(100, signal=9) == [Exit(0)]
