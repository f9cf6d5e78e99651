"""The postgres probe: what servers answer to a StartupMessage; tests/system has a real PostgreSQL."""

from __future__ import annotations

import pytest

from tests.check.talking import talk, told, why
from upwell.check.probes.postgres import PostgresProbe
from upwell.check.spec import PLUS, CheckSpec


def message(kind: bytes, content: bytes) -> bytes:
    return kind + (len(content) + 4).to_bytes(4, "big") + content


def error(code: str, words: str) -> bytes:
    return message(b"E", f"SFATAL\0VFATAL\0C{code}\0M{words}\0Fauth.c\0L1\0\0".encode())


def probe(**params: str) -> PostgresProbe:
    return PostgresProbe(CheckSpec("u", "postgres", dialect=PLUS, params=tuple(params.items())), "db:5432")


LET_IN = message(b"R", b"\0\0\0\0")
SASL = message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0")
SETTINGS = message(b"S", b"server_version\0" + b"15\0") + message(b"K", bytes(8))
READY = message(b"Z", b"I")
NOBODY = error("28000", 'role "postgres" does not exist')


def test_the_startup_message() -> None:
    assert talk(probe(), SASL)[0] == b"\0\0\0\x17\0\3\0\0user\0postgres\0\0"
    sent, _ = talk(probe(user="check", database="app"), SASL)
    assert sent == b"\0\0\0\x21\0\3\0\0user\0check\0database\0app\0\0"


def test_who_is_asked_for_a_password_hangs_up_without_a_word() -> None:
    one = probe(user="check")
    for answer in (SASL, message(b"R", b"\0\0\0\x05salt"), message(b"R", b"\0\0\0\3")):
        assert told(one, answer) == (True, "", "", 0, "", b"")
        assert one.finished


def test_who_is_let_in_says_terminate() -> None:
    one = probe()
    assert told(one, LET_IN + SETTINGS + READY) == (True, "", "", 0, "", b"X\0\0\0\4")
    assert not one.finished


def test_who_lets_in_may_still_have_no_room() -> None:
    full = error("53300", "remaining connection slots are reserved")
    words = "status: postgres FATAL: remaining connection slots are reserved (53300)"
    assert why(probe(), LET_IN + full) == words
    assert told(probe(), LET_IN + NOBODY).passed
    assert why(probe(), LET_IN + SETTINGS) == "closed: connection closed before ReadyForQuery"
    assert why(probe(), LET_IN + LET_IN) == 'protocol: not PostgreSQL: the answer begins with "R"'
    endless = LET_IN + message(b"S", b"x" * 8000) * 10
    assert why(probe(), endless) == "protocol: not PostgreSQL: too much before ReadyForQuery"


def test_without_a_user_being_refused_passes() -> None:
    assert told(probe(), NOBODY).passed
    assert told(probe(), error("3D000", 'database "x" does not exist')).passed


@pytest.mark.parametrize(
    ("user", "answer", "words"),
    [
        ("", b"", "closed: connection closed before the answer to StartupMessage"),
        ("", SASL[:9], "closed: connection closed before the answer to StartupMessage"),
        (
            "",
            error("57P03", "the database system is starting up"),
            "status: postgres FATAL: the database system is starting up (57P03)",
        ),
        (
            "",
            error("53300", "sorry, too many clients already"),
            "status: postgres FATAL: sorry, too many clients already (53300)",
        ),
        ("x", NOBODY, 'status: postgres FATAL: role "postgres" does not exist (28000)'),
        ("", message(b"E", b"\0\0\0\0"), "status: postgres ERROR: an error without words"),
        ("", message(b"E", b"SFATAL"), "protocol: not PostgreSQL: an error without an end"),
        (
            "",
            b"Ecould not fork new process for connection: Out of memory\n\0",
            "status: postgres: could not fork new process for connection: Out of memory",
        ),
        ("", b"E" + b"x" * 10_000, "protocol: not PostgreSQL: an error without an end"),
        ("", b"E\xff\xff\xff\xff", "protocol: not PostgreSQL: an error without an end"),
        ("", b"R\0\0\0\4", "protocol: not PostgreSQL: message of 4 bytes"),
        ("", message(b"R", b"\0"), "protocol: not PostgreSQL: authentication request cut short"),
        ("", b"R\xff\xff\xff\xff", "protocol: not PostgreSQL: message of 4294967295 bytes"),
        ("", b"HTTP/1.1 400", 'protocol: not PostgreSQL: the answer begins with "H"'),
        ("", b"N", 'protocol: not PostgreSQL: the answer begins with "N"'),
    ],
)
def test_each_way_to_fail(user: str, answer: bytes, words: str) -> None:
    assert why(probe(user=user) if user else probe(), answer) == words
