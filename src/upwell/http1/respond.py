"""Answers that upwell makes itself: status lines and nginx's error pages."""

from __future__ import annotations

from typing import Final

from upwell.version import VERSION

REASONS: Final = {
    100: b"Continue",
    200: b"OK",
    201: b"Created",
    202: b"Accepted",
    204: b"No Content",
    206: b"Partial Content",
    301: b"Moved Permanently",
    302: b"Moved Temporarily",
    303: b"See Other",
    304: b"Not Modified",
    307: b"Temporary Redirect",
    308: b"Permanent Redirect",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Not Allowed",
    406: b"Not Acceptable",
    407: b"Proxy Authentication Required",
    408: b"Request Time-out",
    409: b"Conflict",
    410: b"Gone",
    411: b"Length Required",
    412: b"Precondition Failed",
    413: b"Request Entity Too Large",
    414: b"Request-URI Too Large",
    415: b"Unsupported Media Type",
    416: b"Requested Range Not Satisfiable",
    421: b"Misdirected Request",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Temporarily Unavailable",
    504: b"Gateway Time-out",
    505: b"HTTP Version Not Supported",
    507: b"Insufficient Storage",
}
"""nginx's reason phrases, which differ from RFC 9110's in places (302, 405, 413, 414, 503, 504)."""

_PAGE_TITLES: Final = {302: b"302 Found", 401: b"401 Authorization Required"}
_NOTES: Final = {
    494: b"Request Header Or Cookie Too Large",
    495: b"The SSL certificate error",
    496: b"No required SSL certificate was sent",
    497: b"The plain HTTP request was sent to HTTPS port",
}
"""nginx's own numbers: they go out as 400, with a page that says which it was."""

SERVER: Final = b"upwell/" + VERSION.encode()
SERVER_WITHOUT_VERSION: Final = b"upwell"


def status_sent(status: int) -> int:
    """The status of the page for `status`, which is 400 for nginx's internal numbers (494 and the like)."""
    return 400 if status in _NOTES else status


def status_line(status: int) -> bytes:
    """Code and reason, e.g. b"404 Not Found"; for an unknown code just the number, as nginx writes it."""
    reason = REASONS.get(status)
    return b"%d %b" % (status, reason) if reason is not None else b"%d " % status


def error_page(status: int, server: bytes = SERVER) -> bytes | None:
    """nginx's built-in page for `status`; None where nginx has none (then the answer has no content)."""
    note = _NOTES.get(status)
    if note is not None:
        title, heading = b"400 " + note, status_line(400)
        line = b"<center>%b</center>\r\n" % note
    elif status in REASONS and status >= 300 and status != 304:
        title = heading = _PAGE_TITLES.get(status) or status_line(status)
        line = b""
    else:
        return None
    return (
        b"<html>\r\n<head><title>%b</title></head>\r\n<body>\r\n<center><h1>%b</h1></center>\r\n%b"
        b"<hr><center>%b</center>\r\n</body>\r\n</html>\r\n" % (title, heading, line, server)
    )
