"""The thread of a file that is replaced, whatever becomes of what it does."""

from __future__ import annotations

import threading
import time

import pytest

from upwell.check import replaced
from upwell.check.replaced import Replaced

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
