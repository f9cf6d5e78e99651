"""OpenSSL's configuration commands as far as they can be carried out (nginx: ssl_conf_command).

The names are those of SSL_CONF_cmd() in files, without regard to case. Knows contexts; no file of a configuration.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from upwell.proxy import openssl

_VERSIONS: Final = {"tlsv1.2": ssl.TLSVersion.TLSv1_2, "tlsv1.3": ssl.TLSVersion.TLSv1_3}
"""Older ones are no safe choice, nor is none."""

# Options of openssl/ssl.h for which Python has no name.
_PRIORITIZE_CHACHA: Final = 1 << 21
_NO_EXTENDED_MASTER_SECRET: Final = 1 << 0
_NO_ENCRYPT_THEN_MAC: Final = 1 << 19
_ALLOW_NO_DHE_KEX: Final = 1 << 10
_NO_SESSION_ON_RENEGOTIATION: Final = 1 << 16

_OPTIONS: Final[dict[str, tuple[int, bool]]] = {
    "allownodhekex": (_ALLOW_NO_DHE_KEX, True),
    "clientrenegotiation": (ssl.OP_NO_RENEGOTIATION, False),
    "compression": (ssl.OP_NO_COMPRESSION, False),
    "dhsingle": (ssl.OP_SINGLE_DH_USE, True),
    "ecdhsingle": (ssl.OP_SINGLE_ECDH_USE, True),
    "encryptthenmac": (_NO_ENCRYPT_THEN_MAC, False),
    "extendedmastersecret": (_NO_EXTENDED_MASTER_SECRET, False),
    "middleboxcompat": (ssl.OP_ENABLE_MIDDLEBOX_COMPAT, True),
    "norenegotiation": (ssl.OP_NO_RENEGOTIATION, True),
    "noresumptiononrenegotiation": (_NO_SESSION_ON_RENEGOTIATION, True),
    "prioritizechacha": (_PRIORITIZE_CHACHA, True),
    "serverpreference": (ssl.OP_CIPHER_SERVER_PREFERENCE, True),
    "sessionticket": (ssl.OP_NO_TICKET, False),
}
"""Name: the bit, and whether the name sets it."""

_NEVER: Final = ("clientrenegotiation", "compression", "unsafelegacyrenegotiation", "unsafelegacyserverconnect")
"""They may be taken away, not given."""


class CommandError(ValueError):
    """It cannot be done; the text is a sentence."""


def configure(context: ssl.SSLContext, name: str, value: str) -> None:
    """Carry out one command. Raises CommandError."""
    run = _COMMANDS.get(name.lower())
    if run is None:
        raise CommandError(f"Python's ssl cannot carry out the command {name}")
    try:
        run(context, value)
    except (ssl.SSLError, ValueError, OSError) as error:
        if isinstance(error, CommandError):
            raise
        raise CommandError(f'"{value}" is no value for the command {name}') from None


def _set_options(context: ssl.SSLContext, value: str) -> None:
    for word in value.split(","):
        sign, name = (word[0], word[1:].lower()) if word[:1] in ("+", "-") else ("+", word.lower())
        if name == "ktls":
            continue  # bytes go through OpenSSL's memory, where the kernel has no part
        if name in _NEVER and sign == "+":
            raise CommandError(f"the option {word} is not safe")
        if name not in _OPTIONS:
            raise CommandError(f"Python's ssl has no option {word}")
        bit, sets = _OPTIONS[name]
        if sets == (sign == "+"):
            context.options |= bit
        else:
            context.options &= ~bit


def _version(value: str) -> ssl.TLSVersion:
    found = _VERSIONS.get(value.lower())
    if found is None:
        raise CommandError(f"the protocol {value} is not supported by upwell")
    return found


def _set_least(context: ssl.SSLContext, value: str) -> None:
    context.minimum_version = _version(value)


def _set_most(context: ssl.SSLContext, value: str) -> None:
    context.maximum_version = _version(value)


def set_curves(context: ssl.SSLContext, value: str) -> None:
    """One or several, between colons. Raises CommandError."""
    why = openssl.unreachable()
    if not why:
        known = openssl.set_groups(context, value)
    elif ":" in value:
        raise CommandError(f"Python's ssl takes one curve, not several, and {why}")
    else:
        try:
            context.set_ecdh_curve(value)
            known = True
        except ValueError:
            known = False
    if not known:
        raise CommandError(f'there is no curve "{value}"')


def _set_ciphersuites(context: ssl.SSLContext, value: str) -> None:
    why = openssl.unreachable()
    if why:
        raise CommandError(why)
    if not openssl.set_ciphersuites(context, value):
        raise CommandError(f'no cipher can be selected by "{value}"')


_COMMANDS: Final[dict[str, Callable[[ssl.SSLContext, str], None]]] = {
    "cipherstring": lambda context, value: context.set_ciphers(value),
    "ciphersuites": _set_ciphersuites,
    "curves": set_curves,
    "dhparameters": lambda context, value: context.load_dh_params(value),
    "groups": set_curves,
    "maxprotocol": _set_most,
    "minprotocol": _set_least,
    "options": _set_options,
}
