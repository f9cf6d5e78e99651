"""What a TLS server says first, read for the group of its key exchange, which OpenSSL through Python does not tell.

RFC 8446, 4.2.8 (TLS 1.3: in the extension key_share) and RFC 8422, 5.4 (TLS 1.2: in ServerKeyExchange).
"""

from __future__ import annotations

from typing import Final

_HANDSHAKE: Final = 22
_SERVER_HELLO: Final = 2
_SERVER_KEY_EXCHANGE: Final = 12
_KEY_SHARE: Final = 51
_NAMED_CURVE: Final = 3


def group_of(flight: bytes) -> int:
    """The group by number in what a server has said first, whole messages in the clear; 0 for none."""
    messages = bytearray()
    at = 0
    while len(flight) >= at + 5 and flight[at] == _HANDSHAKE:
        size = flight[at + 3] << 8 | flight[at + 4]
        messages += flight[at + 5 : at + 5 + size]
        at += 5 + size
    try:
        return _group(bytes(messages))
    except IndexError:
        return 0


def _group(messages: bytes) -> int:
    at = 0
    while len(messages) >= at + 4:
        kind = messages[at]
        size = int.from_bytes(messages[at + 1 : at + 4], "big")
        message = messages[at + 4 : at + 4 + size]
        if kind == _SERVER_HELLO:
            found = _shared(message)
            if found:
                return found
        elif kind == _SERVER_KEY_EXCHANGE and message[0] == _NAMED_CURVE:
            return message[1] << 8 | message[2]
        at += 4 + size
    return 0


def _shared(message: bytes) -> int:
    """The group of the key_share in a ServerHello; 0 for none."""
    at = 34  # version, random
    at += 1 + message[at]  # session
    at += 5  # cipher suite, compression, the size of what follows
    while at + 4 <= len(message):
        kind = message[at] << 8 | message[at + 1]
        if kind == _KEY_SHARE:
            return message[at + 4] << 8 | message[at + 5]
        at += 4 + (message[at + 2] << 8 | message[at + 3])
    return 0
