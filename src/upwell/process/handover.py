"""Orders of workers and operators around a reload: what one generation was told is said to the one that follows.

A generation is made of what the one before it knows at that moment; until it serves, and as long as old workers are
there, orders still come to the old one. Knows tables and control sockets, no process; used by the master alone.
"""

from __future__ import annotations

import json
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from upwell.peers.peer import PeerKey, PeerSpec, UpstreamSpec
from upwell.peers.roster import Roster, message_of, spec_of
from upwell.process.control import MAX_MESSAGE, Message, repeated, to_socket
from upwell.zone.layout import ADMIN_DOWN
from upwell.zone.table import PeerTable


class _Standing(NamedTuple):
    """Who belongs where, and what operators said of them, after so many changes."""

    changes: int
    members: dict[PeerKey, PeerSpec]
    rows: dict[PeerKey, int]
    admin: dict[PeerKey, int]


class Orders:
    """The orders of one generation. `workers_end` and `checker_end` are its control sockets."""

    __slots__ = (
        "_checker_end",
        "_deliver",
        "_known",
        "_lines",
        "_outdated",
        "_superseded",
        "_table",
        "_upstreams",
        "_waiting",
        "_workers_end",
        "_written",
    )

    def __init__(
        self,
        upstreams: Sequence[UpstreamSpec],
        table: PeerTable,
        workers_end: socket.socket,
        checker_end: socket.socket,
    ) -> None:
        self._upstreams = upstreams
        self._lines = {spec.name: {line.server for line in spec.lines} for spec in upstreams}
        self._table = table
        self._workers_end = workers_end
        self._checker_end = checker_end
        self._deliver = to_socket(workers_end)
        self._waiting: deque[Message] = deque()
        self._written: dict[PeerKey, list[PeerSpec | None]] = {}
        self._outdated: dict[PeerKey, list[PeerSpec | None]] = {}
        self._superseded = False
        self._known = self._standing()

    def __repr__(self) -> str:
        return f"<Orders waiting={len(self._waiting)}>"

    def news(self) -> list[Message]:
        """What was ordered here since the last call (or since the generation began), to be said to another one. Peers
        known by name come and go there by themselves."""
        if self._table.changes == self._known.changes:
            return []
        before, now = self._known, self._standing()
        self._known = now
        for key, written in self._outdated.items():
            current = now.members.get(key)
            if current not in written:
                continue
            if current is None:
                before.members.pop(key, None)
            else:
                before.members[key] = current
        messages: list[Message] = []
        for key, spec in now.members.items():
            named = spec.server in self._lines[key.upstream]
            old = before.members.get(key)
            if old is None:
                if named:
                    continue
                messages.append(settled(key, spec))
            elif old != spec:
                was, says = message_of(old), message_of(spec)
                fields = {name: getattr(spec, name) for name in was | says if was.get(name) != says.get(name)}
                messages.append({"op": "change_peer", "peer": key, "fields": fields})
            admin = now.admin.get(key, 0)
            if admin != before.admin.get(key, 0):
                messages.append({"op": "set_down", "peer": key, "value": admin & 3 == ADMIN_DOWN})
        for key, spec in before.members.items():
            if key in now.members:
                continue
            row = before.rows[key]
            if self._table.keys[row] == key:
                self._table.know(row, None)  # or what is known of it would be adopted by a peer that comes
            if spec.server not in self._lines[key.upstream]:
                messages.append(settled(key, None))
        return messages

    def unheard(self, complain: Callable[[str], object]) -> list[Message]:
        """What was said to a checker that is gone for good, but for what is about checks: those are another
        configuration's. Nonsense is complained about and passed over."""
        messages: list[Message] = []
        while True:
            try:
                content = self._checker_end.recv(MAX_MESSAGE)
            except OSError:
                return messages
            if not content:
                return messages
            try:
                message: Any = json.loads(content)
                op = message["op"]
            except (ValueError, TypeError, LookupError, RecursionError) as error:
                complain(f"control message could not be used: {error!r}")
                continue
            if op in ("add_check", "suspect") or (self._superseded and "written" in message):
                continue
            messages.append(message)

    def repeat(self, messages: Iterable[Message]) -> None:
        """Say what another generation was told; what is about peers that this one does not have means nothing here."""
        self.say([repeated(message) for message in messages])

    def say(self, messages: Iterable[Message]) -> None:
        """Have the checker carry out `messages`, this one or the next."""
        self._waiting.extend(messages)
        self.flush()

    def write(self, messages: Iterable[Message]) -> None:
        """Say what a configuration that was read again has of peers (`settled`). After `news`."""
        self._written = self._overdue()
        for message in messages:
            spec = message["spec"]
            self._written.setdefault(message["peer"], []).append(spec_of(spec) if spec is not None else None)
            self._waiting.append({**message, "written": True})
        self.flush()

    def supersede(self) -> None:
        """Another generation is made of a later configuration: of what an earlier one had written here, whatever is not
        carried out by now is no news to anybody any more. After `news`."""
        self._outdated = self._overdue()
        self._superseded = True

    def _overdue(self) -> dict[PeerKey, list[PeerSpec | None]]:
        """What was written of those who are not as it was written last."""
        members = self._known.members
        return {key: specs for key, specs in self._written.items() if members.get(key) != specs[-1]}

    def flush(self) -> None:
        while self._waiting and self._settled(self._waiting[0]):
            self._waiting.popleft()

    def _settled(self, message: Message) -> bool:
        """Whether it is on its way, or never will be."""
        try:
            return self._deliver(message)
        except (ValueError, RecursionError):
            return True  # too large, or too deep: no worker of ours said it

    @property
    def waits(self) -> bool:
        """Whether something could not be said yet."""
        return bool(self._waiting)

    def await_room(self, poll: select.poll) -> None:
        """Have `poll` end when `flush` has something to do."""
        if self._waiting:
            poll.register(self._workers_end, select.POLLOUT)

    def await_unheard(self, poll: select.poll) -> None:
        """Have `poll` end when `unheard` has something to do."""
        poll.register(self._checker_end, select.POLLIN)

    def _standing(self) -> _Standing:
        table = self._table
        changes = table.changes  # first: what changes meanwhile is found the next time
        members = [member for spec in self._upstreams for member in Roster(spec, table).members]
        return _Standing(
            changes,
            {member.key: member.spec for member in members},
            {member.key: member.row for member in members},
            {member.key: admin for member in members if (admin := table.admin(member.row))},
        )


def settled(key: PeerKey, spec: PeerSpec | None) -> Message:
    """The message that has a peer be what `spec` says whatever it was, or (None) have it gone."""
    return {"op": "settle_peer", "peer": key, "spec": message_of(spec) if spec is not None else None}
