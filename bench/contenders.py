"""Who is measured: upwell and nginx with the guide's configuration, and with what is done about idle connections."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from upwell.contrib.guide import guide_text, with_ports

MIME_TYPES = "types {\n    text/html html;\n    text/plain txt;\n}\n"
"""A mime.types for every contender alike, since not every nginx brings one."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One column: a program and how it treats connections to the peers ("guide": as its defaults say)."""

    program: str
    upstream: str

    @property
    def title(self) -> str:
        return self.program if self.upstream == "guide" else f"{self.program}, {self.upstream}"


CONTENDERS = (
    Contender("upwell", "guide"),
    Contender("nginx", "guide"),
    Contender("upwell", "keepalive 64"),
    Contender("nginx", "keepalive 64"),
    Contender("nginx", "keepalive off"),
)

RATIOS = (
    (Contender("upwell", "guide"), Contender("nginx", "guide")),
    (Contender("upwell", "keepalive 64"), Contender("nginx", "keepalive 64")),
    (Contender("upwell", "guide"), Contender("nginx", "keepalive off")),
)
"""Which columns are divided by which."""


def configuration(contender: Contender, ports: Mapping[int, int]) -> str:
    """The guide's file for `contender`: ports, its way with upstream connections, and no Lua for plain nginx."""
    text = with_ports(guide_text(), ports)
    if contender.program == "nginx":
        text = without_lua(text)
    if contender.upstream == "keepalive 64":
        text = re.sub(r"(upstream \w+ \{)", r"\1\n        keepalive 64;", text)
    if contender.upstream == "keepalive off":
        text = text.replace("http {", "http {\n    proxy_http_version 1.0;", 1)
    return text


_LUA_LINE = re.compile(r"^\s*lua_\w+ [^;]*;+[^\n]*\n", re.MULTILINE)
_LUA_BLOCK = re.compile(r"^\s*\w+_by_lua_block \{", re.MULTILINE)


def without_lua(text: str) -> str:
    """The guide's text without its Lua directives: the proxying part, which is what nginx without Lua can run."""
    text = _LUA_LINE.sub("", text)
    while (block := _LUA_BLOCK.search(text)) is not None:
        depth, end = 1, block.end()
        while depth:  # the guide's Lua has its braces in pairs, in comments and strings too
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        text = text[: block.start()] + text[end:]
    return text
