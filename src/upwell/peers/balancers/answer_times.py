"""How long peers take for their answers: what `least_time` and `random two least_time` compare. Pure.

The estimate is nginx's (ngx_http_upstream_least_time_module.c, since 1.31): a moving average in clusters of 20 ms that
halves with each `fail_timeout` in which the peer got nothing, times the requests under way there and one more. Each
worker measures for itself. [Why, and where it differs](../../../../docs/decisions/0019-balancers.md).
"""

from __future__ import annotations

from typing import Final

from upwell.peers.live import Peer
from upwell.peers.peer import Method

_SMOOTHING: Final = 0.05
_CLUSTERS: Final = 50.0  # in a second: 20 ms each; peers within one are served in turn
_MOST: Final = 5.0  # seconds; what is slower is equally bad
_LONGEST: Final = 64  # halvings after which nothing is left
_WORST: Final = 32.0  # how many times the usual answer time failures can make of a peer's
_UNUSUAL: Final = 1.0  # seconds: the usual answer time while nobody has answered well yet


class AnswerTimes:
    """The answer times of the peers of one balancer, which keep their own averages.

    What is measured, the head (`connect` or `first_byte` of a session) or the last byte, and `inflight` are words of
    `least_time`. The balancer says who was `picked`, what was `answered` and, after it, what was `released`.
    """

    __slots__ = ("_began", "_ended", "_header", "_usual", "inflight")

    def __init__(self, method: Method) -> None:
        self._header = method.measure != "last_byte"
        self._usual = 0.0  # the moving average over all peers, 0.0: nobody has answered well yet
        self._ended: Peer | None = None  # whose request it is that was answered and not yet released,
        self._began = 0.0  # and when that one began
        self.inflight = method.inflight

    def __repr__(self) -> str:
        return f"<AnswerTimes usually {self._usual:.6f} s>"

    def cost(self, peer: Peer, now: float) -> float:
        """What one more request costs there, less for a heavier peer; its `elsewhere` is taken as it is."""
        load = 1.0 + (peer.connections + peer.elsewhere)
        time = peer.answer_time
        if time > 0.0:
            silence = now - peer.checked
            if silence > peer.fail_timeout:
                time *= _left(peer, silence)
        elif load > 1.0:
            # nginx has nothing here: a peer that just came would get all requests till its first answer.
            time = self._usual
        if peer.dated and self.inflight:
            so_far = now - peer.begun / peer.dated
            if so_far > time:
                time = so_far
        if time > _MOST:
            return 5000.0 * load / peer.weight
        return (time * _CLUSTERS // 1.0 + 1.0) * 20.0 * load / peer.weight

    def picked(self, peer: Peer, now: float) -> None:
        peer.begun += now
        peer.dated += 1

    def released(self, peer: Peer) -> None:
        """One of the requests there is over: the one answered just now, or else one as old as all are on average."""
        dated = peer.dated
        left = peer.connections
        if left < dated:  # else it was one that came there without being picked
            if not left:
                peer.begun = 0.0
            elif self._ended is peer:
                peer.begun -= self._began
            else:
                peer.begun *= left / dated
            peer.dated = left
        self._ended = None

    def answered(self, peer: Peer, header: float, last: float, now: float, well: bool) -> None:
        self._ended = peer
        self._began = now - last
        time = header if self._header else last
        silence = now - peer.answer_at
        peer.answer_at = now
        if not well:
            blame(peer, time, self._usual)
            return
        known = peer.answer_time
        if known <= 0.0:
            peer.answer_time = max(time, 1e-6)
        else:
            kept = 1.0 - _SMOOTHING
            if time < known and silence > peer.fail_timeout:
                # nginx would need half an hour to learn that a peer is well again that gets one request a minute.
                kept *= _left(peer, silence)
            peer.answer_time = time + kept * (known - time)
        usual = self._usual
        self._usual = usual + _SMOOTHING * (time - usual) if usual > 0.0 else time


def _left(peer: Peer, silence: float) -> float:
    """What is left of an average after seconds without anything: half of it for each `fail_timeout`."""
    halvings = int(silence / (int(peer.fail_timeout) + 1))
    return 1.0 / (1 << halvings) if halvings < _LONGEST else 0.0


def blame(peer: Peer, time: float, usual: float) -> None:
    """A request failed after `time`, where the peers usually answer in `usual` seconds: the peer counts as slower.

    Or a refusal and a quick 502 would look like the fastest of all. The more of them, the less the peer gets.
    """
    known = peer.answer_time
    if usual <= 0.0:
        usual = _UNUSUAL
    peer.answer_time = max(min(2.0 * max(known, usual), _WORST * usual), known, time)
