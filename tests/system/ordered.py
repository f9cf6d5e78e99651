"""upwell whose workers also carry out orders that stand in files, for as long as no other way in changes members.

`ordered.py ARGUMENTS OF upwell`; each file in the folder that ORDERS names is one control message as JSON, and is taken
by one worker.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from upwell.cli import main
from upwell.process.control import Control

_flush = Control.flush
_ORDERS = Path(os.environ["ORDERS"])  # before workers lose what `env` does not name


def _ordered_flush(control: Control) -> None:
    for file in sorted(_ORDERS.glob("*.json")):
        taken = file.with_suffix(f".{os.getpid()}")
        try:
            file.rename(taken)
        except FileNotFoundError:
            continue  # another worker's
        message = json.loads(taken.read_text())
        control._orders += 1
        control._waiting["order", control._orders] = message
    _flush(control)


if __name__ == "__main__":
    Control.flush = _ordered_flush  # type: ignore[method-assign,assignment]  # what every worker calls again and again
    sys.exit(main())
