"""The rules of a `match` block: what each accepts, what it refuses, and in which words."""

from __future__ import annotations

import re
from time import process_time
from typing import Any

import pytest

from upwell.check.rules import Rules, check_match, is_known, quoted
from upwell.check.spec import HeaderRule, MatchSpec
from upwell.http1.fields import FieldReader, FieldSection

READER = FieldReader(ignore_invalid=False, request=False)


def section(*lines: str) -> FieldSection:
    return READER.read("".join(f"{line}\r\n" for line in lines).encode())


HTML = section("Content-Type: text/html", "X-Load: 0", "Set-Cookie: a=1", "Set-Cookie: b=2")


def head(status: int = 200, fields: FieldSection = HTML, **rules: Any) -> tuple[str, str] | None:
    return Rules(MatchSpec(**rules)).head(status, fields)


@pytest.mark.parametrize(
    ("statuses", "turned", "good", "bad", "want"),
    [
        (((200, 200),), False, [200], [201, 500], "200"),
        (((500, 500),), True, [200, 404], [500], "! 500"),
        (((200, 200), (204, 204)), False, [200, 204], [202], "200 or 204"),
        (((301, 303), (307, 307)), True, [200, 304], [302, 307], "! 301-303 or 307"),
        ((), False, [100, 999], [], ""),
    ],
)
def test_statuses(
    statuses: tuple[tuple[int, int], ...], turned: bool, good: list[int], bad: list[int], want: str
) -> None:
    for status in good:
        assert head(status, statuses=statuses, status_not=turned) is None
    for status in bad:
        assert head(status, statuses=statuses, status_not=turned) == ("status", f"status {status}, want {want}")


def test_the_status_rule_has_the_words_of_the_configuration_and_a_default() -> None:
    assert head(503, statuses=((200, 299),), words="2xx") == ("status", "status 503, want 2xx")
    default = Rules(None)
    assert [default.head(status, HTML) for status in (200, 302, 399)] == [None, None, None]
    assert default.head(503, HTML) == ("status", "status 503, want 200-399")
    assert default.head(199, HTML) == ("status", "status 199, want 200-399")


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        (HeaderRule("content-TYPE", "=", "text/html"), None),
        (HeaderRule("Content-Type", "=", "text/plain"), 'header Content-Type is "text/html", want "text/plain"'),
        (HeaderRule("Content-Type", "=", "TEXT/html"), 'header Content-Type is "text/html", want "TEXT/html"'),
        (HeaderRule("X-None", "=", "a"), "no header X-None"),
        (HeaderRule("Content-Type", "!=", "text/plain"), None),
        (HeaderRule("Content-Type", "!=", "text/html"), 'header Content-Type is "text/html", want != "text/html"'),
        (HeaderRule("X-None", "!=", "a"), "no header X-None"),
        (HeaderRule("Content-Type", "~", "^text/(?:html|xml)$"), None),
        (HeaderRule("Content-Type", "~", "json"), 'header Content-Type is "text/html", want ~ "json"'),
        (HeaderRule("X-None", "~", "."), "no header X-None"),
        (HeaderRule("Content-Type", "!~", "json"), None),
        (HeaderRule("Content-Type", "!~", "ht"), 'header Content-Type is "text/html", want !~ "ht"'),
        (HeaderRule("X-None", "!~", "a"), "no header X-None"),
        (HeaderRule("x-load"), None),
        (HeaderRule("X-None"), "no header X-None"),
        (HeaderRule("X-None", "!"), None),
        (HeaderRule("X-Load", "!"), 'header X-Load is "0", want none'),
        # Of several lines one has to do, or none may.
        (HeaderRule("Set-Cookie", "=", "b=2"), None),
        (HeaderRule("Set-Cookie", "!=", "b=2"), 'header Set-Cookie is "...", want != "..."'),
        (HeaderRule("Set-Cookie", "~", "^b"), None),
        (HeaderRule("Set-Cookie", "~", "^c"), 'header Set-Cookie is "...", want ~ "..."'),
        (HeaderRule("X-Auth-Token", "=", "b"), "no header X-Auth-Token"),
    ],
)
def test_headers(rule: HeaderRule, wrong: str | None) -> None:
    assert head(headers=(rule,)) == (("header", wrong) if wrong else None)


