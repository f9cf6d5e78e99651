"""Regular expressions of nginx.conf: PCRE over bytes, with nginx's words when one is wrong."""

from __future__ import annotations

import re

from upwell.pcre import PatternError, compile_pattern


def compile_regex(pattern: str, caseless: bool = False) -> re.Pattern[bytes]:
    """Compile `pattern`. Raises ValueError with a sentence like nginx's."""
    try:
        return compile_pattern(pattern.encode("utf-8", "surrogateescape"), re.IGNORECASE if caseless else 0)
    except PatternError as error:
        raise ValueError(f'pcre2_compile() failed: {error} in "{pattern}"') from None
