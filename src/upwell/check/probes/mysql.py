"""The probe of type "mysql": MySQL's or MariaDB's greeting, and a login that ends the talk. Knows packets, no socket.

nginx_upstream_check_module and HAProxy (without a user) read the greeting and hang up. The server counts that as a
handshake error, and after `max_connect_errors` (100) in a row refuses the host, with all its real clients. Who logs in
is never counted so, even when refused: that is why this probe does.
"""

from __future__ import annotations

from typing import Final

from upwell.check.probe import Verdict
from upwell.check.said import said
from upwell.check.spec import CheckSpec

_MOST: Final = 4096  # bytes of a packet; a greeting has a hundred

_ERR, _SWITCH, _MORE, _OK = 0xFF, 0xFE, 0x01, 0x00
_PROTOCOLS: Final = (9, 10)  # 9: before MySQL 3.21.0

_CONNECT_WITH_PLUGIN: Final = 1 << 19  # CLIENT_PLUGIN_AUTH
_PROTOCOL_41: Final = 1 << 9
_WANTED: Final = _CONNECT_WITH_PLUGIN | _PROTOCOL_41 | 1 << 15  # ... CLIENT_SECURE_CONNECTION
_UTF8: Final = 33

_USER: Final = "upwell"
_OVERLOADED: Final = (1040, 1041, 1053)  # too many connections, out of resources, shutdown in progress

_QUIT: Final = b"\1\0\0\0\1"  # COM_QUIT in a packet of its own


class MysqlProbe:
    """With a user in `CheckSpec.params` that user must be let in, without a password (HAProxy's `mysql-check user`).

    Without one any greeting passes: that the server then refuses a user it does not know says nothing against it,
    unless it says that it cannot take anyone.
    """

    __slots__ = (
        "_data",
        "_greeted",
        "_named",
        "_sequence",
        "_switched",
        "_user",
        "doing",
        "finished",
        "receiving",
        "reusable",
        "sending",
    )

    def __init__(self, spec: CheckSpec, name: str) -> None:
        user = dict(spec.params).get("user", "")
        self.sending = "failed to send the login to"
        self.receiving = "failed to receive the greeting from"
        self.doing = "awaiting the greeting"
        self.finished = True
        self.reusable = False
        self._named = bool(user)
        self._user = (user or _USER).encode("utf-8", "replace").replace(b"\0", b"")
        self._begin()

    def _begin(self) -> None:
        self.receiving = "failed to receive the greeting from"
        self.doing = "awaiting the greeting"
        self.finished = True
        self._data = b""
        self._sequence = 0
        self._greeted = False
        self._switched = False

    def open(self) -> bytes:
        self._begin()
        return b""  # the server speaks first

    def again(self) -> bytes:
        """Never asked for: there is one greeting on a connection."""
        return b""

    def feed(self, data: bytes) -> bytes | Verdict:
        if not data:
            self.finished = True
            if not self._greeted:
                return Verdict(False, "closed", "connection closed before the greeting")
            if self._named:
                return Verdict(False, "closed", "connection closed before the answer to the login")
            return Verdict(True)
        data = self._data + data
        sending = b""
        while len(data) >= 4:
            length = int.from_bytes(data[:3], "little")
            if not 1 <= length <= _MOST:
                return self._wrong(f"packet of {length} bytes")
            if data[3] != self._sequence:
                return self._wrong(f"packet number {data[3]}, want {self._sequence}")
            if len(data) < 4 + length:
                break
            answer = self._packet(data[4 : 4 + length])
            if isinstance(answer, Verdict):
                return answer
            sending += answer
            data = data[4 + length :]
        self._data = data
        return sending

    def _packet(self, packet: bytes) -> bytes | Verdict:
        if packet[0] == _ERR:
            return self._refused(packet)
        if not self._greeted:
            return self._greeting(packet)
        if packet[0] == _OK:
            self.finished = False
            return Verdict(True, farewell=_QUIT)
        if packet[0] == _SWITCH and not self._switched:
            # Another way to show a password is wanted; there is none, which every way tells by an empty packet.
            self._switched = True
            number = self._sequence + 1
            self._sequence = number + 1
            return b"\0\0\0" + bytes((number,))
        if packet[0] in (_SWITCH, _MORE):
            # It wants a password.
            if self._named:
                return Verdict(False, "status", "mysql wants a password")
            return Verdict(True)
        return self._wrong(f"answer {packet[0]:#04x} to the login")

    def _greeting(self, packet: bytes) -> bytes | Verdict:
        """Handshake version 10: version, server version, thread, 8 bytes of the nonce, 0, what it can do, and more."""
        if packet[0] not in _PROTOCOLS:
            return self._wrong(f"protocol version {packet[0]}, want 10")
        end = packet.find(b"\0", 1)
        if end < 2 or not packet[1:end].isascii():
            return self._wrong("no server version in the greeting")
        self._greeted = True
        rest = packet[end + 1 :]
        if packet[0] == 9 or len(rest) < 15:
            if len(rest) < 12:
                return self._wrong("greeting cut short")
            return Verdict(True)  # too old to log in to
        if rest[12] != 0:
            return self._wrong("greeting without the end of its nonce")
        # Of two bytes each, with the character set and the server's state in between.
        able = int.from_bytes(rest[13:15] + rest[18:20], "little")
        if not able & _PROTOCOL_41:
            return Verdict(True)
        self.receiving = "failed to receive the answer to the login from"
        self.doing = "awaiting the answer to the login"
        self._sequence = 2
        return self._login(able, rest[20:])

    def _login(self, able: int, rest: bytes) -> bytes:
        """HandshakeResponse41 without a password, for the server's own way to ask for one (or it would ask again)."""
        able &= _WANTED
        login = able.to_bytes(4, "little") + (1 << 24).to_bytes(4, "little") + bytes((_UTF8,)) + bytes(23)
        login += self._user + b"\0" + b"\0"
        if able & _CONNECT_WITH_PLUGIN:
            # The rest: the nonce's length, 10 bytes, its second part (13 bytes at least), the name.
            nonce = max(13, rest[0] - 8) if rest else 13
            login += rest[11 + nonce :].split(b"\0")[0][:64] + b"\0"
        return len(login).to_bytes(3, "little") + b"\1" + login

    def _refused(self, packet: bytes) -> Verdict:
        """An ERR packet; '#' and an SQLSTATE stand before its words, but not in an early one."""
        if len(packet) < 3:
            return self._wrong("error cut short")
        code = int.from_bytes(packet[1:3], "little")
        words = packet[9:] if packet[3:4] == b"#" else packet[3:]
        self.finished = False  # the server hangs up
        if self._greeted and not self._named and code not in _OVERLOADED:
            return Verdict(True)
        return Verdict(False, "status", f"mysql error {code}: {said(words)}")

    def _wrong(self, words: str) -> Verdict:
        self.finished = True
        return Verdict(False, "protocol", f"not MySQL: {words}")
