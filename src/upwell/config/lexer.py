"""nginx's tokens: words, quotes, escapes, comments and raw Lua blocks. Knows no directive."""

from __future__ import annotations

import re
from typing import NamedTuple

from upwell.config.source import Source
from upwell.errors import ConfigError

_LONGEST = 4096
"""nginx reads a parameter into a buffer of this many bytes (NGX_CONF_BUFFER) and refuses what does not fit."""

_TOKEN = re.compile(
    r"(?:[ \t\r\n]++|\#[^\n]*+)*+"
    r"(?:([;{}])"
    r"|((?![\"'])(?:[^ \t\r\n;{\\$]++|\\.|\$\{*+)++)"
    r"|\"((?:[^\"\\]++|\\.)*+)\""
    r"|'((?:[^'\\]++|\\.)*+)'"
    r"|([\"'\\])"
    r"|\Z)",
    re.DOTALL,
)
_PUNCTUATION, _WORD, _DOUBLE, _SINGLE, _OPEN = 1, 2, 3, 4, 5

_ESCAPE = re.compile(r"\\([\"'\\trn])")
_ESCAPED = {'"': '"', "'": "'", "\\": "\\", "t": "\t", "r": "\r", "n": "\n"}
_AFTER_QUOTE = frozenset(" \t\r\n;{)")

_LUA = re.compile(
    r"--\[(?P<comment>=*)\[|--[^\n]*+|\[(?P<string>=*)\["
    r"|\"(?:[^\"\\]++|\\.)*+\"|'(?:[^'\\]++|\\.)*+'|(?P<brace>[{}])",
    re.DOTALL,
)


class Statement(NamedTuple):
    """One step of the language. `end` is ";", "{" or "}", or "" at the end of the file; `offset` is where it stands.

    There are no words when the statement was wrong and has been reported.
    """

    end: str
    words: list[str]
    offsets: list[int]
    offset: int


class Lexer:
    """Reads one source statement by statement, as nginx's parser does. Errors go to `errors`; reading goes on."""

    def __init__(self, source: Source, errors: list[ConfigError]) -> None:
        self.source = source
        self.errors = errors
        self.at = 0
        self._has_nul = "\0" in source.text

    def error(self, message: str, offset: int) -> None:
        self.errors.append(ConfigError(message, self.source.position(offset)))

    def read(self) -> Statement:
        """The next statement. A `}` that cuts a directive short is reported and ends the block all the same."""
        text = self.source.text
        token = _TOKEN.match
        at = self.at
        words: list[str] = []
        offsets: list[int] = []
        spoilt = False
        while True:
            match = token(text, at)
            assert match is not None  # the last alternative of the pattern takes what is left
            at = match.end()
            kind = match.lastindex
            if kind is not None and kind != _PUNCTUATION and kind != _OPEN:
                word = match[kind]
                start = match.start(kind)
                if len(word) >= _LONGEST // 4:
                    self._check_length(word, start, kind)
                if self._has_nul and "\0" in word:  # nginx would cut a path there, the system refuses it
                    self.error("NUL in parameter", text.index("\0", start))
                    spoilt = True
                offsets.append(start if kind == _WORD else start - 1)
                words.append(_ESCAPE.sub(_unescape, word) if "\\" in word else word)
                if kind != _WORD and at < len(text) and text[at] not in _AFTER_QUOTE:
                    self.error(f'unexpected "{text[at]}"', at)
                    spoilt = True
            elif kind == _PUNCTUATION:
                end = match[1]
                self.at = at
                if end == "}":
                    if words:
                        self.error('unexpected "}"', at - 1)
                elif not words:
                    self.error(f'unexpected "{end}"', at - 1)
                return Statement(end, [] if spoilt else words, offsets, at - 1)
            else:
                if kind == _OPEN:
                    self._unterminated(match.start(_OPEN))
                elif words:
                    self._end_of_file()
                self.at = len(text)
                return Statement("", [], [], len(text))

    def read_lua(self, start: int) -> str:
        """The text from here up to the brace that closes the block opened just before; errors point at `start`."""
        text = self.source.text
        first = at = self.at
        depth = 1
        while (match := _LUA.search(text, at)) is not None:
            at = match.end()
            brace = match["brace"]
            if brace == "{":
                depth += 1
            elif brace == "}":
                depth -= 1
                if depth == 0:
                    self.at = at
                    return text[first : at - 1]
            else:
                level = match["comment"] if match["comment"] is not None else match["string"]
                if level is not None:
                    closing = f"]{level}]"
                    at = text.find(closing, at)
                    if at < 0:
                        self.error(f'Lua code block missing the closing long bracket "{closing}"', match.start())
                        self.at = len(text)
                        return text[first:]
                    at += len(closing)
        self.error("unexpected end of file, expecting terminating characters for lua code block", start)
        self.at = len(text)
        return text[first:]

    def _end_of_file(self) -> None:
        if self.source.numbered:
            self.error('unexpected end of file, expecting ";" or "}"', len(self.source.text))
        else:
            self.error('unexpected end of parameter, expecting ";"', len(self.source.text))

    def _check_length(self, word: str, start: int, kind: int) -> None:
        length = len(word.encode("utf-8", "surrogateescape"))
        if length >= _LONGEST:
            self._too_long(word, start, kind)
        elif length == _LONGEST - 1 and kind != _WORD:
            # the text fits, its closing quote does not: nginx has seen the quote and complains as about a word
            self._too_long(word, start, _WORD)

    def _unterminated(self, start: int) -> None:
        rest = self.source.text[start + 1 :]
        if len(rest.encode("utf-8", "surrogateescape")) < _LONGEST:
            self._end_of_file()
        else:
            self._too_long(rest, start, _DOUBLE if self.source.text[start] == '"' else _SINGLE)

    def _too_long(self, word: str, start: int, kind: int) -> None:
        if kind == _WORD:
            self.error(f'too long parameter "{word[:10]}..." started', start)
        else:
            quote = '"' if kind == _DOUBLE else "'"
            self.error(f'too long parameter, probably missing terminating "{quote}" character', start)


def _unescape(match: re.Match[str]) -> str:
    return _ESCAPED[match[1]]
