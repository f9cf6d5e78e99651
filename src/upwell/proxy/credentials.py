"""Who a request says to be: the name and password of its Authorization field (RFC 7617), as nginx reads them."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


def credentials(exchange: Exchange) -> tuple[bytes, bytes] | None:
    """Name and password; None where there are none, or not in the form of Basic."""
    field = exchange.values.get(b"authorization")
    if field is None or field[:6].lower() != b"basic ":
        return None
    coded = field[6:].strip(b" ").partition(b"=")[0]  # nginx asks for no padding
    try:
        user, colon, password = base64.b64decode(coded + b"=" * (-len(coded) % 4), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (user, password) if user and colon else None