def test_all_rules_must_hold() -> None:
    rules = (HeaderRule("X-Load"), HeaderRule("X-None"))
    assert head(headers=rules) == ("header", "no header X-None")
    assert head(headers=rules[:1], require=("$status",)) is None


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        ("$status", None),
        ("$upstream_status", None),
        ("$upstream_http_content_type", None),
        ("$sent_http_set_cookie", None),
        ("$upstream_http_x_load", 'required "$upstream_http_x_load" is "0"'),
        ("$upstream_http_x_none", 'required "$upstream_http_x_none" is empty'),
        ("${upstream_http_x_load}0", None),
        ("x$upstream_http_x_none", None),
        ("0", 'required "0" is "0"'),
        ("", 'required "" is empty'),
    ],
)
def test_require(template: str, wrong: str | None) -> None:
    assert head(require=(template,)) == (("require", wrong) if wrong else None)


def test_content() -> None:
    there, not_there = Rules(MatchSpec(body="O+K")), Rules(MatchSpec(body="O+K", body_not=True))
    assert there.content(b"all OOK") is None
    assert there.content(b"ok") == ("body", 'body does not match ~ "O+K"')
    assert not_there.content(b"ok") is None
    assert not_there.content(b"OK") == ("body", 'body matches "O+K", want !~')
    assert Rules(MatchSpec(body="(?i)ok")).content(b"OK") is None
    assert [rules.reads_content for rules in (there, not_there, Rules(None))] == [True, True, False]


def test_a_pattern_without_end_is_a_failure() -> None:
    rules = Rules(MatchSpec(body="(a+)+$"))
    assert rules.content(b"a" * 64 + b"b") == ("body", 'body ~ "(a+)+$": match limit exceeded')
    slow = HeaderRule("X", "~", "(a+)+$")
    assert head(fields=section("X: " + "a" * 64 + "b"), headers=(slow,)) == (
        "header",
        'header X ~ "(a+)+$": match limit exceeded',
    )


@pytest.mark.parametrize(
    ("match", "words"),
    [
        (MatchSpec(body="("), 'bad regular expression "(": '),
        (MatchSpec(headers=(HeaderRule("X", "~", "["),)), 'bad regular expression "[": '),
        (MatchSpec(headers=(HeaderRule("X", "<", "1"),)), 'unknown operator "<" of header X'),
        (MatchSpec(require=("$request_uri",)), 'a health check does not know the variable "$request_uri"'),
        (MatchSpec(require=("a$",)), "invalid variable name"),
    ],
)
def test_what_cannot_be_is_refused(match: MatchSpec, words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the words are compared below
        check_match(match)
    assert str(caught.value).startswith(words)


def test_what_can_be_is_taken() -> None:
    check_match(MatchSpec(body="x", require=("$status", "$upstream_http_a")))


def test_known_variables() -> None:
    known = ["status", "upstream_status", "upstream_http_x_y", "sent_http_etag"]
    assert [name for name in [*known, "uri", "upstream_http_", "http_x", "statuses", ""] if is_known(name)] == known


def test_sentences_fit_and_are_printable() -> None:
    long = "é" * 300
    for text in (long, "\x00" * 100, "a\r\nb", "\udcff"):
        assert quoted(text).isascii()
        assert quoted(text).isprintable()
        assert len(quoted(text)) <= 62
    assert quoted('say "OK"\\d') == '"say "OK"\\d"'
    wrong = head(fields=section(f"{'n' * 300}: {long}"), headers=(HeaderRule("n" * 300, "~", "z" * 300),))
    assert wrong is not None
    assert len(wrong[1]) <= 246
    odd = MatchSpec(headers=(HeaderRule("X", "=", "\udcff"),))
    assert Rules(odd).head(200, READER.read(b"X: \xff\r\n")) is None


def test_an_expression_is_tried_on_so_many_lines_of_one_name_only() -> None:
    lines = [f"X-A: {number}" for number in range(17)]
    rule = HeaderRule("X-A", "~", "^no$")
    assert head(fields=section(*lines), headers=(rule,)) == ("header", "header X-A has more than 16 lines")
    assert head(fields=section(*lines[:16]), headers=(rule,)) == ("header", 'header X-A is "0", want ~ "^no$"')
    assert head(fields=section(*lines), headers=(HeaderRule("X-A", "=", "16"),)) is None


def test_an_expression_has_a_bounded_time_for_all_lines_of_a_name() -> None:
    """Each of these is just about fast enough."""
    rule = HeaderRule("X-A", "!~", "^(a+)+$")
    text = b"b"
    spent = 0.0
    while spent < 0.02:  # each byte doubles it; alone it may take 0.1 s, all 16 together 0.12
        text = b"a" + text
        began = process_time()
        re.search(rb"^(a+)+$", text)
        spent = process_time() - began
    slow = section(*([f"X-A: {text.decode()}"] * 16))
    wrong = head(fields=slow, headers=(rule,))
    assert wrong == ("header", 'header X-A !~ "^(a+)+$": its lines take too long')
    assert head(fields=section(*(["X-A: b"] * 16)), headers=(rule,)) is None
