"""Where shared dictionaries keep their bytes: ordered keys and values, changed in transactions.

A store knows neither expiry nor eviction; those are `zone/shared_dict.py`'s. `STORES` names the kinds there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from upwell.zone.stores.lmdb import LmdbStore
from upwell.zone.stores.memory import MemoryStore
from upwell.zone.stores.store import Store, StoreFull, Transaction

__all__ = ["STORES", "Store", "StoreFull", "Transaction"]

STORES: Final[dict[str, Callable[[str, int], Store]]] = {"lmdb": LmdbStore, "memory": MemoryStore}
"""Kind -> factory taking a path (ignored by "memory") and the bytes of content it must be able to hold."""
