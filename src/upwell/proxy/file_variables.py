"""Variables about files: $document_root, $realpath_root, $request_filename."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from upwell.log import CRIT, printable
from upwell.proxy.files import NoPath, words_of

if TYPE_CHECKING:
    from upwell.proxy.exchange import Exchange


def _document_root(exchange: Exchange) -> bytes | None:
    files = exchange.location.files
    return None if files is None else files.folder(exchange)


def _realpath_root(exchange: Exchange) -> bytes | None:
    folder = _document_root(exchange)
    if folder is None:
        return None
    try:
        return os.path.realpath(folder, strict=True)
    except OSError as error:
        exchange.log(CRIT, f'realpath() "{printable(folder)}" failed ({words_of(error.errno or 0)})')
        return None
    except ValueError:  # NUL in it
        return None


def _request_filename(exchange: Exchange) -> bytes | None:
    files = exchange.location.files
    if files is None:
        return None
    try:
        return files.path(exchange)
    except NoPath:
        return None


VARIABLES: dict[str, Callable[[Exchange], bytes | None]] = {
    "document_root": _document_root,
    "realpath_root": _realpath_root,
    "request_filename": _request_filename,
}
