"""The probe of type "grpc": Check of grpc.health.v1 over cleartext HTTP/2, known beforehand. Knows `h2`, no socket.

The two messages are so small that they are written and read here (protobuf's wire format); nothing is generated.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote_to_bytes

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError

from upwell.check.probe import Verdict
from upwell.check.said import said
from upwell.check.spec import CheckSpec
from upwell.version import VERSION

_HEADER: Final = 9  # bytes of a frame's header (RFC 9113, 4.1)
_SETTINGS: Final = 4  # the type of the frame that each side begins with
_MOST_FRAME: Final = 1 << 14  # what may be sent to who has not asked for more
_MOST: Final = 1 << 16  # bytes of frames in answer to one question
_MOST_FIELDS: Final = 1 << 14  # bytes of a field section
_MOST_MESSAGE: Final = 1024  # the real one has two bytes
_MOST_USES: Final = 1000  # of a connection: h2 remembers each stream that it had

_SERVING: Final = 1
_STATES: Final = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")

_CODES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)


class GrpcProbe:
    """`CheckSpec.service` is asked for ("": the server as a whole), `host` is the authority (else the peer's name).

    Passes when the answer is SERVING; with `grpc_status` not below 0, when the call ends with that status, whatever
    the message: NGINX Plus's way to check servers without a health service (12, UNIMPLEMENTED).
    """

    __slots__ = (
        "_code",
        "_conn",
        "_content",
        "_data",
        "_ended",
        "_explained",
        "_kept",
        "_message",
        "_read",
        "_request",
        "_status",
        "_stream",
        "_type",
        "_uses",
        "_want",
        "doing",
        "finished",
        "receiving",
        "reusable",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str) -> None:
        self.sending = "failed to send the gRPC request to"
        self.receiving = "failed to receive the gRPC response from"
        self.doing = "awaiting the gRPC response"
        self.finished = True
        self.reusable = False
        self._request = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/grpc.health.v1.Health/Check"),
            (":authority", spec.host or ("localhost" if name.startswith("unix:") else name)),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", f"upwell/{VERSION} (health check)"),
        )
        self._message = framed(request_message(spec.service))
        self._want = spec.grpc_status
        self._kept = spec.keepalive_time > 0
        self._conn: H2Connection | None = None
        self._uses = 0
        self._stream = 0
        self._data = b""  # the beginning of a frame; one may straddle two questions
        self._begin()

    def _begin(self) -> None:
        self._read = 0
        self._status = 0  # HTTP's
        self._type = b""  # Content-Type
        self._code = b""  # grpc-status
        self._explained = b""  # grpc-message
        self._content = b""
        self._ended = False
        self.reusable = False

    def open(self) -> bytes | Verdict:
        self._begin()
        self._data = b""
        conn = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        conn.local_settings = Settings(
            client=True,
            initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.MAX_HEADER_LIST_SIZE: _MOST_FIELDS},
        )
        conn.decoder.max_header_list_size = _MOST_FIELDS
        conn.initiate_connection()
        self._conn = conn
        self._uses = 0
        try:
            return self._ask(conn)
        except (H2Error, ValueError) as error:
            return self._end(Verdict(False, "other", f"cannot ask: {said(str(error).encode())}"))

    def again(self) -> bytes:
        self._begin()
        conn = self._conn
        return b"" if conn is None else self._ask(conn)

    def _ask(self, conn: H2Connection) -> bytes:
        self._uses += 1
        self._stream = conn.get_next_available_stream_id()
        conn.send_headers(self._stream, self._request)
        conn.send_data(self._stream, self._message, end_stream=True)
        return conn.data_to_send()

    def feed(self, data: bytes) -> bytes | Verdict:
        conn = self._conn
        if conn is None or not data:
            return self._end(Verdict(False, "closed", "connection closed before the end of the gRPC response"))
        verdict = self._frames(conn, data)
        if verdict is None:
            return conn.data_to_send()
        return self._end(verdict)

    def idle(self, data: bytes) -> bytes | None:
        """What comes on a kept connection in between: servers measure it with PING, and give back the window."""
        conn = self._conn
        if conn is None or self._frames(conn, data) is not None or not self._usable(conn):
            self._conn = None
            return None
        return conn.data_to_send()

    def _frames(self, conn: H2Connection, data: bytes) -> Verdict | None:
        """Take in the frames that are whole, one by one: h2 forgets what it has read when a later one in the same piece
        is wrong, and holds as much of one as it is given."""
        data = self._data + data
        verdict: Verdict | None = None
        at = 0
        while len(data) - at >= _HEADER:
            length = int.from_bytes(data[at : at + 3], "big")
            if self._uses == 1 and not self._read and (length > _MOST_FRAME or data[at + 3] != _SETTINGS):
                return _not_http2(data)
            end = at + _HEADER + length
            if length > _MOST_FRAME or self._read + end - at > _MOST:
                return verdict or Verdict(False, "protocol", "too much HTTP/2 in answer to one gRPC request")
            if end > len(data):
                break
            self._read += end - at
            try:
                for event in conn.receive_data(data[at:end]):
                    verdict = verdict or self._take(event)
            except (H2Error, HPACKError, HyperframeError, ValueError, KeyError) as error:
                self._ended = False  # whatever came before: nothing more can be asked here
                return verdict or Verdict(False, "protocol", f"bad HTTP/2: {said(str(error).encode())}")
            at = end
        self._data = data[at:]
        return verdict

    def _take(self, event: Event) -> Verdict | None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            for name, value in event.headers:
                if name == b":status":
                    self._status = int(value) if len(value) == 3 and value.isdigit() else 0
                elif name == b"grpc-status":
                    self._code = value
                elif name == b"grpc-message":
                    self._explained = value
                elif name == b"content-type":
                    self._type = value
            if self._status != 200:
                return Verdict(False, "status", f"status {self._status}, want 200", self._status)
        elif isinstance(event, DataReceived):
            self._content += event.data
            if len(self._content) > _MOST_MESSAGE:
                return Verdict(False, "protocol", f"gRPC message of more than {_MOST_MESSAGE} bytes", self._status)
        elif isinstance(event, StreamEnded):
            self._ended = True
            return self._judged()
        elif isinstance(event, StreamReset):
            return Verdict(False, "closed", f"stream reset: {_error(event.error_code)}", self._status)
        elif isinstance(event, ConnectionTerminated):
            # h2 takes no more from who takes leave, not even the rest of the response.
            return Verdict(False, "closed", f"GOAWAY before the gRPC response: {_error(event.error_code)}")
        return None

    def _judged(self) -> Verdict:
        """The verdict on a whole response."""
        status, code = self._status, self._code
        if not code:
            return Verdict(False, "header", f'no grpc-status, Content-Type is "{said(self._type)}"', status)
        if not (code.isdigit() and len(code) <= 3):
            return Verdict(False, "protocol", f'grpc-status "{said(code)}"', status)
        number, want = int(code), max(self._want, 0)
        if number != want:
            words = f"grpc-status {_named(number)}"
            if self._want > 0:
                words += f", want {_named(want)}"
            if self._explained:
                words += f": {said(unquote_to_bytes(self._explained))}"
            return Verdict(False, "status", words, status)
        if self._want >= 0:
            return Verdict(True, status=status)
        message = unframed(self._content)
        health = None if message is None else health_of(message)
        if health is None:
            return Verdict(False, "protocol", "no HealthCheckResponse in the gRPC response", status)
        if health != _SERVING:
            words = _STATES[health] if health < len(_STATES) else str(health)
            return Verdict(False, "status", f"grpc health {words}", status)
        return Verdict(True, status=status)

    def _end(self, verdict: Verdict) -> Verdict:
        """`verdict`, with the answers that HTTP/2 owes the server if the connection is kept."""
        conn = self._conn
        if conn is not None and self._kept and self._uses < _MOST_USES:
            self.reusable = self._usable(conn)
        if conn is None or not self.reusable:
            self._conn = None
            self._data = b""
            return verdict
        return verdict._replace(farewell=conn.data_to_send())

    def _usable(self, conn: H2Connection) -> bool:
        """Whether another question can be asked on `conn`."""
        settings = conn.remote_settings
        room = min(settings.initial_window_size, conn.outbound_flow_control_window)
        return (
            self._ended
            and conn.state_machine.state is not ConnectionState.CLOSED
            and room >= len(self._message)
            and settings.max_concurrent_streams > 0
        )


def request_message(service: str) -> bytes:
    """A HealthCheckRequest: field 1, a string, left out when empty."""
    if not service:
        return b""
    name = service.encode()
    length, size = len(name), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return b"\x0a" + bytes(size) + name


def framed(message: bytes) -> bytes:
    """`message` as gRPC sends it: not compressed, its length, itself."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def unframed(content: bytes) -> bytes | None:
    """The one message in `content`; None if it is not one, or compressed (nobody said that it may be)."""
    if len(content) < 5 or content[0] != 0 or int.from_bytes(content[1:5], "big") != len(content) - 5:
        return None
    return content[5:]


def health_of(message: bytes) -> int | None:
    """The status in a HealthCheckResponse: field 1, an enum, 0 when left out, the last one if there are several.

    Fields that are not known are passed over, as protobuf wants it; None if it is no protobuf message.
    """
    status = at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if at < 0 or tag >> 3 == 0:
            return None
        wire = tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            if tag == 0x08:
                status = value
        elif tag >> 3 == 1:
            return None
        elif wire == 2:
            length, at = _varint(message, at)
            at = at + length if at >= 0 else -1
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return None
        if not 0 <= at <= len(message):
            return None
    return status


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """(the number at `at`, where it ends: -1 if it is cut off or too long)."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return 0, -1


def _not_http2(data: bytes) -> Verdict:
    if data[:4] == b"HTTP":
        return Verdict(False, "protocol", "the answer is HTTP/1.x, want HTTP/2 with prior knowledge")
    return Verdict(False, "protocol", "the answer is not HTTP/2: it does not begin with SETTINGS")


def _named(code: int) -> str:
    return f"{code} ({_CODES[code]})" if code < len(_CODES) else str(code)


def _error(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)
