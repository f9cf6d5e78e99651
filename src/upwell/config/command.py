"""The command table: which directive may stand where, with how many arguments, and who takes it. Knows no directive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.errors import ConfigError

Setter = Callable[[Block, Directive], None]


@dataclass(frozen=True, slots=True)
class Command:
    """One directive in some contexts (nginx: ngx_command_t).

    `least`/`most` bound the number of arguments (`most` None: any number). `block`: the directive has a body. If it
    `opens` a kind of block, a Block of that kind is made, `setter` gets *that* block, and its body is applied; else the
    setter gets the surrounding block and reads `directive.children` itself.
    """

    name: str
    contexts: frozenset[str]
    least: int
    most: int | None
    setter: Setter
    block: bool = False
    opens: str = ""


@dataclass(frozen=True, slots=True)
class Module:
    """One feature: its commands, and what is checked when a block of a kind is complete.

    `options` are the names of nginx's optional modules that this feature stands for (`http_access_module`).
    """

    name: str
    commands: tuple[Command, ...]
    closers: Mapping[str, Callable[[Block], None]] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def words(text: str) -> frozenset[str]:
    """The words of `text`, for tables of names."""
    return frozenset(text.split())


def command(
    name: str, contexts: str, takes: int | tuple[int, int | None], setter: Setter, block: bool = False, opens: str = ""
) -> Command:
    """A Command; `contexts` is a list of kinds in one string, `takes` a number of arguments or its bounds."""
    least, most = (takes, takes) if isinstance(takes, int) else takes
    return Command(name, words(contexts), least, most, setter, block or bool(opens), opens)


_NOTHING: Mapping[str, frozenset[str]] = MappingProxyType({})
_NO_REASONS: Mapping[str, str] = MappingProxyType({})


class Table:
    """All commands by context and name, the names known to nginx that upwell lacks (`lacking`: those that it lacks in
    one section, and has in another; `reasons`: why), and the closers.
    """

    def __init__(
        self,
        modules: Iterable[Module],
        unsupported: frozenset[str],
        lacking: Mapping[str, frozenset[str]] = _NOTHING,
        reasons: Mapping[str, str] = _NO_REASONS,
    ) -> None:
        self.reasons = reasons
        self.unsupported = unsupported
        self.lacking = lacking
        self._commands: dict[tuple[str, str], Command] = {}
        self._closers: dict[str, list[Callable[[Block], None]]] = {}
        self._names: set[str] = set()
        for module in modules:
            for item in module.commands:
                self._names.add(item.name)
                for context in item.contexts:
                    if (context, item.name) in self._commands:
                        raise ValueError(f"two commands for {item.name} in {context}")
                    self._commands[context, item.name] = item
            for kind, closer in module.closers.items():
                self._closers.setdefault(kind, []).append(closer)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._names)

    def apply(self, block: Block, directives: Iterable[Directive]) -> None:
        """Give each directive to its setter; errors are collected in the load, each directive stands for itself."""
        errors = block.loading.errors
        kind = block.kind
        commands = self._commands
        for directive in directives:
            found = commands.get((kind, directive.name))
            try:
                if found is None:
                    raise self._misplaced(block, directive)
                if found.block != (directive.children is not None):
                    raise _wrong_end(block, directive, found)
                count = len(directive.args)
                if count < found.least or (found.most is not None and count > found.most):
                    raise directive.error(f'invalid number of arguments in "{directive.name}" directive')
                if found.opens:
                    self._open(block, directive, found)
                else:
                    found.setter(block, directive)
            except ConfigError as error:
                errors.append(error)
                block.loading.refused.add((block.position, directive.name))

    def close(self, block: Block) -> None:
        """Check a complete block."""
        if block.loading.broken and block.kind in ("main", "http"):
            return
        for closer in self._closers.get(block.kind, ()):
            try:
                closer(block)
            except ConfigError as error:
                block.loading.errors.append(error)

    def _open(self, outer: Block, directive: Directive, found: Command) -> None:
        block = Block(found.opens, directive.position, directive.args, outer, outer.loading)
        try:
            found.setter(block, directive)
        except ConfigError as error:
            # The body is read all the same: its own errors are wanted too.
            outer.loading.errors.append(error)
        self.apply(block, directive.children or ())
        self.close(block)

    def _misplaced(self, block: Block, directive: Directive) -> ConfigError:
        if directive.name in self.lacking.get(block.section.kind, ()):
            return directive.error(f'"{directive.name}" is not supported by upwell in {block.section.kind}')
        if directive.name in self._names:
            return directive.error(f'"{directive.name}" directive is not allowed here')
        if directive.name in self.unsupported:
            block.loading.forgiven.update(arg[1:] for arg in directive.args if arg.startswith("$"))
            why = self.reasons.get(directive.name)
            return directive.error(f'"{directive.name}" is not supported by upwell{f": {why}" if why else ""}')
        return directive.error(f'unknown directive "{directive.name}"')


def _wrong_end(block: Block, directive: Directive, found: Command) -> ConfigError:
    if found.block:
        block.loading.broken = True
        return directive.error(f'directive "{directive.name}" has no opening "{{"')
    return directive.error(f'directive "{directive.name}" is not terminated by ";"')
