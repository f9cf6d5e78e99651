"""`state FILE;` of an `upstream`: its `server` lines stand in a file, which the checker writes anew when peers join,
leave or change (check/server_lists.py). A file that is not there is an empty list.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.lexer import Lexer
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.config.source import Source
from upwell.errors import ConfigError
from upwell.modules.core import full_path
from upwell.modules.upstream import UpstreamSettings, add_server
from upwell.peers.peer import PeerSpec
from upwell.peers.server_lines import said


@dataclass(frozen=True, slots=True)
class _Taken:
    """On the main level: the files of all upstreams so far."""

    paths: tuple[str, ...] = field(default=(), metadata=LOCAL)


def _state(block: Block, directive: Directive) -> None:
    once(block, directive, UpstreamSettings, "state")
    own = block.own(UpstreamSettings)
    if "peers" in own:
        raise directive.error('"state" cannot be used along with "server"')
    path = directive.args[0]
    if not path or path.endswith("/") or "\0" in path:
        raise directive.error(f'invalid file "{path}"', 0)
    path = os.path.normpath(full_path(block, path))
    main = block.around("main")
    if path in main[_Taken].paths or block.loading.sources.has(path):
        raise directive.error(f'"{path}" is in use already', 0)
    main.append(_Taken, "paths", path)
    block.set(UpstreamSettings, "state", path)
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    except OSError:
        regular = True  # what is wrong is told by who reads it
    if not regular:
        raise directive.error(f'"{path}" is not a file', 0)
    source = block.loading.sources.read(path, directive.place(0))
    for server in _servers(source, block.loading.errors):
        try:
            add_server(block, server)
        except ConfigError as error:
            block.loading.errors.append(error)
    peers: list[PeerSpec] = own.get("peers", [])
    for at, peer in enumerate(peers):
        if peer.server != said(peer):
            # The name will not be written again, and `hash consistent` goes by what is.
            peers[at] = replace(peer, server=said(peer))


def _servers(source: Source, errors: list[ConfigError]) -> Iterator[Directive]:
    """The `server` lines of a file; whatever else is there goes to `errors`."""
    lexer = Lexer(source, errors)
    while True:
        end, words, offsets, offset = lexer.read()
        if not end:
            return
        if end == "}":
            if not words:  # else the lexer has said so
                lexer.error('unexpected "}"', offset)
            continue
        if not words:
            continue
        found = Directive(words[0], tuple(words[1:]), source, offsets)
        if found.name != "server":
            errors.append(found.error(f'"{found.name}" directive is not allowed here'))
        elif end != ";":
            errors.append(found.error('directive "server" is not terminated by ";"'))
        elif not found.args:
            errors.append(found.error('invalid number of arguments in "server" directive'))
        else:
            yield found
        if end == "{":
            return


MODULE = Module("upstream_state", (command("state", "upstream stream_upstream", 1, _state),))
