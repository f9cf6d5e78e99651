"""Which upwell is tested; and what might differ in a compiled one, beyond all that the other tests ask of both."""

from __future__ import annotations

import ast
import gc
import importlib
import pickle
import traceback
import weakref
from collections.abc import Awaitable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from types import FunctionType

import pytest

import upwell
from tests.wire.joined import Joined, get, post, response
from tools import compiled
from upwell.errors import ClientClosed, ConfigError, ConfigErrors, MessageError, Position, UpstreamError
from upwell.http1.framing import ChunkedReader
from upwell.peers.balancers import BALANCERS
from upwell.peers.live import Peer
from upwell.peers.peer import Method, PeerSpec, UpstreamSpec, peer_keys
from upwell.peers.upstream import Upstream
from upwell.proxy.exchange import Exchange
from upwell.version import data_plane
from upwell.zone.table import PeerTable

IS_COMPILED = data_plane() != "pure Python"
MODULES = [".".join(path.with_suffix("").parts) for path in compiled.data_plane(compiled.SOURCE)]


@pytest.mark.parametrize("name", MODULES)
def test_all_of_the_data_plane_is_compiled_or_nothing(name: str) -> None:
    found = importlib.import_module(name)
    assert found.__file__ is not None
    assert found.__file__.endswith(".so") == IS_COMPILED


def test_the_rest_is_python() -> None:
    assert "upwell.proxy.forward" in MODULES
    assert "upwell.proxy.suspension" not in MODULES
    for name in ("upwell", "upwell.cli", "upwell.log", "upwell.proxy.suspension", "upwell.modules.load"):
        assert name not in MODULES
        assert str(importlib.import_module(name).__file__).endswith(".py")


def test_the_compiled_source_is_the_one_in_src() -> None:
    """What `make compiled` would refuse to leave as it is: a build that is older than the source."""
    package = Path(upwell.__path__[0])
    for name in MODULES:
        path = Path(*name.split(".")[1:]).with_suffix(".py")
        assert (package / path).read_bytes() == (compiled.SOURCE / "upwell" / path).read_bytes()


@pytest.mark.parametrize("name", MODULES)
def test_a_name_catches_one_type_in_a_function(name: str) -> None:
    """In a compiled function a variable has one type, also one that is bound by several `except`: the second would
    raise TypeError. mypy has no objection.
    """
    path = compiled.SOURCE / Path(*name.split(".")).with_suffix(".py")
    for function in ast.walk(ast.parse(path.read_text())):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        caught: dict[str, str] = {}
        for handler in ast.walk(function):
            if isinstance(handler, ast.ExceptHandler) and handler.name is not None and handler.type is not None:
                kind = ast.unparse(handler.type)
                assert caught.setdefault(handler.name, kind) == kind, f"{path}:{handler.lineno}"


def test_exceptions_carry_what_their_catchers_need() -> None:
    refused = MessageError(400, "bad")
    assert (refused.status, refused.reason, str(refused), refused.args) == (400, "bad", "bad", ("bad",))
    failed = UpstreamError("timeout", "slow", sent=True)
    assert (failed.outcome, failed.reason, failed.sent, str(failed)) == ("timeout", "slow", True, "slow")
    wrong = ConfigError("odd", Position("a.conf", 3, 7))
    assert str(wrong) == "odd in a.conf:3:7"
    assert str(ConfigErrors([wrong, ConfigError("more")])) == "odd in a.conf:3:7; more"
    assert ClientClosed().status == 499
    with pytest.raises(MessageError) as caught:
        ChunkedReader().feed(b"nonsense\r\n")
    assert caught.value.status == 400
    caught.value.add_note("noted")
    assert caught.value.__notes__ == ["noted"]


