"""`error_page` and `recursive_error_pages`: which page answers which status. Answering is proxy/error_page.py's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import flag, parse_number
from upwell.config.template import Template
from upwell.proxy import error_page

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange

_LEVELS = "http server location"
_LEAST, _GREATEST = 300, 599
_NEVER = 499  # the client is gone
_SENT_AS_400 = frozenset((494, 495, 496, 497))


@dataclass(frozen=True, slots=True)
class Page:
    """One status of one `error_page`; `shown` is the status that the client gets: None for the same, 0 for the page's
    own.
    """

    status: int
    shown: int | None
    value: Template


@dataclass(frozen=True, slots=True)
class ErrorPageSettings:
    """Of several pages for one status the first counts. A level with pages of its own inherits none."""

    pages: tuple[Page, ...] = ()
    recursive: bool = False


def compile_error_pages(
    settings: ErrorPageSettings, render: Callable[[Template], Callable[[Exchange], bytes]]
) -> error_page.ErrorPages | None:
    """The pages of a location; None where there are none. `render` makes a template into a function."""
    if not settings.pages:
        return None
    pages: dict[int, error_page.ErrorPage] = {}
    for page in settings.pages:
        pages.setdefault(page.status, error_page.ErrorPage(render(page.value), page.shown))
    return error_page.ErrorPages(pages, settings.recursive)


def _error_page(block: Block, directive: Directive) -> None:
    args = directive.args
    last = len(args) - 1
    statuses = args[:last]
    shown: int | None = None
    if statuses[-1].startswith("="):
        try:
            if len(statuses) == 1:
                raise ValueError(statuses[-1])
            shown = parse_number(statuses[-1][1:]) if len(statuses[-1]) > 1 else 0
        except ValueError:
            raise directive.error(f'invalid value "{statuses[-1]}"', last - 1) from None
        statuses = statuses[:-1]
    value = block.template(directive, last)
    for index, text in enumerate(statuses):
        try:
            status = parse_number(text)
            if status == _NEVER:
                raise ValueError(text)
        except ValueError:
            raise directive.error(f'invalid value "{text}"', index) from None
        if not _LEAST <= status <= _GREATEST:
            raise directive.error(f'value "{text}" must be between 300 and 599', index)
        page = Page(status, 400 if shown is None and status in _SENT_AS_400 else shown, value)
        block.append(ErrorPageSettings, "pages", page)


MODULE = Module(
    "error_page",
    (
        command("error_page", f"{_LEVELS} if", (2, None), _error_page),
        command("recursive_error_pages", _LEVELS, 1, flag(ErrorPageSettings, "recursive")),
    ),
)
