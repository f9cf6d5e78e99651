"""Request targets: nginx's path and arguments out of what the client asked for (RFC 9112, 3.2; RFC 3986, 5.2.4).

Knows escapes, dot segments and merged slashes; not locations.
"""

from __future__ import annotations

import re
from typing import Final

from upwell.errors import RequestLineError
from upwell.http1.syntax import ABSOLUTE_TARGET

_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})?")
_SLASHES: Final = re.compile(rb"//+")


class Target:
    """A request target taken apart.

    `uri` is the normalised path (decoded, no arguments), `args` what follows "?", `path` the path and arguments as sent
    (what `proxy_pass` without a URI passes on), `host` the authority of an absolute target or None. `quoted` says
    that there were escapes in it (nginx: quoted_uri).
    """

    __slots__ = ("args", "host", "path", "quoted", "uri")

    def __init__(self, uri: bytes, args: bytes, path: bytes, host: bytes | None = None, quoted: bool = False) -> None:
        self.uri = uri
        self.args = args
        self.path = path
        self.host = host
        self.quoted = quoted

    def __repr__(self) -> str:
        return f"<Target {self.path!r}>"


def parse_target(target: bytes, merge_slashes: bool = True, needs_host: bool = True) -> Target:
    """Take a request target apart. Raises RequestLineError(400) for what nginx refuses, which an empty host in it is
    unless `needs_host` says otherwise.
    """
    host = None
    path = target
    if not target.startswith(b"/"):
        match = ABSOLUTE_TARGET.fullmatch(target)
        if match is None or match[1].lower() not in (b"http", b"https"):
            raise RequestLineError(400, "invalid request")
        host, path = match[2], match[3]
        if not host and needs_host:
            raise RequestLineError(400, "invalid host in request line")
        if not path.startswith(b"/"):
            path = b"/" + path
    raw, _, args = path.partition(b"#")[0].partition(b"?")
    # Four searches are a fraction of a regular expression, and most paths need nothing more.
    if raw.find(b"%") < 0 and raw.find(b"//") < 0 and raw.find(b"/.") < 0:
        return Target(raw, args, path, host)
    return Target(normalise(raw, merge_slashes), args, path, host, raw.find(b"%") >= 0)


def normalise(path: bytes, merge_slashes: bool = True) -> bytes:
    """`path` decoded, its slashes merged and its dot segments gone (nginx: ngx_http_parse_complex_uri).

    Raises RequestLineError(400) for a bad escape, an encoded NUL and a path that climbs over the root.
    """
    decoded = _ESCAPE.sub(_decode, path)
    if 0 in decoded:
        raise RequestLineError(400, "invalid request")
    if merge_slashes:
        decoded = _SLASHES.sub(b"/", decoded)
    if decoded.find(b"/.") < 0:
        return decoded
    out: list[bytes] = []
    segments = decoded.split(b"/")[1:]
    last = len(segments) - 1
    for number, segment in enumerate(segments):
        if segment == b"." or segment == b"..":
            if segment == b"..":
                if not out:
                    raise RequestLineError(400, "invalid request")
                out.pop()
            if number == last:
                out.append(b"")
        else:
            out.append(segment)
    return b"/" + b"/".join(out)


def _decode(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        raise RequestLineError(400, "invalid request")
    return bytes((int(digits, 16),))


# nginx's NGX_ESCAPE_URI: controls, space, "%", "#", "?", DEL and bytes from 0x80 up; as RFC 3986 path minus what is
# safe there.
_UNSAFE_URI: Final = re.compile(rb"[\x00-\x20\x22\x23\x25\x3c\x3e\x3f\x5c\x5e\x60\x7b-\x7d\x7f-\xff]")


_LINE_BREAKING: Final = re.compile(rb"[\x00-\x20\x7f]")


def make_target(uri: bytes, args: bytes) -> Target:
    """The target of a request that is made here, for a decoded `uri` and `args`: neither can end the request line."""
    if not uri.startswith(b"/"):
        uri = b"/" + uri
    args = one_target(args)
    path = escape_uri(uri)
    return Target(uri, args, path + b"?" + args if args else path, quoted=True)


def one_target(target: bytes) -> bytes:
    """`target` as it may stand in a request line: spaces and controls, which could end it, are escaped."""
    return target if _LINE_BREAKING.search(target) is None else _LINE_BREAKING.sub(_escape, target)


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def escape_uri(uri: bytes) -> bytes:
    """A decoded path as it goes on the wire (nginx: ngx_escape_uri with NGX_ESCAPE_URI)."""
    return _UNSAFE_URI.sub(_escape, uri)
