"""For every input, any bytes as nginx.conf give settings, or ConfigErrors that each say where; within a second or two.

Never another exception, never a hang. What was read is also planned (`runtime.build.plan`), which opens nothing.
Names are resolved by a table, and files are included from an empty folder only.
"""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import NoReturn

from fuzz.running import Finding, mutant
from upwell.errors import ConfigErrors
from upwell.modules.load import command_table, load
from upwell.runtime.build import plan

_ROOT = Path(__file__).parents[1]
_PATIENCE = 5.0  # seconds of processor time for a file of some thousand bytes

_DEAR = (
    *(bytes((byte,)) for byte in b"\0\t\n\r \"#$'*/0129:;=@[\\]^{}~\x80\xff"),
    b"${",
    b"$1",
    b"$host",
    b"{}",
    b" {",
    b"}\n",
    b";\n",
    b'"\n',
    b"\\",
    b" on;",
    b" off;",
    b" default;",
    b" ~ ^/(a+)+$ ",
    b" unix:/x",
    b" [::1]:80",
    b" 99999999999999999999",
    b" -1",
    b" 10s",
    b" 1m",
    b" \xff\xfe",
    "größe".encode(),
    b"content_by_lua_block { ngx.say([[}]]) }",
    b"include x;",
    b"server { listen 80; }",
    b"location / { return 200; }",
)


def case(random: Random) -> None:
    """One file: a good or a bad one of the tests, changed, or with directives from all over."""
    text = random.choice(_texts())
    if random.randrange(3) == 0:
        text = _with_directives(random, text)
    if random.randrange(8) == 0:
        other = random.choice(_texts())
        text = text[: random.randrange(len(text) + 1)] + other[random.randrange(len(other) + 1) :]
    check(mutant(random, text, _DEAR, most=5))


def check(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, _watched(text):
        (Path(folder) / "nginx.conf").write_bytes(text)
        try:
            config = load("nginx.conf", folder, resolve=_resolve)
        except ConfigErrors as error:
            _check_errors(error, text)
            return
        except Exception as error:
            _let_out("load", error, text)
        try:
            plan(config)
        except Exception as error:
            _let_out("plan", error, text)


def _let_out(name: str, error: Exception, text: bytes) -> NoReturn:
    if isinstance(error, Finding):
        raise error
    raise Finding(f"{name}() let out {error!r}", text) from error


def _check_errors(found: ConfigErrors, text: bytes) -> None:
    lines = text.count(b"\n") + 1
    if not found.errors:
        raise Finding("refused without a reason", text)
    for error in found.errors:
        position = error.position
        if position is None:
            # nginx has these two without a place as well: they are of the whole file
            if not error.message.startswith('no "events" section'):
                raise Finding(f"an error without a place: {error}", text)
        elif Path(position.file).name == "nginx.conf" and not 1 <= position.line <= lines:
            raise Finding(f"an error in a line that is not there: {error}", text)
        str(error).encode("utf-8", "surrogateescape")


@cache
def _texts() -> tuple[bytes, ...]:
    cases = (_ROOT / "tests" / "cases" / "config" / "bad.txt").read_bytes()
    bad = [part.partition(b"\n")[2].partition(b"---\n")[0] for part in re.split(rb"(?m)^=== ", cases)[1:]]
    files = sorted((*_ROOT.glob("examples/*.conf"), *_ROOT.glob("tests/cases/config/good/*.conf")))
    # A pattern that is changed could name files outside of the folder, so there is none to begin with.
    return tuple(re.sub(rb"include\s+[^;]*;", b"include x;", text) for text in (*bad, *(f.read_bytes() for f in files)))


@cache
def _names() -> tuple[bytes, ...]:
    return tuple(sorted(name.encode() for name in command_table().names))


def _with_directives(random: Random, text: bytes) -> bytes:
    """`text` with lines of directives that may or may not belong where they come to stand."""
    out = text.split(b"\n")
    for _ in range(random.randrange(1, 4)):
        words = [random.choice(_names())]
        words += [random.choice(_DEAR).strip(b" ;\n{}") or b"a" for _ in range(random.randrange(4))]
        out.insert(random.randrange(len(out) + 1), b" ".join(words) + random.choice((b";", b" {", b" { }")))
    return b"\n".join(out)


def _resolve(host: str) -> list[str]:
    if len(host) % 3 == 0:
        raise OSError(f"no such host: {host}")
    return ["192.0.2.1", "2001:db8::1"]


@contextmanager
def _watched(text: bytes) -> Iterator[None]:
    """Raise Finding when what is done takes more processor time than anybody would wait for."""

    def hung(_signal: int, _frame: object) -> None:
        raise Finding(f"not done in {_PATIENCE} seconds", text)

    before = signal.signal(signal.SIGVTALRM, hung)
    signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
