"""What all fuzzers share: mutants of good input, cases that can be had again by seed and number, a bounded run.

A fuzzer is a function of a `Random` that makes one case and raises Finding when upwell breaks the fuzzer's invariant.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from itertools import count, pairwise
from random import Random

_EDGE = re.compile(rb"\b|^|$|(?<=:)|\r|\n", re.MULTILINE)

Case = Callable[[Random], None]


class Finding(Exception):
    """Input that broke an invariant: in which way, and the input."""

    def __init__(self, rule: str, data: object) -> None:
        super().__init__(f"{rule}: {data!r}")


class Found(Exception):
    """A case that failed, with what is needed to have it again; its cause is what the case raised."""

    def __init__(self, seed: int, number: int, error: BaseException) -> None:
        super().__init__(f"seed {seed}, case {number}: {error!r}")
        self.number = number


def run(case: Case, seed: int, seconds: float = 0.0, cases: int = 0) -> int:
    """Run `case` for `seconds`, or `cases` times; returns how many were run. Raises Found.

    A case depends on the seed and its number alone, never on the clock or on those before it.
    """
    end = time.monotonic() + seconds
    for number in count():
        if number >= cases if cases else time.monotonic() >= end:
            return number
        once(case, seed, number)
    raise AssertionError


def once(case: Case, seed: int, number: int) -> None:
    """Run the one case of that seed and number. Raises Found."""
    try:
        case(Random(f"{seed}:{number}"))
    except Exception as error:
        raise Found(seed, number, error) from error


def mutant(random: Random, data: bytes, dear: Sequence[bytes], most: int = 3) -> bytes:
    """`data` changed in up to `most` places: bytes of `dear` put in or over, bytes cut out, doubled or moved."""
    out = bytearray(data)
    edges = [match.start() for match in _EDGE.finditer(data)]  # where a change is more likely to mean something
    for _ in range(random.randrange(most + 1)):
        at = random.choice(edges) if random.randrange(2) else random.randrange(len(out) + 1)
        match random.randrange(6):
            case 0:
                out[at:at] = random.choice(dear)
            case 1:
                out[at : at + 1] = random.choice(dear)
            case 2:
                del out[at : at + random.randrange(1, 6)]
            case 3:
                piece = out[at : at + random.randrange(1, 20)]
                out[at:at] = piece
            case 4:
                piece = out[at : at + random.randrange(1, 40)]
                del out[at : at + len(piece)]
                to = random.randrange(len(out) + 1)
                out[to:to] = piece
            case _:
                out[at : at + 1] = bytes((random.randrange(256),))
    return bytes(out)


def pieces(random: Random, data: bytes) -> list[bytes]:
    """`data` in a few pieces, as a network might deliver it; now and then byte by byte."""
    if random.randrange(8) == 0:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted({random.randrange(len(data) + 1) for _ in range(random.randrange(4))} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(cuts)]
