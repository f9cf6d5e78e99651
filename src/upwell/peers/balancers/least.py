"""The peer with the least of something for its weight, those that have equally little in turn: nginx's `least_conn`.

nginx (ngx_http_upstream_least_conn_module.c) walks over all peers twice at each pick: for the least ratio, and then
one round of smooth weighted round robin among those that share it. Here the same peers come out of heaps. A round adds
its weight to each peer of one ratio, so it is one tick of a clock that they share, and among peers of one weight their
order stays as it is until one of them leaves. A pick or a release moves a single peer; tests hold it to nginx's walk.

Peers with a weight of the moment (after a failure, or while they start slowly) are few and are walked over.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush
from math import floor
from operator import attrgetter
from typing import Final

from upwell.peers.balancers.balancer import chosen, moderate
from upwell.peers.live import Peer, look
from upwell.peers.passive import full, suspended
from upwell.peers.slow_start import share

_everywhere: Final = attrgetter("everywhere")
_weight: Final = attrgetter("weight")

# The states of a seat that has no place in a heap, and of one that has.
_OUT: Final = 0  # not among those that may get requests
_MOVED: Final = -1  # to be placed before the next pick
_FULL: Final = -2  # has its `max_conns`
_ODD: Final = -3  # walked over
_SEATED: Final = 1

_SHIFT: Final = 22  # an entry of a heap is lack << _SHIFT | order: a number is compared in a tenth of a tuple's time
_ORDER: Final = (1 << _SHIFT) - 1
_push: Final = heappush
_pop: Final = heappop

_LOOKS: Final = 4  # candidates that other workers may have filled meanwhile, before one is taken as it is


class _Level:
    """The peers of one ratio. `clock` counts the rounds among them, `total` is the sum of their weights; it is `listed`
    while its ratio is in the heap of ratios."""

    __slots__ = ("clock", "listed", "pots", "ratio", "total")

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.clock = 0
        self.total = 0
        self.listed = False
        self.pots: list[_Pot] = []


class _Pot:
    """Those of one weight: a heap of lacks and orders, and how many of them are still here. An entry is true as long as
    the seat of that order is here with that lack; it may stand there twice.
    """

    __slots__ = ("count", "heap", "level", "weight")

    def __init__(self, level: _Level, weight: int) -> None:
        self.level = level
        self.weight = weight
        self.count = 0
        self.heap: list[int] = []


_NOWHERE: Final = _Pot(_Level(0.0), 0)


class _Seat:
    """Where one peer is. `order` grows as in the configuration; `pots` are those of its weight by their ratios. While
    it is in one (`pot`), its `current_weight` is weight * clock - lack."""

    __slots__ = ("lack", "order", "part", "peer", "pot", "pots", "state", "weight")

    def __init__(self, peer: Peer, order: int, pots: dict[float, _Pot]) -> None:
        self.peer = peer
        self.order = order
        self.weight = peer.weight
        self.pots = pots
        self.state = _OUT
        self.lack = 0
        self.part = 0.0  # of 1, what its credit is above `current_weight`: a slow start goes by parts of weights
        self.pot = _NOWHERE

    def add(self, credit: float) -> None:
        exact = self.part + credit
        whole = floor(exact)
        self.peer.current_weight += whole
        self.part = exact - whole


class Least:
    """A balancer; a subclass says of what (`_ratio`).

    Where a ratio may become another without a pick or a release, whoever is next is looked at once more before it is
    chosen, and one other peer in turn: with `lapses` those that were not picked for their `fail_timeout`, where it is
    `restless` or there are other workers all of them.
    """

    __slots__ = (
        "_at",
        "_full",
        "_here",
        "_lapses",
        "_levels",
        "_moved",
        "_odd",
        "_peers",
        "_pots",
        "_ratios",
        "_reach",
        "_restless",
        "_seat_of",
        "_seats",
        "_shaky",
        "watches",
    )

    def __init__(self, lapses: bool = False, restless: bool = False) -> None:
        self.watches = True
        self._lapses = lapses
        self._restless = restless
        self._shaky = restless  # or shared with other workers
        self._peers: Sequence[Peer] = ()
        self._here: frozenset[Peer] = frozenset()
        self._seat_of: dict[Peer, _Seat] = {}
        self._seats: list[_Seat] = []  # by order, those of peers that left included
        self._moved: list[_Seat] = []
        self._odd: list[_Seat] = []
        self._full: list[_Seat] = []  # may hold some that are not any more
        self._levels: dict[float, _Level] = {}
        self._pots: dict[int, dict[float, _Pot]] = {}  # by weight, by ratio
        self._ratios: list[float] = []  # a heap of the ratios of all levels with somebody, and of some without
        self._at = 0  # whom to look at next
        self._reach = 0  # the most that the weights of all were together since they were moderated

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._here)} peers>"

    def _ratio(self, peer: Peer, now: float) -> float:
        """How much it has; equal rationals must be equal here (they are, as quotients of numbers below 2 ** 26)."""
        raise NotImplementedError

    def _ratio_at(self, peer: Peer, part: float, now: float) -> float:
        """The same for one that begins, and may have `part` of its share by now: what is under way there counts for
        more. One that has nothing is not worse off: it is by the turns that it gets little."""
        raise NotImplementedError

    def rebuild(self, peers: Sequence[Peer], up: Sequence[Peer]) -> None:
        if peers is not self._peers:
            self._follow(peers)
            self._peers = peers
        here = frozenset(up)
        for peer in here ^ self._here:
            seat = self._seat_of.get(peer)
            if seat is None:
                continue
            if peer in here:
                seat.state = _MOVED
                self._moved.append(seat)
            else:
                self._take_out(seat)
        self._here = here

    def pick(self, key: bytes | None, tried: Collection[Peer], now: float) -> Peer | None:
        moved = self._moved
        if moved:
            for seat in moved:
                if seat.state == _MOVED:
                    self._place(seat, now)
            moved.clear()
        if tried or self._odd:
            return self._pick_among(tried, now)
        first = self._surely(now) if self._lapses or self._shaky else self._first()
        if first is None:
            return None
        peer = first.peer
        pot = first.pot
        level = pot.level
        weight = first.weight
        total = level.total
        if total > weight:
            clock = level.clock = level.clock + 1
            peer.current_weight = weight * clock - first.lack - total
        else:
            peer.current_weight = weight * level.clock - first.lack
        _pop(pot.heap)
        pot.count -= 1
        level.total = total - weight
        first.state = _MOVED
        first.pot = _NOWHERE
        moved.append(first)
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now
        return peer

    def bound(self, peer: Peer, key: bytes | None, tried: Collection[Peer], now: float) -> None:
        seat = self._seat_of.get(peer)
        if seat is not None and seat.state > 0:
            self._leave(seat)
        if now - peer.checked > peer.fail_timeout:
            peer.checked = now

    def settle(self) -> None:
        for seat in self._seats:
            if seat.state > 0:
                seat.peer.current_weight = seat.weight * seat.pot.level.clock - seat.lack

    def set_aside(self, peers: Collection[Peer]) -> None:
        self.settle()

    def unsettle(self, peer: Peer) -> None:
        """The peer begins anew (`started`) or has failed elsewhere (`fails`): it is placed before the next pick."""
        seat = self._seat_of.get(peer)
        if seat is not None and seat.state > 0:
            self._leave(seat)

    def released(self, peer: Peer) -> None:
        seat = self._seat_of.get(peer)
        if seat is None:
            return
        if seat.state > 0:
            self._leave(seat)
        elif seat.state == _FULL:
            seat.state = _MOVED
            self._moved.append(seat)

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None: ...

    def _follow(self, peers: Sequence[Peer]) -> None:
        """The peers are others, or have other weights."""
        whole = sum(map(_weight, peers))
        if whole * 2 < self._reach:
            self._moderate(peers, whole)
            self._reach = 0
        self._reach = max(self._reach, whole)
        known = self._seat_of
        get = known.get
        # Few things in few steps of the interpreter, as there may be many peers.
        seats = list(map(get, peers))
        fresh = [peer for peer, seat in zip(peers, seats, strict=True) if seat is None]
        orders = [seat.order for seat in seats if seat is not None]
        if orders != sorted(orders) or None in seats[: len(orders)]:
            self._seat_anew(peers)
            return
        for seat, peer in zip(seats, peers, strict=False):
            if seat is not None and (seat.weight != peer.weight or peer.max_conns):
                self._change(seat)
        for seat in [seat for seat in self._full if seat.state == _FULL]:
            # Its `max_conns` may be another one.
            seat.state = _MOVED
            self._moved.append(seat)
        if len(orders) < len(known):
            there = frozenset(peers)
            left = known.keys() - there
            for peer in left:
                self._take_out(known.pop(peer))
            self._here -= left
            if len(self._seats) > 2 * len(peers) + 64:
                self._seat_anew(peers)
                return
        for peer in fresh:
            seat = _Seat(peer, len(self._seats), self._pots.setdefault(peer.weight, {}))
            self._seats.append(seat)
            known[peer] = seat
        self._consider(peers)

    def _moderate(self, peers: Sequence[Peer], whole: int) -> None:
        """`moderate`, whoever sits where: the heaps are made again, as credits that differed may be the same now."""
        self.settle()
        moderate(peers, whole)
        seated = [seat for seat in self._seats if seat.state > 0]
        for seat in seated:
            seat.pot.heap.clear()
        for seat in seated:
            pot = seat.pot
            seat.lack = seat.weight * pot.level.clock - seat.peer.current_weight
            pot.heap.append(seat.lack << _SHIFT | seat.order)
        for level in self._levels.values():
            for pot in level.pots:
                heapify(pot.heap)

    def _change(self, seat: _Seat) -> None:
        """Its weight or its `max_conns` may be another one."""
        peer = seat.peer
        if seat.weight != peer.weight:
            if seat.state > 0:
                self._leave(seat)
            seat.weight = peer.weight
            seat.pots = self._pots.setdefault(peer.weight, {})
        if seat.state > 0 and peer.max_conns and full(peer):
            self._leave(seat)

    def _seat_anew(self, peers: Sequence[Peer]) -> None:
        for seat in self._seats:
            self._take_out(seat)
        self._here = frozenset()
        pots = self._pots = {peer.weight: {} for peer in peers}
        self._seats = [_Seat(peer, order, pots[peer.weight]) for order, peer in enumerate(peers)]
        self._seat_of = {seat.peer: seat for seat in self._seats}
        self._levels = {}
        self._ratios = []
        self._moved = []
        self._full = []
        self._consider(peers)

    def _consider(self, peers: Sequence[Peer]) -> None:
        self._shaky = self._restless or any(map(_everywhere, peers))

    def _take_out(self, seat: _Seat) -> None:
        if seat.state > 0:
            self._leave(seat)
        elif seat.state == _ODD:
            self._odd.remove(seat)
        seat.state = _OUT

    def _leave(self, seat: _Seat) -> None:
        """Take it from the others of its ratio, with the credit that it has."""
        pot = seat.pot
        level = pot.level
        weight = seat.weight
        seat.peer.current_weight = weight * level.clock - seat.lack
        count = pot.count = pot.count - 1
        level.total -= weight
        seat.state = _MOVED
        seat.pot = _NOWHERE
        self._moved.append(seat)
        heap = pot.heap
        if len(heap) > 2 * count + 64:
            seats = self._seats
            true = {
                entry for entry in heap if (one := seats[entry & _ORDER]).pot is pot and one.lack == entry >> _SHIFT
            }
            heap[:] = true
            heapify(heap)

    def _is_odd(self, peer: Peer, now: float) -> bool:
        if peer.fails or peer.effective_weight != peer.weight:
            return True
        return peer.started > 0.0 and now - peer.started < peer.spec.slow_start

    def _place(self, seat: _Seat, now: float) -> None:
        peer = seat.peer
        weight = seat.weight
        if (peer.fails or peer.effective_weight != weight or peer.started > 0.0) and self._is_odd(peer, now):
            seat.state = _ODD
            self._odd.append(seat)
            return
        if peer.everywhere is not None:
            look(peer)
        if peer.max_conns and full(peer):
            seat.state = _FULL
            self._full.append(seat)
            if len(self._full) > 2 * len(self._seats) + 64:
                self._full = [seat for seat in dict.fromkeys(self._full) if seat.state == _FULL]
            return
        ratio = self._ratio(peer, now)
        pot = seat.pots.get(ratio)
        if pot is None:
            pot = self._add_pot(ratio, seat)
        level = pot.level
        if not level.listed:
            level.listed = True
            _push(self._ratios, ratio)
        level.total += weight
        pot.count += 1
        lack = weight * level.clock - peer.current_weight
        seat.lack = lack
        seat.pot = pot
        seat.state = _SEATED
        _push(pot.heap, lack << _SHIFT | seat.order)

    def _add_pot(self, ratio: float, seat: _Seat) -> _Pot:
        if len(self._levels) > 4 * len(self._seats) + 256:
            self._levels = {ratio: level for ratio, level in self._levels.items() if level.listed}
            for pots in self._pots.values():
                for other in [other for other, pot in pots.items() if not pot.level.listed]:
                    del pots[other]
        level = self._levels.get(ratio)
        if level is None:
            level = self._levels[ratio] = _Level(ratio)
        pot = seat.pots[ratio] = _Pot(level, seat.weight)
        level.pots.append(pot)
        return pot

    def _first(self) -> _Seat | None:
        """Who is next among those that are seated."""
        ratios = self._ratios
        while True:
            if not ratios:
                return None
            level = self._levels[ratios[0]]
            if level.total:
                break
            level.listed = False
            _pop(ratios)
        best: _Seat | None = None
        most = 0
        seats = self._seats
        pots = level.pots
        if len(pots) == 1:
            pot = pots[0]
            heap = pot.heap
            while True:
                entry = heap[0]
                seat = seats[entry & _ORDER]
                if seat.pot is pot and seat.lack == entry >> _SHIFT:
                    return seat
                _pop(heap)
        for pot in pots:
            if not pot.count:
                continue
            heap = pot.heap
            entry = heap[0]
            seat = seats[entry & _ORDER]
            while seat.pot is not pot or seat.lack != entry >> _SHIFT:
                _pop(heap)
                entry = heap[0]
                seat = seats[entry & _ORDER]
            credit = pot.weight * (level.clock + 1) - seat.lack
            if best is None or credit > most or (credit == most and seat.order < best.order):
                best = seat
                most = credit
        return best

    def _surely(self, now: float) -> _Seat | None:
        """The same where ratios may have changed meanwhile."""
        seats = self._seats
        if not seats:
            return None
        at = self._at + 1
        if at >= len(seats):
            at = 0
        self._at = at
        seat = seats[at]
        peer = seat.peer
        if seat.state > 0:
            if peer.dated or peer.everywhere is not None or now - peer.checked > peer.fail_timeout:
                self._has_moved(seat, now)
        elif seat.state == _FULL and not full(peer):
            self._place(seat, now)
        first = self._first()
        looks = 0
        while first is not None and looks < _LOOKS:
            looks += 1
            peer = first.peer
            if not (peer.dated or peer.everywhere is not None or now - peer.checked > peer.fail_timeout):
                return first
            if not self._has_moved(first, now):
                return first
            first = self._first()
        if first is None and self._full:
            waiting = self._full
            self._full = []
            for seat in waiting:
                if seat.state == _FULL:
                    self._place(seat, now)
            first = self._first()
        return first

    def _has_moved(self, seat: _Seat, now: float) -> bool:
        """Whether its ratio is another one by now; it is there then."""
        peer = seat.peer
        before = peer.elsewhere
        look(peer)
        if peer.elsewhere == before and not (self._restless or self._lapses or peer.max_conns):
            return False
        if self._ratio(peer, now) == seat.pot.level.ratio and not (peer.max_conns and full(peer)):
            return False
        self._leave(seat)
        self._moved.pop()
        self._place(seat, now)
        return True

    def _pick_among(self, tried: Collection[Peer], now: float) -> Peer | None:
        """The same with those walked over that must be, and without those that were tried."""
        for peer in tried:
            out = self._seat_of.get(peer)
            if out is None:
                continue
            if out.state > 0:
                self._leave(out)
            elif out.state == _FULL:
                # Else it might be placed below, if another worker has made room meanwhile.
                out.state = _MOVED
                self._moved.append(out)
        odd = self._odd
        self._odd = []
        fit: list[_Seat] = []
        for seat in odd:
            peer = seat.peer
            if self._is_odd(peer, now):
                self._odd.append(seat)
                if not (peer in tried or (peer.fails and suspended(peer, now)) or (peer.max_conns and full(peer))):
                    fit.append(seat)
            else:
                seat.state = _MOVED
                if peer in tried:
                    self._moved.append(seat)
                else:
                    self._place(seat, now)
        first = self._surely(now) if self._lapses or self._shaky else self._first()
        level: _Level | None = None
        if first is not None:
            level = first.pot.level
        tied: list[_Seat] = []
        least = 0.0 if level is None else level.ratio
        begin: list[_Seat] = []
        for seat in fit:
            peer = seat.peer
            if share(peer, now) < 1.0:
                begin.append(seat)
                continue
            look(peer)
            ratio = self._ratio(peer, now)
            if (level is None and not tied) or ratio < least:
                least = ratio
                tied = [seat]
                level = None
            elif ratio == least:
                tied.append(seat)
        # One that begins gets no more than its turns among those that have the least, however little it has itself:
        # or it would get everything while it has nothing.
        held = level is not None or bool(tied)
        for seat in begin:
            peer = seat.peer
            look(peer)
            ratio = self._ratio_at(peer, share(peer, now), now)
            if not (held or tied) or (ratio < least and not held):
                least = ratio
                tied = [seat]
            elif ratio <= least:
                tied.append(seat)
        return self._next(tied, None if level is None else first, now)

    def _next(self, tied: list[_Seat], first: _Seat | None, now: float) -> Peer | None:
        """A round among `tied` and, with `first`, all that are seated with its ratio."""
        total = 0.0
        most = 0.0
        many = len(tied) > 1
        best = None
        if first is not None:
            level = first.pot.level
            if level.total > first.weight or tied:
                many = True
                level.clock += 1
                total = float(level.total)
            self._leave(first)
            best = first
            most = first.peer.current_weight + first.part
        for seat in tied:
            if many:
                total += self._credit(seat, now)
            credit = seat.peer.current_weight + seat.part
            if best is None or credit > most or (credit == most and seat.order < best.order):
                best = seat
                most = credit
        if best is None:
            return None
        best.add(-total)
        return chosen(best.peer, now)

    def _credit(self, seat: _Seat, now: float) -> float:
        """Add to its credit what it has as weight now; how much that was."""
        peer = seat.peer
        weight = peer.effective_weight * share(peer, now)
        seat.add(weight)
        if peer.effective_weight < peer.weight:
            peer.effective_weight += 1
        elif peer.effective_weight > peer.weight:
            peer.effective_weight = peer.weight
        return weight
