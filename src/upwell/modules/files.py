"""`root`, `alias`, `index` and how plain files are answered. Which file a request gets is proxy/files.py's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import choice, flag, number
from upwell.config.template import Template
from upwell.http1.conditions import BEFORE, EXACT, OFF
from upwell.modules.autoindex import AutoindexSettings, compile_listing
from upwell.modules.core import full_path
from upwell.modules.gzip import GzipSettings, compile_packed
from upwell.modules.location import LocationSettings
from upwell.proxy.files import BY_REGEX, UNLIMITED, Files

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

    Value = Callable[[Exchange], bytes]

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class FilesSettings:
    """Where files are. `root` None: the folder `html` of the prefix. `alias` is how many bytes of the URI the folder
    stands for, 0 for a root, `BY_REGEX` for all of them.
    """

    root: Template | None = None
    alias: int = 0
    index: tuple[Template, ...] = (Template(("index.html",)),)
    etag: bool = True
    if_modified_since: int = EXACT
    max_ranges: int = UNLIMITED
    log_not_found: bool = True


def compile_files(block: Block, prefix: str, render: Callable[[Template], Value]) -> Files:
    """The files of a level; `render` makes a template into a function of the exchange."""
    settings = block[FilesSettings]
    root = settings.root if settings.root is not None else Template((f"{prefix.rstrip('/')}/html",))
    literal = root.literal
    return Files(
        _octets(literal or ""),
        render(root) if literal is None else None,
        settings.alias,
        _octets(f"{prefix.rstrip('/')}/"),
        [one_name(name, render) for name in settings.index],
        settings.etag,
        settings.if_modified_since,
        settings.max_ranges,
        settings.log_not_found,
        block[LocationSettings].pattern,
        compile_listing(block[AutoindexSettings]),
        compile_packed(block[GzipSettings]),
    )


def one_name(name: Template, render: Callable[[Template], Value]) -> bytes | Value:
    """A name as it is, or the function that gives it."""
    return render(name) if name.literal is None else _octets(name.literal)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _root(block: Block, directive: Directive) -> None:
    name = directive.name
    own = block.own(FilesSettings)
    if "root" in own:
        earlier = "alias" if own["alias"] else "root"
        if earlier == name:
            raise directive.error(f'"{name}" directive is duplicate')
        raise directive.error(f'"{name}" directive is duplicate, "{earlier}" directive was specified earlier')
    location = block[LocationSettings]
    if name == "alias" and location.is_named:
        raise directive.error('the "alias" directive cannot be used inside the named location')
    text = directive.args[0]
    for variable in ("document_root", "realpath_root"):
        if f"${variable}" in text or f"${{{variable}}}" in text:
            raise directive.error(f'the ${variable} variable cannot be used in the "{name}" directive', 0)
    if name == "root" and text.endswith("/"):
        text = text[:-1]
    if directive.args[0][:1] not in ("$", "/"):
        text = full_path(block, text)
    block.set(FilesSettings, "root", block.template(directive, 0, text))
    alias = 0
    if name == "alias":
        alias = BY_REGEX if location.is_regex else len(_octets(location.pattern))
    block.set(FilesSettings, "alias", alias)


def _index(block: Block, directive: Directive) -> None:
    for index, name in enumerate(directive.args):
        if not name:
            raise directive.error(f'index "{name}" in "index" directive is invalid', index)
        if name.startswith("/") and index != len(directive.args) - 1:
            message = f'only the last index in "{directive.name}" directive should be absolute'
            block.loading.warnings.append(directive.error(message, index))
        block.append(FilesSettings, "index", block.template(directive, index))


MODULE = Module(
    "files",
    (
        command("root", f"{_LEVELS} if", 1, _root),
        command("alias", "location", 1, _root),
        command("index", _LEVELS, (1, None), _index),
        command("etag", _LEVELS, 1, flag(FilesSettings, "etag")),
        command(
            "if_modified_since",
            _LEVELS,
            1,
            choice(FilesSettings, "if_modified_since", {"off": OFF, "exact": EXACT, "before": BEFORE}),
        ),
        command("max_ranges", _LEVELS, 1, number(FilesSettings, "max_ranges")),
        command("log_not_found", _LEVELS, 1, flag(FilesSettings, "log_not_found")),
    ),
)
