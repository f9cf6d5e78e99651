"""The state file: what is known of each check, for a machine that was switched off. Knows JSON and a file, no check.

Written a second after a transition and at the end, whole and at once (a new file takes the old one's name). Read once,
when the checker starts; what the zone knows is newer. Neither an unreadable nor an unwritable file stops anything.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, NamedTuple

from upwell.check.listener import Listener, Recalled, Turn, rfc3339
from upwell.log import ERROR, NOTICE, WARN, ErrorLog
from upwell.zone.table import RowKey

VERSION: Final = 1
_DEBOUNCE = 1.0  # seconds
_AGAIN = 10.0  # seconds after which a file that could not be written is tried again
_LARGEST = 64 << 20

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

    __slots__ = ("_changed", "_closing", "_dirty", "_entries", "_failing", "_path", "_thread", "_until")

    def __init__(self, path: str, log: ErrorLog) -> None:
        super().__init__(log)
        self._path = path
        self._entries: dict[_Key, _Entry] = {}
        self._changed = threading.Condition()
        self._dirty = False
        self._closing = False
        self._until = 0.0
        self._failing = False
        self._thread: threading.Thread | None = None
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
        with self._changed:
            kept = {key: entry for key, entry in self._entries.items() if key[4] in identities}
            if len(kept) < len(self._entries):
                self._entries = kept
                self._write_soon()

    def end(self, deadline: float) -> None:
        self._until = deadline
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(max(self._until - time.monotonic(), 0.0))
        super().close()

    def _note(self, turn: Turn, since: float) -> None:
        with self._changed:
            entry = _Entry(turn.up, since, turn.kind, turn.why, turn.spec.title)
            self._entries[(*turn.key, turn.identity)] = entry
            self._write_soon()

    def _write_soon(self) -> None:
        self._dirty = True
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="upwell-state", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                self._fail(str(error))  # the next transition tries again
                return
            self._thread = thread
        self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty or self._closing)
                if not self._dirty:
                    return
                self._changed.wait_for(lambda: self._closing, _AGAIN if self._failing else _DEBOUNCE)
                self._dirty = False
                entries = dict(self._entries)
            try:
                _write(self._path, entries)
            except OSError as error:
                self._fail(error.strerror or str(error))
                with self._changed:
                    self._dirty = not self._closing
            else:
                if self._failing:
                    self._failing = False
                    self.say(NOTICE, f'health_check_state "{self._path}" is written again')

    def _fail(self, words: str) -> None:
        if not self._failing:
            self._failing = True
            self.say(ERROR, f'health_check_state "{self._path}" cannot be written: {words}')


def _read(path: str) -> dict[_Key, _Entry]:
    """Raises OSError, and ValueError for a file that is not what `_write` makes."""
    # O_NONBLOCK: a pipe under this name would be waited for.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            raise ValueError("not a state file")
        content = file.read()
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
    made = f"{path}.{os.getpid()}.new"
    with suppress(FileNotFoundError):
        os.unlink(made)
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(made, path)
    except OSError:
        with suppress(OSError):
            os.unlink(made)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
