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

    def exceeded(self, data: bytes, end: int, counted: Counted | None = None) -> int:
        """The status for a head that starts `data` and has come as far as `end`: 414 when its request line is too
        long, 494 when a field line or the whole is, else 0.

        A head that is refused stays refused whatever comes behind `end`. `counted` is kept from one call to the next
        while the same head comes in; its `start` is that of the line that was too much.
        """
        if end < self.plain:
            return 0
        if counted is None or counted.limits is not self:
            room, left, start, status = self.first, self.number, 0, 414
        else:
            room, left, start, status = counted.room, counted.left, counted.start, counted.status
        while start < end:
            stop = data.find(b"\n", start, end) + 1
            length = (stop or end + 1) - start  # of a line without an end there is at least one byte more to come
            taken, free = left, room
            if length > free:
                if free >= self.size or taken == 0 or length > self.size:
                    if counted is not None:
                        counted.start = start
                    return status
                taken -= 1
                free = self.size
            if not stop:
                break
            left, room = taken, free - length
            start = stop
            status = 494
        if counted is not None:
            counted.limits, counted.room, counted.left, counted.start, counted.status = self, room, left, start, status
        return 0


class Counted:
    """How far a head was counted by `limits`, up to the start of its last line: so that one that comes byte by byte is
    not counted from its start for each of them.

    `fields` are the field lines among the `lines` that end before `line`. `host_line` and `chosen` are room for whoever
    chooses the limits by the host that the head names: where the line begins that may name it, and what was chosen.
    """

    __slots__ = ("chosen", "fields", "host_line", "left", "limits", "line", "lines", "room", "start", "status")

    def __init__(self) -> None:
        self.limits: HeadLimits | None = None
        self.room = 0
        self.left = 0
        self.start = 0
        self.status = 0
        self.fields = 0
        self.line = 0
        self.lines = 0
        self.host_line = 0
        self.chosen: object | None = None

    def restart_fields(self) -> None:
        """They are counted by other rules from here on."""
        self.fields = self.line = self.lines = 0


DEFAULT_LIMITS = HeadLimits()
