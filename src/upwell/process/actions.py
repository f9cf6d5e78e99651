"""What the supervisor asks of the master, as data. Knows neither why nor how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["worker", "checker"]


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make a process of `kind` for `slot` (0..workers-1; a checker's is 0) of `generation`.

    `seat` 1 is a second place in the same slot, for a worker that takes over while its predecessor still ends.
    """

    kind: Kind
    slot: int
    generation: int
    seat: int = 0


@dataclass(frozen=True, slots=True)
class Signal:
    """Send `signal` ("TERM", "QUIT", "KILL", "USR1") to the child `pid`."""

    pid: int
    signal: str


@dataclass(frozen=True, slots=True)
class Load:
    """Read the configuration again and answer with `loaded` or `failed`."""


@dataclass(frozen=True, slots=True)
class Renew:
    """Begin a generation from the configuration that serves, without reading it again; answered with `loaded`."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Start another master with the listeners and move the pid file out of its way; answered with `upgrading` or
    `not_upgraded`."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The other master is gone: the pid file is this one's again."""


@dataclass(frozen=True, slots=True)
class Serve:
    """`generation` serves from now on: listeners that it does not use are closed, its pid file is the one."""

    generation: int


@dataclass(frozen=True, slots=True)
class Vacate:
    """Nobody has this seat now: what its last one said to have open is not."""

    slot: int
    generation: int
    seat: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The last process of `generation` is gone: its zone, control sockets and logs can go."""

    generation: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open the log files anew (before the workers are told to: they may not be allowed to create them)."""


@dataclass(frozen=True, slots=True)
class Log:
    """Write `message` to the error log at `level`."""

    level: int
    message: str


@dataclass(frozen=True, slots=True)
class Deafen:
    """Close all listeners: what connects from now on is refused instead of waiting for nobody."""


@dataclass(frozen=True, slots=True)
class Exit:
    """Nothing is left to look after: remove the pid file and end with `code`."""

    code: int


Action = Spawn | Signal | Load | Renew | Upgrade | Restore | Serve | Vacate | Forget | Reopen | Log | Deafen | Exit
