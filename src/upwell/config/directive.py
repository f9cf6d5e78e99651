"""Text into a tree of directives, `include` expanded. Knows the language, not what any directive means."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable

from upwell.config.lexer import Lexer
from upwell.config.source import Source, Sources
from upwell.errors import ConfigError, Position

_DEEPEST = 64
"""Blocks and includes nest no deeper than this: no real file comes near, and the tree is walked recursively."""

_BROKEN = ('unexpected "', "unexpected end of ", "Lua code block missing", "blocks are nested")


class Directive:
    """One directive as written: its name, its arguments (unquoted) and the directives of its block, if it has one.

    `children` is None when the directive ended with ";". `lua` is the raw text of a `*_by_lua_block`.
    """

    __slots__ = ("args", "children", "lua", "name", "offsets", "source")

    def __init__(self, name: str, args: tuple[str, ...], source: Source, offsets: list[int]) -> None:
        self.name = name
        self.args = args
        self.source = source
        self.offsets = offsets
        self.children: list[Directive] | None = None
        self.lua: str | None = None

    def __repr__(self) -> str:
        return f"<Directive {self.name} {' '.join(self.args)} at {self.position}>"

    @property
    def position(self) -> Position:
        return self.source.position(self.offsets[0])

    def place(self, index: int) -> Position:
        """Where argument `index` stands (0: the first argument; an absent one: the directive's name)."""
        return self.source.position(self.offsets[index + 1] if index + 1 < len(self.offsets) else self.offsets[0])

    def error(self, message: str, index: int | None = None) -> ConfigError:
        """An error at the directive, or at its argument `index`."""
        return ConfigError(message, self.position if index is None else self.place(index))


def shape(directives: Iterable[Directive], without: Collection[tuple[str, str]], around: str = "") -> Hashable:
    """What `directives` say, however it is written: equal for files that differ in comments, spaces, quotes and in how
    they include each other. `without`: directives that are left out, by the block around them."""
    return tuple(
        (
            one.name,
            one.args,
            one.lua,
            shape(one.children, without, one.name) if one.children is not None else None,
        )
        for one in directives
        if (around, one.name) not in without
    )


def is_lua_block(name: str) -> bool:
    return name.endswith("_by_lua_block")


def parse(source: Source, sources: Sources, errors: list[ConfigError]) -> list[Directive]:
    """The directives of `source`, with those of every included file in their place. What is wrong goes to `errors`."""
    return _parse(source, sources, errors, (source.path,))


def broken(errors: list[ConfigError]) -> bool:
    """Whether the braces of a file did not fit, so that everything after it may stand in the wrong block."""
    return any(error.message.startswith(_BROKEN) for error in errors)


def _parse(source: Source, sources: Sources, errors: list[ConfigError], including: tuple[str, ...]) -> list[Directive]:
    lexer = Lexer(source, errors)
    current: list[Directive] = []
    open_blocks: list[list[Directive]] = []
    nameless = 0
    while True:
        end, words, offsets, offset = lexer.read()
        if end == "}":
            if open_blocks:
                current = open_blocks.pop()
            elif not words:
                lexer.error('unexpected "}"', offset)
            continue
        if not end:
            break
        directive = Directive(words[0], tuple(words[1:]), source, offsets) if words else None
        if end == ";":
            if directive is None:
                continue
            if directive.name == "include":
                current.extend(_include(directive, sources, errors, including))
            else:
                current.append(directive)
            continue
        if directive is not None and not source.numbered:
            lexer.error("block directives are not supported in -g option", offset)
            return current
        if directive is not None and is_lua_block(directive.name):
            directive.lua = lexer.read_lua(offsets[0])
            directive.children = []
            current.append(directive)
            continue
        children: list[Directive] = []
        if directive is None:
            nameless += 1
        elif directive.name == "include":
            errors.append(directive.error('directive "include" is not terminated by ";"'))
        else:
            directive.children = children
            current.append(directive)
        open_blocks.append(current)
        if len(open_blocks) > _DEEPEST:
            lexer.error("blocks are nested too deeply", offset)
            return open_blocks[0]
        current = children
    if open_blocks:
        if len(open_blocks) > nameless and not any(
            error.message.startswith("unexpected end of file") for error in errors
        ):
            lexer.error('unexpected end of file, expecting "}"', len(source.text))
        current = open_blocks[0]
    return current


def _include(
    directive: Directive, sources: Sources, errors: list[ConfigError], including: tuple[str, ...]
) -> list[Directive]:
    directives: list[Directive] = []
    if len(directive.args) != 1:
        errors.append(directive.error('invalid number of arguments in "include" directive'))
        return directives
    for path in sources.find(directive.args[0]):
        if path in including or len(including) > _DEEPEST:
            errors.append(directive.error(f'"{path}" includes itself', 0))
            continue
        try:
            source = sources.read(path, directive.place(0))
        except ConfigError as error:
            errors.append(error)
            continue
        directives.extend(_parse(source, sources, errors, (*including, path)))
    return directives
