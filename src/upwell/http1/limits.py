"""How large a request's head may be: nginx's buffers, counted without having any.

Knows client_header_buffer_size and large_client_header_buffers; not what the lines say.
"""

from __future__ import annotations


class HeadLimits:
    """A head starts in a buffer of `first` bytes. A line that does not fit in the rest of a buffer goes to a new one of
    `size` bytes, of which there are `number`; no line may be larger than that.

    `line` is the most that a request line may have with its line end. A head of up to `plain` bytes always fits.
    """

    __slots__ = ("first", "line", "number", "plain", "size")

    def __init__(self, first: int = 1024, number: int = 4, size: int = 8192) -> None:
        self.first = first
        self.number = number
        self.size = size
        self.line = self.plain = max(first, size)

    def __repr__(self) -> str:
        return f"<HeadLimits {self.first} + {self.number} * {self.size}>"

    def exceeded(self, data: bytes, end: int) -> int:
        """The status for a head that starts `data` and has come as far as `end`: 414 when its request line is too
        long, 494 when a field line or the whole is, else 0.

        A head that is refused stays refused whatever comes behind `end`.
        """
        if end < self.plain:
            return 0
        room, left, start, status = self.first, self.number, 0, 414
        while start < end:
            stop = data.find(b"\n", start, end) + 1
            length = (stop or end + 1) - start  # of a line without an end there is at least one byte more to come
            if length > room:
                if room >= self.size or left == 0 or length > self.size:
                    return status
                left -= 1
                room = self.size
            room -= length
            if not stop:
                return 0
            start = stop
            status = 494
        return 0


DEFAULT_LIMITS = HeadLimits()
