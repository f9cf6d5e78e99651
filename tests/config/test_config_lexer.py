"""The tokens of nginx's language: quotes, escapes, comments, raw Lua, and places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.config.directive import Directive, parse
from upwell.config.lexer import Lexer
from upwell.config.source import Source, Sources
from upwell.errors import ConfigError

_ANY = st.text(alphabet=st.sampled_from(" \t\r\n;{}\"'\\$#()[]=-ab\u4e2d\udc80"), max_size=40)


def _words(text: str) -> list[str]:
    errors: list[ConfigError] = []
    statement = Lexer(Source("x", text), errors).read()
    assert not errors
    return statement.words


def _parse(text: str) -> tuple[list[Directive], list[str]]:
    errors: list[ConfigError] = []
    directives = parse(Source("x", text), Sources("/nonexistent"), errors)
    return directives, [f"{error.message} at {error.position}" for error in errors]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b;", ["a", "b"]),
        ("a\tb\r\n c;", ["a", "b", "c"]),
        ("a # b;\n c;", ["a", "c"]),
        ("#x\n#y\na;", ["a"]),
        ("a b#c;", ["a", "b#c"]),
        ('a "";', ["a", ""]),
        ("a '' \"\";", ["a", "", ""]),
        ('a "b c;{}#";', ["a", "b c;{}#"]),
        ("a 'b \"c\"';", ["a", 'b "c"']),
        ("a \"b 'c'\";", ["a", "b 'c'"]),
        ('a b"c;', ["a", 'b"c']),
        ("a b'c';", ["a", "b'c'"]),
        ("a b}c;", ["a", "b}c"]),
        ("a ${b};", ["a", "${b}"]),
        ("a x${b}y$c;", ["a", "x${b}y$c"]),
        ("a ${{b}};", ["a", "${{b}}"]),
        ("a $b{;", ["a", "$b"]),
        ("a \\${b};", ["a", "\\$"]),
        (r'a "\"\'\\\t\r\n\x\$";', ["a", "\"'\\\t\r\n\\x\\$"]),
        (r"a \"b\";", ["a", '"b"']),
        (r"a \;b\{c\ d;", ["a", r"\;b\{c\ d"]),
        (r"a \#b;", ["a", r"\#b"]),
        (r"a ^/(.*)\.php$;", ["a", r"^/(.*)\.php$"]),
        (r"a \d+\.\d;", ["a", r"\d+\.\d"]),
        ('a ("b");', ["a", '("b")']),
        ('a "b")c;', ["a", "b", ")c"]),
        ('a "b\nc";', ["a", "b\nc"]),
        ("指令 值;", ["指令", "值"]),
    ],
)
def test_words_are_read_as_nginx_reads_them(text: str, words: list[str]) -> None:
    assert _words(text) == words


def test_a_closing_brace_ends_a_directive_only_where_a_word_begins() -> None:
    _, errors = _parse("a }b;")
    assert errors == ['unexpected "}" at x:1:3']


def test_every_directive_and_argument_has_its_place() -> None:
    directives, errors = _parse("a b;\n  中 'c d'\n\t\"e\" {\n  f; }\n")
    assert not errors
    assert [str(directive.position) for directive in directives] == ["x:1:1", "x:2:3"]
    assert [str(directives[1].place(index)) for index in range(2)] == ["x:2:5", "x:3:2"]
    assert directives[1].children is not None
    assert str(directives[1].children[0].position) == "x:4:3"


@pytest.mark.parametrize("length", [4095, 4096])
@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_a_parameter_has_the_length_that_nginx_can_read(length: int, quote: str) -> None:
    _, errors = _parse(f"a {quote}{'x' * length}{quote};")
    if length == 4095 and not quote:
        assert errors == []
    elif length == 4095 or not quote:
        assert errors == [f'too long parameter "xxxxxxxxxx..." started at x:1:{4 if quote else 3}']
    else:
        assert errors == [f'too long parameter, probably missing terminating "{quote}" character at x:1:4']


def test_a_quote_without_end_over_more_than_a_buffer_is_told_apart() -> None:
    _, errors = _parse('a "' + "x;\n" * 2000)
    assert errors == ['too long parameter, probably missing terminating """ character at x:1:3']


@pytest.mark.parametrize(
    "lua",
    [
        "",
        " ngx.say(1) ",
        "\n x = {a = {}, }\n",
        " x = \"}\" y = '}' ",
        " x = \"\\\"}\" y = '\\'}' ",
        " -- it's } here\n x = 1 ",
        " --[[ } \n } ]] x = 1 ",
        " --[==[ ]] } ]==] x = 1 ",
        " x = [[ } ]] ",
        " x = [=[ ]] } ]=] ",
        " t[a[1]] = {} ",
        ' http_req = "GET / HTTP/1.0\\r\\nHost: x\\r\\n\\r\\n" ',
    ],
)
def test_lua_blocks_are_read_raw_up_to_their_brace(lua: str) -> None:
    directives, errors = _parse(f"content_by_lua_block {{{lua}}} after;")
    assert not errors
    assert [(directive.name, directive.lua) for directive in directives] == [
        ("content_by_lua_block", lua),
        ("after", None),
    ]


def test_a_lua_block_keeps_its_arguments() -> None:
    directives, _ = _parse("set_by_lua_block $x { return 1 }")
    assert (directives[0].args, directives[0].lua) == (("$x",), " return 1 ")


@given(_ANY)
def test_no_text_breaks_the_lexer_and_places_are_inside_it(text: str) -> None:
    lines = text.split("\n")
    directives, _ = _parse(text)
    pending = list(directives)
    while pending:
        directive = pending.pop()
        for position in (directive.position, *(directive.place(index) for index in range(len(directive.args)))):
            assert 1 <= position.line <= len(lines)
            assert 1 <= position.column <= len(lines[position.line - 1]) + 1
        pending.extend(directive.children or ())


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\x00"), max_size=20), min_size=1, max_size=5))
def test_quoted_words_come_out_as_they_went_in(words: list[str]) -> None:
    quoted = ['"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words]
    assert _words(" ".join(quoted) + ";") == words


@given(st.text(alphabet=st.sampled_from("ab;{}\"'[]=-\\\n "), max_size=60))
def test_no_lua_text_breaks_the_lexer(lua: str) -> None:
    directives, errors = _parse(f"init_by_lua_block {{{lua}}}")
    assert directives[0].lua is not None
    assert errors or lua.startswith(directives[0].lua) or directives[0].lua == lua
