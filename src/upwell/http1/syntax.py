"""Every regular expression of the HTTP/1.1 grammar that upwell uses; nothing else may match message bytes by pattern.

Each pattern is applied to bytes. The grammar is that of RFC 9112 and RFC 9110, narrowed where nginx is narrower.
"""

from __future__ import annotations

import re
from typing import Final

# nginx takes methods of capital letters, "_" and "-" only (RFC 9110, 9.1 allows any token). A target with a space or a
# control character is refused (RFC 9112, 3.2); bytes from 0x80 up are passed as nginx passes them.
REQUEST_LINE: Final = re.compile(rb"([A-Z_-]+) ([^\x00-\x20\x7f]+) HTTP/([0-9])\.([0-9])\r\n")

# The most of a request line that can still become one; a client that speaks TLS is answered at once.
REQUEST_LINE_BEGUN: Final = re.compile(
    rb"(?:[A-Z_-]+(?: (?:[^\x00-\x20\x7f]+(?: (?:H(?:T(?:T(?:P(?:/(?:[0-9](?:\.(?:[0-9]\r?)?)?)?)?)?)?)?)?)?)?)?)?"
)

STATUS_LINE: Final = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])( [\t\x20-\x7e\x80-\xff]*)?\r\n")

# One field line without its CRLF: token ":" OWS value OWS (RFC 9112, 5). No control character but the tab is allowed
# in a value, so a bare CR, a bare LF, a NUL and obs-fold all fail here. The blanks before the value are not given back:
# else a line of thousands of blanks and one bad byte takes quadratic time.
FIELD_LINE: Final = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*+"
    rb"((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)

# The most of a line that can still become a field line.
FIELD_LINE_BEGUN: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?::[\t\x20-\x7e\x80-\xff]*)?)?")

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# The names that nginx passes on: letters, digits and "-"; all others are "invalid headers" (ignore_invalid_headers).
PLAIN_NAME: Final = re.compile(rb"[0-9A-Za-z-]+")
UNDERSCORE_NAME: Final = re.compile(rb"[0-9A-Za-z_-]+")

CONTENT_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

# chunk-size [chunk-ext] CRLF (RFC 9112, 7.1). Extensions are read past and never passed on; their bytes are bounded
# by the caller.
CHUNK_HEAD: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")

# uri-host [":" port] of a Host field or an absolute target; nginx's check, without its tolerance for odd characters.
HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~!$&'()*+,;=%-]+)(?::([0-9]{0,5}))?")

ABSOLUTE_TARGET: Final = re.compile(rb"([a-zA-Z][a-zA-Z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)

# The line of a head that names the host, to be looked for before the head is read.
HOST_LINE: Final = re.compile(rb"\r\nhost:([^\r\n]*)\r\n", re.IGNORECASE)

BARE_LF: Final = re.compile(rb"(?<!\r)\n")

# What a name has in it whose value is not for logs.
SECRET_NAME: Final = re.compile(rb"auth|cookie|credential|key|passw|secret|session|token", re.IGNORECASE)

LINE_END: Final = re.compile(rb"[\x00\r\n]")
