"""How bytes come in: through one small buffer for all connections of a worker.

uvloop hands a plain protocol up to 256 KB at once, more than nginx holds of a connection in all. A protocol that
gives it a buffer gets no more than that buffer takes, and one buffer does for all: it is filled and emptied in one call
of the loop.
"""

from __future__ import annotations

from typing import Any, Final

from upwell.proxy.timers import Timed

_SIZE: Final = 65_536
_buffer: Final = bytearray(_SIZE)
VIEW: Final = memoryview(_buffer)


class Receiver(Timed):
    """Whoever is told what happens to a connection (asyncio's Protocol, which it is by its methods)."""

    __slots__ = ()

    def connection_made(self, transport: Any) -> None:
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        raise NotImplementedError

    def eof_received(self) -> bool | None:
        """Whether to go on sending."""
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        raise NotImplementedError

    def pause_writing(self) -> None:
        raise NotImplementedError

    def resume_writing(self) -> None:
        raise NotImplementedError


class Intake(Receiver):
    """A protocol that is given at most 64 KB at once (asyncio's BufferedProtocol, which it is by its methods)."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> memoryview:
        return VIEW

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(VIEW[:nbytes].tobytes())
