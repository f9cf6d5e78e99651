"""The grpc probe: against an HTTP/2 server in memory (h2's other side); tests/system has a real gRPC server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingAckReceived, RequestReceived, StreamEnded
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from upwell.check.probe import Verdict
from upwell.check.probes.grpc import GrpcProbe, framed, health_of, request_message, unframed
from upwell.check.spec import PLUS, CheckSpec
from upwell.version import VERSION

Fields = list[tuple[str, str]]
HEAD: Fields = [(":status", "200"), ("content-type", "application/grpc")]
SERVING = framed(b"\x08\x01")


class Server:
    """Answers each request with `head`, `content` and `trailers` (None: the head is all)."""

    def __init__(
        self,
        content: bytes = SERVING,
        code: str = "0",
        said: str = "",
        head: Fields = HEAD,
        trailers: bool = True,
    ) -> None:
        self.conn = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.conn.initiate_connection()
        self.content = content
        self.head = head
        self.ending: Fields = [("grpc-status", code)] + ([("grpc-message", said)] if said else [])
        self.trailers = trailers
        self.requests: list[dict[str, str]] = []
        self.messages: list[bytes] = []
        self.acks = 0

    def take(self, data: bytes) -> bytes:
        for event in self.conn.receive_data(data):
            if isinstance(event, RequestReceived):
                self.requests.append({str(name): str(value) for name, value in event.headers})
                self.messages.append(b"")
            elif isinstance(event, DataReceived):
                self.messages[-1] += event.data
            elif isinstance(event, StreamEnded):
                self.answer(event.stream_id)
            elif isinstance(event, PingAckReceived):
                self.acks += 1
        return self.conn.data_to_send()

    def answer(self, stream: int) -> None:
        if not self.trailers:
            self.conn.send_headers(stream, self.head + self.ending, end_stream=True)
            return
        self.conn.send_headers(stream, self.head)
        if self.content:
            self.conn.send_data(stream, self.content)
        self.conn.send_headers(stream, self.ending, end_stream=True)


def probe(service: str = "", status: int = -1, keep: float = 0.0, host: str = "") -> GrpcProbe:
    spec = CheckSpec(
        "u", "grpc", dialect=PLUS, service=service, grpc_status=status, keepalive_time=keep, timeout=1.0, host=host
    )
    return GrpcProbe(spec, "127.0.0.1:50051")


def began(one: GrpcProbe, again: bool = False) -> bytes:
    first = one.again() if again else one.open()
    assert isinstance(first, bytes)
    return first


def fed(one: GrpcProbe, data: bytes, size: int) -> tuple[bytes, Verdict | None]:
    sent = b""
    for at in range(0, len(data), size):
        told = one.feed(data[at : at + size])
        if isinstance(told, Verdict):
            return sent, told
        sent += told
    return sent, None


def ask(one: GrpcProbe, server: Server, size: int = 1 << 20, again: bool = False) -> Verdict:
    """The verdict of one probe, when what the server sends comes in pieces of `size`."""
    data = began(one, again)
    while True:
        reply = server.take(data)
        if not reply:
            told = one.feed(b"")
            assert isinstance(told, Verdict)
            return told
        data, verdict = fed(one, reply, size)
        if verdict is not None:
            return verdict


def why(make: Callable[[], GrpcProbe], server: Callable[[], Server]) -> str:
    whole, pieces = ask(make(), server()), ask(make(), server(), 1)
    assert whole == pieces
    return f"{whole.kind}: {whole.why}" if whole.kind else ""


def test_the_request() -> None:
    server = Server()
    assert ask(probe("my.Service"), server) == (True, "", "", 200, "", b"")
    assert server.requests == [
        {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/grpc.health.v1.Health/Check",
            ":authority": "127.0.0.1:50051",
            "te": "trailers",
            "content-type": "application/grpc",
            "user-agent": f"upwell/{VERSION} (health check)",
        }
    ]
    assert server.messages == [framed(b"\x0a\x0amy.Service")]
    ask(probe(host="app.test"), server := Server())
    assert server.requests[0][":authority"] == "app.test"
    assert server.messages == [framed(b"")]


@pytest.mark.parametrize("state", [(0, "UNKNOWN"), (2, "NOT_SERVING"), (3, "SERVICE_UNKNOWN"), (9, "9")])
def test_only_serving_passes(state: tuple[int, str]) -> None:
    number, name = state
    assert why(probe, lambda: Server(framed(bytes((8, number))))) == f"status: grpc health {name}"
    assert why(probe, Server) == ""
    assert why(probe, lambda: Server(framed(b""))) == "status: grpc health UNKNOWN"


@pytest.mark.parametrize("trailers", [False, True])
def test_a_status_that_is_asked_for_is_all_that_counts(trailers: bool) -> None:
    def missing() -> Server:
        return Server(b"", "12", "unknown%20service", trailers=trailers)

    assert why(probe, missing) == "status: grpc-status 12 (UNIMPLEMENTED): unknown service"
    assert why(lambda: probe(status=12), missing) == ""
    assert why(lambda: probe(status=0), missing) == "status: grpc-status 12 (UNIMPLEMENTED): unknown service"
    assert (
        why(lambda: probe(status=5), missing)
        == "status: grpc-status 12 (UNIMPLEMENTED), want 5 (NOT_FOUND): unknown service"
    )
    assert why(lambda: probe(status=0), lambda: Server(framed(b"\x08\x02"))) == ""
    assert why(probe, lambda: Server(code="99")) == "status: grpc-status 99"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Server(head=[(":status", "503")]), "status: status 503, want 200"),
        (lambda: Server(code="x"), 'protocol: grpc-status "x"'),
        (lambda: Server(b""), "protocol: no HealthCheckResponse in the gRPC response"),
        (lambda: Server(SERVING + SERVING), "protocol: no HealthCheckResponse in the gRPC response"),
        (lambda: Server(b"\1" + SERVING[1:]), "protocol: no HealthCheckResponse in the gRPC response"),
        (lambda: Server(framed(b"\x08")), "protocol: no HealthCheckResponse in the gRPC response"),
        (lambda: Server(b"x" * 2000), "protocol: gRPC message of more than 1024 bytes"),
    ],
)
def test_each_way_to_fail(make: Callable[[], Server], words: str) -> None:
    assert why(probe, make) == words


def test_an_answer_without_grpc_says_what_it_is() -> None:
    class Web(Server):
        def answer(self, stream: int) -> None:
            self.conn.send_headers(stream, [(":status", "200"), ("content-type", "text/html")])
            self.conn.send_data(stream, b"<html>", end_stream=True)

    assert why(probe, Web) == 'header: no grpc-status, Content-Type is "text/html"'


def test_resets_and_farewells_have_their_names() -> None:
    class Resets(Server):
        def answer(self, stream: int) -> None:
            self.conn.reset_stream(stream, ErrorCodes.REFUSED_STREAM)

    class Leaves(Server):
        def answer(self, stream: int) -> None:
            self.conn.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)

    class Silent(Server):
        def answer(self, stream: int) -> None:
            pass

    assert why(probe, Resets) == "closed: stream reset: REFUSED_STREAM"
    assert why(probe, Leaves) == "closed: GOAWAY before the gRPC response: ENHANCE_YOUR_CALM"
    assert why(probe, Silent) == "closed: connection closed before the end of the gRPC response"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the answer is HTTP/1.x, want HTTP/2 with prior knowledge"),
        (b"SSH-2.0-OpenSSH\r\n", "the answer is not HTTP/2: it does not begin with SETTINGS"),
        (b"\0\0\4\x08\0\0\0\0\0\0\0\0\1", "the answer is not HTTP/2: it does not begin with SETTINGS"),
        (bytes(9), "the answer is not HTTP/2: it does not begin with SETTINGS"),
        (b"\0\0\0\4\0\0\0\0\0" + b"\xff" * 9, "too much HTTP/2 in answer to one gRPC request"),
        (b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\0\0\0\0\0\0", "bad HTTP/2: "),
    ],
)
def test_what_is_no_http2_is_refused(answer: bytes, words: str) -> None:
    for size in (1, 4, 100):
        one = probe()
        began(one)
        _, verdict = fed(one, answer, size)
        assert verdict is not None
        assert (verdict.passed, verdict.kind) == (False, "protocol")
        assert verdict.why.startswith(words)


def test_frames_without_end_are_refused() -> None:
    one = probe()
    began(one)
    ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
    told = one.feed(b"\0\0\0\4\0\0\0\0\0")
    taken = 0
    while not isinstance(told, Verdict):
        told = one.feed(ping * 10)
        taken += len(ping) * 10
        assert taken < 100_000
    assert told.why == "too much HTTP/2 in answer to one gRPC request"


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_connection_is_kept_and_its_debts_are_paid(size: int) -> None:
    one, server = probe(keep=60.0), Server()
    verdict = ask(one, server, size)
    assert (verdict.passed, one.finished, one.reusable) == (True, True, True)
    server.conn.receive_data(verdict.farewell)
    for _ in range(3):
        server.conn.ping(b"12345678")  # comes before the answer, as a gRPC server's does
        verdict = ask(one, server, size, again=True)
        assert (verdict.passed, one.reusable) == (True, True)
        server.conn.receive_data(verdict.farewell)
    assert len(server.requests) == 4


def test_between_two_questions_a_server_may_speak() -> None:
    one, server = probe(keep=60.0), Server()
    server.conn.receive_data(ask(one, server).farewell)
    server.conn.ping(b"12345678")
    asked = server.conn.data_to_send()
    assert one.idle(asked[:10]) == b""
    answer = one.idle(asked[10:])
    assert answer is not None
    assert [type(event).__name__ for event in server.conn.receive_data(answer)] == ["PingAckReceived"]
    server.conn.ping(b"12345678")
    asked = server.conn.data_to_send()
    # Half of a frame may come before the next question, and half after it.
    assert one.idle(asked[:5]) == b""
    first = began(one, again=True)
    assert one.feed(asked[5:])
    _, verdict = fed(one, server.take(first), 1 << 20)
    assert verdict is not None
    assert verdict.passed
    server.conn.close_connection()
    assert one.idle(server.conn.data_to_send()) is None


@pytest.mark.parametrize("odd", [b"\0\0\x01\0\0\0\0\0\x01x", b"\xff" * 9, b"\0\0\x08\6\0\0\0\0\0" + bytes(8)])
def test_nonsense_between_two_questions_ends_the_connection(odd: bytes) -> None:
    one, server = probe(keep=60.0), Server()
    ask(one, server)
    for _ in range(10_000):  # 64 KB of the shortest
        answer = one.idle(odd)
        if answer is None:
            break
    assert answer is None


def test_a_connection_is_not_kept_without_need_or_after_a_goaway() -> None:
    one = probe()
    assert ask(one, Server()).passed
    assert not one.reusable

    class Leaving(Server):
        def answer(self, stream: int) -> None:
            super().answer(stream)
            self.conn.close_connection()

    kept = [probe(keep=60.0) for _ in range(2)]
    assert ask(kept[0], Leaving()).passed
    assert not kept[0].reusable
    full = Server()
    full.conn.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    assert not ask(kept[1], full).passed or not kept[1].reusable


def test_a_connection_is_not_kept_for_ever() -> None:
    one, server = probe(keep=60.0), Server()
    assert ask(one, server).passed
    uses = 1
    while one.reusable:
        assert ask(one, server, again=True).passed
        uses += 1
    assert uses == 1000
    assert ask(one, Server()).passed


@given(st.integers(0, 1 << 64), st.lists(st.sampled_from([b"\x10\x07", b"\x1a\x02hi", b"\x25abcd", b"\x29abcdefgh"])))
def test_unknown_fields_are_passed_over(number: int, others: Iterable[bytes]) -> None:
    size, rest = bytearray(), number
    while rest > 0x7F:
        size.append(rest & 0x7F | 0x80)
        rest >>= 7
    size.append(rest)
    assert health_of(b"".join(others) + b"\x08" + bytes(size)) == number


@pytest.mark.parametrize(
    "message",
    [
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\xff" * 10 + b"\1",
        b"\x0a\x01x",
        b"\x12\x05abc",
        b"\x0b",
        b"\x00\x01",
        b"\x11abc",
    ],
)
def test_what_is_no_protobuf_is_told_apart(message: bytes) -> None:
    assert health_of(message) is None


@given(st.binary(max_size=64))
def test_no_bytes_are_too_odd(message: bytes) -> None:
    assert health_of(message) is None or isinstance(health_of(message), int)
    assert unframed(framed(message)) == message
    assert unframed(framed(message) + b"x") is None


def test_a_long_service_name() -> None:
    assert request_message("x" * 300) == b"\x0a\xac\x02" + b"x" * 300
    server = Server()
    assert ask(probe("x" * 300), server).passed
    assert server.messages[0][5:] == request_message("x" * 300)
    told = probe("x" * 100_000).open()
    assert isinstance(told, Verdict)
    assert (told.passed, told.kind) == (False, "other")
