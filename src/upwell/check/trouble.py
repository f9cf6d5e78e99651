"""Probes that got no verdict because something was wrong with this machine, not with the peer: said when it begins, now
and then while it goes on, and when it is over, so that thousands of them fill no log and none is passed over. Pure.
"""

from __future__ import annotations

AGAIN = 10.0
"""Seconds between two sentences about trouble that goes on; after as long without any it is over."""


class Trouble:
    """All kinds of trouble by their words."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[str, _Episode] = {}

    def __repr__(self) -> str:
        return f"<Trouble {', '.join(self._kinds) or 'none'}>"

    def met(self, word: str, now: float) -> bool:
        """One more probe got no verdict; true when that begins an episode, and is to be said by the caller."""
        episode = self._kinds.get(word)
        if episode is None:
            self._kinds[word] = _Episode(now)
            return True
        episode.probes += 1
        episode.unsaid += 1
        episode.last = now
        return False

    def settle(self, now: float) -> list[str]:
        """What is to be said now; to be called in each round."""
        if not self._kinds:
            return []
        said = []
        for word, episode in list(self._kinds.items()):
            if now - episode.last >= AGAIN:
                del self._kinds[word]
                said.append(f"no longer so, {episode.probes} probe(s) got no verdict: {word}")
            elif episode.unsaid and now - episode.said >= AGAIN:
                said.append(f"{episode.unsaid} more probe(s) got no verdict: {word}")
                episode.said = now
                episode.unsaid = 0
        return said


class _Episode:
    __slots__ = ("last", "probes", "said", "unsaid")

    def __init__(self, now: float) -> None:
        self.probes = 1
        self.unsaid = 0
        self.said = now
        self.last = now
