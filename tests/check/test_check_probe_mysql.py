"""The mysql probe: greetings, refusals and logins as servers send them; tests/system has a real MariaDB."""

from __future__ import annotations

import pytest

from tests.check.talking import talk, told, why
from upwell.check.probes.mysql import MysqlProbe
from upwell.check.spec import TENGINE, CheckSpec

QUIT = b"\1\0\0\0\1"


def packet(number: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "little") + bytes((number,)) + content


def greeting(able: int = 0x81BFF7FE, plugin: bytes = b"caching_sha2_password", version: bytes = b"8.0.36") -> bytes:
    low, high = (able & 0xFFFF).to_bytes(2, "little"), (able >> 16).to_bytes(2, "little")
    rest = low + b"\xff\x02\x00" + high + b"\x15" + bytes(10) + b"n" * 12 + b"\0" + plugin + b"\0"
    return packet(0, b"\x0a" + version + b"\0\x07\0\0\0" + b"n" * 8 + b"\0" + rest)


def refusal(number: int, code: int, words: bytes, state: bytes = b"") -> bytes:
    return packet(number, b"\xff" + code.to_bytes(2, "little") + (b"#" + state if state else b"") + words)


def probe(user: str = "") -> MysqlProbe:
    return MysqlProbe(CheckSpec("u", "mysql", dialect=TENGINE, params=(("user", user),) if user else ()), "db:3306")


OK = packet(2, b"\0\0\0\2\0\0\0")
DENIED = refusal(2, 1045, b"Access denied for user 'upwell'@'h' (using password: NO)", b"28000")
FULL = refusal(2, 1040, b"Too many connections", b"08004")


def test_the_login_is_the_servers_own_kind_without_a_password() -> None:
    one = probe()
    assert one.open() == b""
    login = one.feed(greeting())
    assert login == packet(
        1,
        b"\x00\x82\x08\x00" + b"\0\0\0\1" + b"\x21" + bytes(23) + b"upwell\0" + b"\0" + b"caching_sha2_password\0",
    )
    verdict = one.feed(DENIED)
    assert verdict == (True, "", "", 0, "", b"")
    assert not one.finished  # the server hangs up first


def test_who_is_let_in_says_quit() -> None:
    one = probe("haproxy")
    sent, verdict = talk(one, greeting() + OK, [len(greeting())])
    assert b"haproxy\0" in sent
    assert verdict == (True, "", "", 0, "", QUIT)
    assert not one.finished


def test_another_way_to_log_in_is_taken_once() -> None:
    switch = packet(2, b"\xfemysql_native_password\0" + b"n" * 20 + b"\0")
    sent, verdict = talk(probe("x"), greeting() + switch + packet(4, OK[4:]), range(200))
    assert sent.endswith(b"\0\0\0\3")
    assert verdict.passed
    assert why(probe("x"), greeting() + switch + packet(4, b"\xfeagain\0")) == "status: mysql wants a password"
    assert told(probe(), greeting() + switch + packet(4, b"\xfeagain\0")).passed


@pytest.mark.parametrize("answer", [OK, DENIED, packet(2, b"\1\4"), b"", refusal(2, 3159, b"insecure", b"HY000")])
def test_without_a_user_any_greeting_passes(answer: bytes) -> None:
    assert told(probe(), greeting() + answer).passed


def test_old_servers_are_greeted_back_by_nobody() -> None:
    for old in (greeting(able=0x0000F5DF), packet(0, b"\x093.20.32\0\1\0\0\0nnnnnnnn\0")):
        sent, verdict = talk(probe(), old)
        assert (sent, verdict.passed) == (b"", True)


def test_a_server_without_plugins_is_told_no_plugin() -> None:
    sent, verdict = talk(probe(), greeting(able=0x0000F7FF) + OK, range(200))
    assert sent.endswith(b"upwell\0\0")
    assert verdict.passed


@pytest.mark.parametrize(
    ("user", "answer", "words"),
    [
        ("", b"", "closed: connection closed before the greeting"),
        ("", greeting()[:40], "closed: connection closed before the greeting"),
        ("x", greeting(), "closed: connection closed before the answer to the login"),
        (
            "",
            refusal(0, 1129, b"Host '10.0.0.7' is blocked because of many connection errors"),
            "status: mysql error 1129: Host '10.0.0.7' is blocked because of many connection errors",
        ),
        ("", refusal(0, 1040, b"Too many connections"), "status: mysql error 1040: Too many connections"),
        ("", greeting() + FULL, "status: mysql error 1040: Too many connections"),
        (
            "x",
            greeting() + DENIED,
            "status: mysql error 1045: Access denied for user 'upwell'@'h' (using password: NO)",
        ),
        ("x", greeting() + packet(2, b"\1\4"), "status: mysql wants a password"),
        ("", packet(0, b"\xff\x10"), "protocol: not MySQL: error cut short"),
        ("", packet(1, b"\x0a8.0\0"), "protocol: not MySQL: packet number 1, want 0"),
        ("", packet(0, b"\x0b8.0\0"), "protocol: not MySQL: protocol version 11, want 10"),
        ("", packet(0, b"\x0a\0" + bytes(60)), "protocol: not MySQL: no server version in the greeting"),
        ("", packet(0, b"\x0a" + b"8" * 60), "protocol: not MySQL: no server version in the greeting"),
        ("", packet(0, b"\x0a8.0\0\1\2\3"), "protocol: not MySQL: greeting cut short"),
        ("", packet(0, b"\x0a8.0\0" + b"x" * 60), "protocol: not MySQL: greeting without the end of its nonce"),
        ("", b"SSH-2.0-OpenSSH_9.2\r\n", "protocol: not MySQL: packet of 4739923 bytes"),
        ("", b"\0\0\0\0", "protocol: not MySQL: packet of 0 bytes"),
        ("", greeting() + packet(2, b"\7"), "protocol: not MySQL: answer 0x07 to the login"),
        ("", greeting() + packet(3, b"\0"), "protocol: not MySQL: packet number 3, want 2"),
    ],
)
def test_each_way_to_fail(user: str, answer: bytes, words: str) -> None:
    assert why(probe(user), answer) == words


def test_the_next_probe_begins_anew() -> None:
    one = probe()
    for _ in range(2):
        assert talk(one, greeting() + OK)[1].passed
        assert talk(one, b"")[1].kind == "closed"
        assert one.doing == "awaiting the greeting"
