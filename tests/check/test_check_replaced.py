"""The thread of a file that is replaced, whatever becomes of what it does."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from upwell.check import replaced
from upwell.check.replaced import Replaced, alone

LIMIT = 40.0


@pytest.mark.parametrize("error", [ValueError("no such letter"), OSError(28, "No space left on device"), MemoryError()])
def test_whatever_goes_wrong_it_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(replaced, "_AGAIN", 0.001)
    said: list[str] = []
    again = threading.Event()
    tries = 0

    def work() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error
        again.set()

    file = Replaced("/a", "state", lambda level, text: said.append(text), 0.001)
    file.write_soon(work)
    assert again.wait(LIMIT)
    file.end(time.monotonic() + LIMIT)
    file.close()
    words = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    assert said == [f'state "/a" cannot be written: {words}', 'state "/a" is written again']


def test_a_folder_that_somebody_keeps_locked_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any local user may lock a folder that he can open, and the master asks for it when it reloads."""
    monkeypatch.setattr(replaced, "_LONGEST_LOCK", 0.0)
    path = str(tmp_path / "list")
    with alone(path), pytest.raises(TimeoutError, match="another process has locked its folder"), alone(path):
        pass
    with alone(path):
        pass
