"""`auth_basic` and `auth_basic_user_file`: a name and a password for who wants in (ngx_http_auth_basic_module)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import once
from upwell.config.template import Template
from upwell.log import CRIT, ERROR, INFO, printable
from upwell.modules.aside import Aside
from upwell.modules.user_file import UserFiles
from upwell.proxy.credentials import credentials
from upwell.proxy.location import Access
from upwell.proxy.tls import words_of_error

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from upwell.proxy.exchange import Exchange

_LEVELS: Final = "http server location limit_except"
_UNAUTHORIZED, _FORBIDDEN, _BROKEN = 401, 403, 500

Rendering = Callable[[Template], Callable[["Exchange"], bytes]]


@dataclass(frozen=True, slots=True)
class AuthBasicSettings:
    """`realm` is None or gives "off" where nobody is asked; relative paths of `file` start at `folder`."""

    realm: Template | None = None
    file: Template | None = None
    folder: str = ""

    @property
    def asks(self) -> bool:
        """Whether somebody may be asked for a password."""
        return self.realm is not None and self.file is not None and self.realm.literal != "off"


class UserChecks:
    """What all locations of a worker share that ask for passwords."""

    __slots__ = ("aside", "files", "known")

    def __init__(self) -> None:
        from upwell.modules.passwords import Known  # it opens a library; `auth_basic_user_file` has it loaded

        self.files = UserFiles()
        self.aside = Aside()
        self.known = Known()

    def __repr__(self) -> str:
        return f"<UserChecks {self.files} {self.aside} {self.known}>"


def compile_auth_basic(
    settings: AuthBasicSettings, render: Rendering, checks: UserChecks, passes: int | None
) -> Access:
    """The gate of a location that asks. `passes` is what it says of who may pass."""
    from upwell.modules.passwords import NoCrypt, is_slow, matches

    assert settings.realm is not None
    assert settings.file is not None
    realm, file = render(settings.realm), render(settings.file)
    folder = os.fsencode(settings.folder)
    known = checks.known

    def gate(exchange: Exchange) -> int | Awaitable[int | None] | None:
        name = realm(exchange)
        if name == b"off":
            return None
        given = credentials(exchange)
        if given is None:
            exchange.log(INFO, "no user/password was provided for basic authentication")
            return _challenge(exchange, name)
        user, password = given
        path = os.path.join(folder, file(exchange))
        try:
            stored = checks.files.users(path).get(user)
        except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
            return _no_file(exchange, path, error)
        if stored is None:
            exchange.log(ERROR, f'user "{printable(user)}" was not found in "{printable(path)}"')
            return _challenge(exchange, name)
        if not is_slow(stored):
            return passes if matches(password, stored) else _mismatch(exchange, user, name)
        if (password, stored) in known:
            return passes
        return slowly(exchange, user, password, stored, name)

    async def slowly(exchange: Exchange, user: bytes, password: bytes, stored: bytes, name: bytes) -> int | None:
        try:
            right = await checks.aside.run(exchange, lambda: matches(password, stored))
        except NoCrypt as error:
            exchange.log(CRIT, str(error))
            return _BROKEN
        if not right:
            return _mismatch(exchange, user, name)
        known.add(password, stored)
        return passes

    return gate


def _challenge(exchange: Exchange, realm: bytes) -> int:
    exchange.keep(((b"WWW-Authenticate", b'Basic realm="%b"' % realm),))
    return _UNAUTHORIZED


def _mismatch(exchange: Exchange, user: bytes, realm: bytes) -> int:
    exchange.log(ERROR, f'user "{printable(user)}": password mismatch')
    return _challenge(exchange, realm)


def _no_file(exchange: Exchange, path: bytes, error: OSError | ValueError) -> int:
    missing = isinstance(error, ValueError) or error.errno == errno.ENOENT
    call = "pread" if isinstance(error, IsADirectoryError) else "open"
    exchange.log(ERROR if missing else CRIT, f'{call}() "{printable(path)}" failed ({words_of_error(error)})')
    return _FORBIDDEN if missing else _BROKEN


def _auth_basic(block: Block, directive: Directive) -> None:
    once(block, directive, AuthBasicSettings, "realm")
    block.set(AuthBasicSettings, "realm", block.template(directive, 0))


def _user_file(block: Block, directive: Directive) -> None:
    once(block, directive, AuthBasicSettings, "file")
    block.set(AuthBasicSettings, "file", block.template(directive, 0))
    block.set(AuthBasicSettings, "folder", block.loading.folder)
    from upwell.modules.passwords import has_crypt  # here: while the library and the packages may be read

    if not has_crypt():
        message = "this machine has no crypt_r(): only $apr1$, {SHA}, {SSHA} and {PLAIN} passwords can be checked"
        block.loading.warnings.append(directive.error(message))


MODULE = Module(
    "auth_basic",
    (
        command("auth_basic", _LEVELS, 1, _auth_basic),
        command("auth_basic_user_file", _LEVELS, 1, _user_file),
    ),
    options=("http_auth_basic_module",),
)
