"""`text $var ${var}x` split into its parts. Knows the syntax of variables, not which ones exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_PIECE = re.compile(r"[^$]+|\$([1-9])|\$\{([^}]*)\}|\$([A-Za-z0-9_]+)|(\$\{)|(\$)")
_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Variable:
    """A `$name` in a template. `$1`...`$9` (captures of the last regular expression) have their digit as name."""

    name: str


@dataclass(frozen=True, slots=True)
class Template:
    """A text with variables: literal pieces are `str`, the others `Variable`; neighbouring literals are joined."""

    parts: tuple[str | Variable, ...]

    def __str__(self) -> str:
        return "".join(part if isinstance(part, str) else f"${{{part.name}}}" for part in self.parts)

    @property
    def literal(self) -> str | None:
        """The whole text if it has no variables, else None."""
        if not self.parts:
            return ""
        first = self.parts[0]
        return first if len(self.parts) == 1 and isinstance(first, str) else None

    @property
    def variables(self) -> Iterator[str]:
        return (part.name for part in self.parts if isinstance(part, Variable))


def compile_template(text: str) -> Template:
    """Split `text` (nginx: ngx_http_script_compile). Raises ValueError with nginx's sentence."""
    if "$" not in text:
        return Template((text,) if text else ())
    parts: list[str | Variable] = []
    for match in _PIECE.finditer(text):
        capture, braced, name, unclosed, lone = match.groups()
        if unclosed is not None and match.end() < len(text):
            word = _NAME.match(text, match.end())
            raise ValueError(f'the closing bracket in "{word[0] if word else ""}" variable is missing')
        if unclosed is not None or lone is not None or (braced is not None and not _NAME.fullmatch(braced)):
            raise ValueError("invalid variable name")
        if braced is not None and len(braced) == 1 and braced.isdigit():
            # nginx knows captures as $1 only, not as ${1}
            raise ValueError(f'unknown "{braced}" variable')
        if capture is not None or braced is not None or name is not None:
            parts.append(Variable(capture or braced or name))
        else:
            parts.append(match[0])
    return Template(tuple(parts))