def test_a_balancer_of_others_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol, not a base class, is what they keep to (CONTRIBUTING.md, "Worked example")."""

    class Last:
        watches = False

        def __init__(self, method: Method, chance: object) -> None:
            self._peers: list[Peer] = []

        def rebuild(self, peers: object, up: list[Peer]) -> None:
            self._peers = list(up)

        def pick(self, key: bytes | None, tried: object, now: float) -> Peer | None:
            return self._peers[-1]

        def settle(self) -> None:
            pass

    monkeypatch.setitem(BALANCERS, "last", Last)
    spec = UpstreamSpec("x", tuple(PeerSpec(f"p{n}", ("127.0.0.1", n)) for n in (1, 2)), method=Method("last"))
    picked = Upstream(spec, PeerTable.create(peer_keys(spec), 1)).pick((), 1.0)
    assert picked is not None
    assert picked.spec.name == "p2"


def test_specs_are_values() -> None:
    spec = PeerSpec("p", ("127.0.0.1", 1), weight=3)
    assert spec == PeerSpec("p", ("127.0.0.1", 1), weight=3)
    assert hash(spec) == hash(replace(spec))
    assert replace(spec, weight=4).weight == 4
    assert "weight=3" in repr(spec)
    with pytest.raises(FrozenInstanceError):
        spec.weight = 5  # type: ignore[misc]  # that is what is tested
    assert pickle.loads(pickle.dumps(Position("f", 1, 2))) == Position("f", 1, 2)


def test_a_failure_inside_is_reported_with_its_place() -> None:
    def broken(exchange: Exchange) -> int:
        raise KeyError("nobody expects this")

    with Joined(location={"access": (broken,)}) as joined:
        assert joined.client().ask(get()).status == 500
        (error,) = joined.expected = joined.reported
        frames = traceback.extract_tb(error.__traceback__)
        assert frames[-1].name == "broken"
        assert "upwell/proxy/phases.py" in {frame.filename[-len("upwell/proxy/phases.py") :] for frame in frames}


def test_a_content_that_fails_at_once_is_answered_for() -> None:
    def broken(exchange: Exchange) -> Awaitable[None]:
        raise KeyError("before there is anything to await")

    with Joined(places={b"/": broken}) as joined:
        assert joined.client().ask(get()).status == 500
        assert [type(error) for error in joined.reported] == [KeyError]
        joined.expected = joined.reported


def test_a_traceback_names_files_lines_and_functions() -> None:
    try:
        ChunkedReader().feed(b"nonsense\r\n")
    except MessageError as error:
        frames = traceback.extract_tb(error.__traceback__)
    assert [frame.name for frame in frames[1:]][:1] == ["feed"]
    assert frames[-1].filename.endswith("upwell/http1/framing.py")
    source = (compiled.SOURCE / "upwell/http1/framing.py").read_text().splitlines()
    assert "MessageError(400" in source[frames[-1].lineno - 1]  # type: ignore[operator]  # a line that raised it


def test_an_interrupt_goes_through() -> None:
    """Ctrl-C in a content handler is not taken for a failure of the request."""

    async def interrupted(exchange: Exchange) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Joined(places={b"/": interrupted}) as joined:
        joined.client().send(get())


def test_what_a_request_left_behind_is_collected() -> None:
    """An exchange, its coroutine and its connections hold each other: the collector has to see through all of them."""
    gc.collect()
    gc.disable()
    try:
        seen: list[weakref.ref[FunctionType]] = []

        def leave_a_trace(exchange: Exchange) -> None:
            def mark() -> object:
                return exchange

            seen.append(weakref.ref(mark))  # type: ignore[arg-type]  # a function is one
            exchange.module = {"mark": mark}

        with Joined(location={"access": (leave_a_trace,)}) as joined:
            client = joined.client()
            for data in (get(), post(b"x" * 10)):
                client.send(data)
                joined.origin.last.send(response(b"answer"))
                assert client.answer().status == 200
            client.send(get())  # and one that never ends
            client.far.reset()
        assert len(seen) == 3
        del client, joined
        gc.collect()
        assert [ref() for ref in seen] == [None] * 3
    finally:
        gc.enable()
