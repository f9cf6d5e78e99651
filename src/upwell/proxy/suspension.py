"""How an exchange waits: one bare `yield` up to whoever drives it. No task, no future (design, speed rule 5)."""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import Any


@types.coroutine
def suspend() -> Generator[None, Any, None]:
    """Give the loop back until `Exchange.resume()` or `Exchange.fail(error)` (raises it here).

    The caller must have told somebody to resume it *before* it awaits this; exactly one resume per suspend.
    """
    yield
