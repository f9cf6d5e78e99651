"""Templates: what is text, what is a variable, and what is neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.config.template import Template, Variable, compile_template


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ()),
        ("plain", ("plain",)),
        ("$host", (Variable("host"),)),
        ("a$host-b", ("a", Variable("host"), "-b")),
        ("${host}b", (Variable("host"), "b")),
        ("$a$b${c}", (Variable("a"), Variable("b"), Variable("c"))),
        ("$1$10x", (Variable("1"), Variable("1"), "0x")),
        ("$0", (Variable("0"),)),
        ("{$a}", ("{", Variable("a"), "}")),
    ],
)
def test_parts(text: str, parts: tuple[str | Variable, ...]) -> None:
    assert compile_template(text) == Template(parts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$", "invalid variable name"),
        ("a$ b", "invalid variable name"),
        ("${}", "invalid variable name"),
        ("${a-b}", "invalid variable name"),
        ("${host", 'the closing bracket in "host" variable is missing'),
        ("${1}", 'unknown "1" variable'),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("$", r"\$")):
        compile_template(text)


def test_a_template_without_variables_is_a_literal() -> None:
    assert compile_template("x").literal == "x"
    assert compile_template("").literal == ""
    assert compile_template("x$y").literal is None


@given(st.text())
def test_a_template_either_fails_or_shows_itself_again(text: str) -> None:
    try:
        template = compile_template(text)
    except ValueError:
        return
    if not any(len(name) == 1 and name.isdigit() for name in template.variables):  # $1 is not written ${1}
        assert compile_template(str(template)) == template
