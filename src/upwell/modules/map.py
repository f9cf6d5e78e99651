"""`map`: a variable that another value decides (nginx: ngx_http_map_module)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.config.regex import compile_regex
from upwell.config.template import Template
from upwell.errors import ConfigError
from upwell.modules.rewrite import variable_name
from upwell.modules.variables import declare_groups

_NOTHING = Template(())


@dataclass(frozen=True, slots=True)
class Map:
    """One `map`. Keys are lower-case; `leading` ("x.y" for "*.x.y") and `trailing` ("x" for "x.*") are of `hostnames`.

    `regexes` are tried in their order when no key fits; `default` is what is left, the empty text unless given. A
    `volatile` one is looked up anew each time.
    """

    name: str
    source: Template
    exact: dict[str, Template]
    leading: dict[str, Template]
    trailing: dict[str, Template]
    regexes: tuple[tuple[re.Pattern[bytes], Template], ...] = ()
    default: Template = _NOTHING
    hostnames: bool = False
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class MapSettings:
    """On the http block."""

    maps: tuple[Map, ...] = field(default=(), metadata=LOCAL)


class _Entries:
    """The lines of one `map` while they are read."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.exact: dict[str, Template] = {}
        self.leading: dict[str, Template] = {}
        self.trailing: dict[str, Template] = {}
        self.regexes: list[tuple[re.Pattern[bytes], Template]] = []
        self.default: Template | None = None
        self.hostnames = False
        self.volatile = False

    def take(self, entry: Directive) -> None:
        """Raises ConfigError with nginx's sentence."""
        if entry.children is not None:
            raise entry.error('unexpected "{"')
        if not entry.args and entry.name in ("hostnames", "volatile"):
            if entry.name == "hostnames":
                self.hostnames = True
            else:
                self.volatile = True
            return
        if len(entry.args) != 1:
            raise entry.error("invalid number of the map parameters")
        key = entry.name
        if key == "default":
            if self.default is not None:
                raise entry.error("duplicate default map parameter")
            self.default = self.block.template(entry, 0)
        elif key.startswith("~"):
            caseless = key.startswith("~*")
            try:
                regex = compile_regex(key[2 if caseless else 1 :], caseless)
            except ValueError as error:
                raise entry.error(str(error)) from None
            declare_groups(self.block, regex)
            self.regexes.append((regex, self.block.template(entry, 0)))
        else:
            self._add(key.removeprefix("\\").lower(), self.block.template(entry, 0), entry)

    def _add(self, key: str, value: Template, entry: Directive) -> None:
        places = [(self.exact, key)]
        if self.hostnames and "*" in key:
            if key.startswith("*.") and "*" not in key[1:] and len(key) > 2:
                places = [(self.leading, key[2:])]
            elif key.endswith(".*") and "*" not in key[:-1] and len(key) > 2:
                places = [(self.trailing, key[:-2])]
            else:
                raise entry.error(f'invalid hostname or wildcard "{key}"')
        elif self.hostnames and key.startswith(".") and len(key) > 1:
            places = [(self.exact, key[1:]), (self.leading, key[1:])]
        for table, name in places:
            if name in table:
                raise entry.error(f'conflicting parameter "{key}"')
            table[name] = value


def _map(block: Block, directive: Directive) -> None:
    source = block.template(directive, 0)
    name = variable_name(block, directive, 1)
    entries = _Entries(block)
    for entry in directive.children or ():
        try:
            entries.take(entry)
        except ConfigError as error:
            block.loading.errors.append(error)
    found = Map(
        name,
        source,
        entries.exact,
        entries.leading,
        entries.trailing,
        tuple(entries.regexes),
        entries.default or _NOTHING,
        entries.hostnames,
        entries.volatile,
    )
    block.append(MapSettings, "maps", found)


MODULE = Module(
    "map",
    (command("map", "http stream", 2, _map, block=True),),
    options=("http_map_module", "stream_map_module"),
)
