"""The state file: what is known of each check, for a machine that was switched off. Knows JSON, no file and no check.

Written a second after a transition and at the end (`replaced.py`). Read once, when the checker starts; what the zone
knows is newer. Neither an unreadable nor an unwritable file stops anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final, NamedTuple

from upwell.check.listener import Listener, Recalled, Turn, rfc3339
from upwell.check.replaced import Replaced, read_file, replace_file
from upwell.log import WARN, ErrorLog
from upwell.zone.table import RowKey

VERSION: Final = 1

_Key = tuple[str, str, str, int, int]
"""(upstream, role, peer, ordinal, identity of the check)"""


class _Entry(NamedTuple):
    up: bool
    since: float  # wall clock
    kind: str
    why: str
    title: str


class StateFile(Listener):
    """The file at `path`; a relative one starts where the process does."""

    __slots__ = ("_entries", "_file", "_path")

    def __init__(self, path: str, log: ErrorLog) -> None:
        super().__init__(log)
        self._path = path
        self._entries: dict[_Key, _Entry] = {}
        self._file = Replaced(path, "health_check_state", self.say)
        try:
            self._entries = _read(path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.write(WARN, f'health_check_state "{path}" is ignored: {reason}')

    def __repr__(self) -> str:
        return f"<StateFile {self._path} {len(self._entries)} checks>"

    def recall(self, key: RowKey, identity: int) -> Recalled | None:
        entry = self._entries.get((*key, identity))
        if entry is None:
            return None
        return Recalled(entry.up, entry.kind, entry.why, max(time.time() - entry.since, 0.0))

    def begun(self, turn: Turn, age: float) -> None:
        """The zone may know more than the file, if the checker before this one was killed."""
        known = self._entries.get((*turn.key, turn.identity))
        # An initial "up" is no knowledge.
        if turn.up != known.up if known is not None else not turn.up:
            self._note(turn, time.time() - age)

    def turned(self, turn: Turn) -> None:
        self._note(turn, time.time())

    def settle(self, identities: Collection[int]) -> None:
        kept = {key: entry for key, entry in self._entries.items() if key[4] in identities}
        if len(kept) < len(self._entries):
            self._entries = kept
            self._file.write_soon(self._store)

    def end(self, deadline: float) -> None:
        self._file.end(deadline)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _note(self, turn: Turn, since: float) -> None:
        entry = _Entry(turn.up, since, turn.kind, turn.why, turn.spec.title)
        self._entries[(*turn.key, turn.identity)] = entry
        self._file.write_soon(self._store)

    def _store(self) -> None:
        """In the thread of the file, while the checker's goes on: a copy is made in one step."""
        _write(self._path, dict(self._entries))


def _read(path: str) -> dict[_Key, _Entry]:
    """Raises OSError, and ValueError for a file that is not what `_write` makes."""
    content = read_file(path)
    try:
        document = json.loads(content)
        version = document["version"]
        entries = dict(_entry(item) for item in document["checks"]) if version == VERSION else {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError) as error:
        raise ValueError("not a state file") from error
    if version != VERSION:
        raise ValueError(f"its version is {str(version)[:20]}, not {VERSION}")
    return entries


def _entry(item: dict[str, Any]) -> tuple[_Key, _Entry]:
    key = (item["upstream"], item["role"], item["peer"], item["ordinal"], int(item["identity"], 16))
    texts = (*key[:3], item["kind"], item["why"], item["check"])
    up = {"up": True, "down": False}[item["state"]]
    if not all(isinstance(text, str) for text in texts) or not isinstance(key[3], int):
        raise TypeError
    return key, _Entry(up, datetime.fromisoformat(item["since"]).timestamp(), item["kind"], item["why"], item["check"])


def _line(key: _Key, entry: _Entry) -> str:
    return json.dumps(
        {
            "upstream": key[0],
            "role": key[1],
            "peer": key[2],
            "ordinal": key[3],
            "identity": f"{key[4]:x}",
            "check": entry.title,
            "state": "up" if entry.up else "down",
            "since": rfc3339(entry.since),
            "kind": entry.kind,
            "why": entry.why,
        }
    )


def _write(path: str, entries: dict[_Key, _Entry]) -> None:
    # Piece by piece, a line for each check: the checker's thread is not kept waiting as long as for all at once.
    checks = ",\n".join(_line(key, entry) for key, entry in entries.items())
    content = f'{{"version": {VERSION}, "checks": [\n{checks}\n]}}\n'.encode()
    replace_file(path, content)
