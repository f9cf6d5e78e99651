"""Sessions that were learnt, and the route of each: shared by all workers, kept over a reload (nginx: `sticky learn`).

On a shared dictionary, which expires them and lets the oldest go when it is full.
"""

from __future__ import annotations

from hashlib import md5
from typing import Final

from upwell.zone.shared_dict import SharedDict

_SPARE: Final = 16
"""A session in use is written anew only after this part of its time: reading many is cheaper than writing one."""


class Sessions:
    """One zone of sessions. One that nobody has used for `timeout` seconds is forgotten, or a little later."""

    __slots__ = ("_dict", "_lasting", "_timeout")

    def __init__(self, shared: SharedDict, timeout: float) -> None:
        self._dict = shared
        self._timeout = timeout
        self._lasting = timeout + timeout / _SPARE

    def __repr__(self) -> str:
        return f"<Sessions {self._dict.name}>"

    def find(self, name: bytes) -> bytes:
        """The route of the session called `name`, b"" when there is none."""
        return self._get(_key(name))

    def bind(self, name: bytes, route: bytes, begin: bool) -> str:
        """The session called `name` has `route` from now on and was in use just now; one that is not there begins only
        with `begin`. What is to be told of it, "" for nothing."""
        key = _key(name)
        known = self._get(key)
        if not known and not begin:
            return ""
        if known == route:
            left = self._dict.ttl(key)[0]
            if isinstance(left, float) and left > self._timeout:
                return ""
        done, _, forcible = self._dict.store("set", key, route, self._lasting)
        where = f'in sticky session zone "{self._dict.name}"'
        if not done:
            return f"could not allocate node {where}"
        return f"could not allocate node {where}, expiring least recently used session" if forcible else ""

    def _get(self, key: bytes) -> bytes:
        found = self._dict.get(key)[0]
        return found if isinstance(found, bytes) else b""


def _key(name: bytes) -> bytes:
    # As in nginx: a client's name for a session may be of any length.
    return md5(name, usedforsecurity=False).digest()
