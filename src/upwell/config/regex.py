"""Regular expressions of nginx.conf (PCRE) as Python's `re` on bytes. Knows the few spellings that differ."""

from __future__ import annotations

import re
import warnings

_NAMED = re.compile(r"\\.|\(\?(?:<(?![=!])|')([A-Za-z_][A-Za-z0-9_]*)[>']", re.DOTALL)


def compile_regex(pattern: str, caseless: bool = False) -> re.Pattern[bytes]:
    """Compile `pattern`. Raises ValueError with a sentence like nginx's, the reason being Python's."""
    translated = _NAMED.sub(lambda match: f"(?P<{match[1]}>" if match[1] else match[0], pattern)
    try:
        with warnings.catch_warnings():
            # A spelling that Python only warns about ([[:alpha:]]) would match something else than PCRE does.
            warnings.simplefilter("error")
            return re.compile(translated.encode("utf-8", "surrogateescape"), re.IGNORECASE if caseless else 0)
    except (re.error, FutureWarning, DeprecationWarning, OverflowError, RecursionError) as error:
        raise ValueError(f'pcre2_compile() failed: {error} in "{pattern}"') from None
