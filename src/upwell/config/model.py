"""The tree that a configuration becomes: blocks that answer with frozen settings. Knows no directive."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from upwell.config.directive import Directive
from upwell.config.inherit import merge
from upwell.config.source import Source, Sources
from upwell.config.template import Template, compile_template
from upwell.errors import ConfigError, Position

S = TypeVar("S")

Resolve = Callable[[str], list[str]]
"""A host name to its IP addresses as text, in the order of use. Raises OSError when there are none."""


@dataclass(slots=True)
class Load:
    """What the setters of one load share: where paths start, who resolves names, and what was found wrong.

    `prefix` is nginx's `-p`; `folder` the directory of the main file; `sources` are the files read so far. `uses` are
    the variables that templates name, with their places; they are checked when the whole file is known. `forgiven` are
    variables that a refused directive would have made; `refused` are the directives that were, by the place of the
    block they stand in. `idle` are the directives that change nothing, as written. `broken`: braces do not fit, so that
    checks over whole blocks would find nonsense.
    """

    prefix: str
    folder: str
    resolve: Resolve
    sources: Sources
    errors: list[ConfigError] = field(default_factory=list)
    warnings: list[ConfigError] = field(default_factory=list)
    uses: list[tuple[str, Position]] = field(default_factory=list)
    forgiven: set[str] = field(default_factory=set)
    refused: set[tuple[Position, str]] = field(default_factory=set)
    idle: list[tuple[str, Position]] = field(default_factory=list)
    broken: bool = False
    outside: list[Hashable] = field(default_factory=list)
    """What was found elsewhere and is part of what the file means: files that it names, addresses that it was told."""

    def depend_on(self, path: str) -> None:
        """The file at `path` is used as it is now; when it is another one, the same text means something else."""
        try:
            found = os.stat(path)
        except OSError:
            self.outside.append(path)
        else:
            self.outside.append((path, found.st_mtime_ns, found.st_size, found.st_ino))


class Block:
    """One block of the configuration: `kind` is "main", "events", "http", "upstream", "server", "location",
    "limit_except", "server_if", "if" (in a location), or "stream", "stream_upstream", "stream_server".

    `block[ProxySettings]` is the frozen dataclass of that feature for this block: its own values over those inherited
    from the blocks around it. While a file is loaded, setters put values in with `set`; afterwards nothing changes.
    """

    __slots__ = ("_children", "_own", "_settings", "args", "kind", "load", "parent", "position")

    def __init__(self, kind: str, position: Position, args: tuple[str, ...], parent: Block | None, load: Load) -> None:
        self.kind = kind
        self.position = position
        self.args = args
        self.parent = parent
        self.load: Load | None = load
        self._children: list[Block] = []
        self._own: dict[type[Any], dict[str, Any]] = {}
        self._settings: dict[type[Any], Any] = {}
        if parent is not None:
            parent._children.append(self)

    def __repr__(self) -> str:
        return f"<Block {' '.join((self.kind, *self.args))} at {self.position}>"

    def __getitem__(self, settings: type[S]) -> S:
        known = self._settings.get(settings)
        if known is None:
            outer = self.parent[settings] if self.parent is not None else None
            known = merge(settings, outer, self._own.get(settings), self.kind == "if")
            if self.load is None:
                self._settings[settings] = known
        return cast(S, known)

    @property
    def children(self) -> tuple[Block, ...]:
        return tuple(self._children)

    def of(self, kind: str) -> Iterator[Block]:
        """The children of one kind, in the order of the file."""
        return (child for child in self._children if child.kind == kind)

    def walk(self) -> Iterator[Block]:
        """This block and everything inside it, in the order of the file."""
        yield self
        for child in self._children:
            yield from child.walk()

    def given(self) -> list[tuple[type[Any], Mapping[str, Any]]]:
        """The values that this very level gives, by settings class."""
        return [(settings, dict(own)) for settings, own in self._own.items() if own]

    def around(self, kind: str) -> Block:
        """The nearest block of `kind`, from this one outwards. Raises LookupError."""
        block: Block | None = self
        while block is not None:
            if block.kind == kind:
                return block
            block = block.parent
        raise LookupError(kind)

    @property
    def section(self) -> Block:
        """The block right below the main level that this one is, or stands in: `http` or `stream`."""
        block = self
        while block.parent is not None and block.parent.parent is not None:
            block = block.parent
        return block

    # What follows is for setters, while the file is being loaded.

    @property
    def loading(self) -> Load:
        if self.load is None:
            raise RuntimeError("the configuration is loaded: its blocks do not change any more")
        return self.load

    def own(self, settings: type[Any]) -> dict[str, Any]:
        """The values given at this very level."""
        return self._own.setdefault(settings, {})

    def set(self, settings: type[Any], name: str, value: Any) -> None:
        if self.load is None:
            raise RuntimeError("the configuration is loaded: its blocks do not change any more")
        self.own(settings)[name] = value

    def append(self, settings: type[Any], name: str, value: Any) -> None:
        """Add to a list-like setting of this level; the first addition hides the inherited list, as in nginx."""
        own = self.own(settings)
        own[name] = (*own.get(name, ()), value)

    def template(self, directive: Directive, index: int, text: str | None = None) -> Template:
        """Argument `index` of `directive` (or `text`, a part of it) as a template; its variables are checked later."""
        try:
            template = compile_template(directive.args[index] if text is None else text)
        except ValueError as error:
            raise directive.error(str(error), index) from None
        self.loading.uses.extend((name, directive.place(index)) for name in template.variables)
        return template

    def seal(self) -> None:
        """End the load: from now on settings are computed once and kept."""
        self.load = None
        for child in self._children:
            child.seal()


@dataclass(frozen=True, slots=True)
class Config:
    """A loaded configuration. `files` are those read, with their text (`-T`); `warnings` are nginx's `[warn]` lines;
    `idle` are the directives that change nothing, as written. `shape` is all that it says but for the `server` lines of
    upstreams, and what it means beyond its own text, in a form to be compared."""

    main: Block
    files: tuple[Source, ...]
    path: str
    prefix: str
    warnings: tuple[ConfigError, ...] = ()
    idle: tuple[tuple[str, Position], ...] = ()
    shape: Hashable = None
