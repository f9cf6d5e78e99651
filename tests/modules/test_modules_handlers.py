"""The small handlers that live beside their directives: allow/deny and return."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from upwell.config.template import Template, compile_template
from upwell.errors import Position
from upwell.modules.access import AccessSettings, compile_access, is_allowed
from upwell.modules.load import load
from upwell.modules.return_ import Return, compile_return
from upwell.proxy.absolute import USUAL


class _Exchange:
    """What the handlers see of an exchange; `sent` is what was answered."""

    def __init__(self, address: str = "127.0.0.1", port: int = 8080, host: bytes = b"example.com") -> None:
        self.client = SimpleNamespace(address=address, local_address="127.0.0.9", local_port=port)
        self.location = SimpleNamespace(redirects=USUAL)
        self.host = host
        self.scheme = "http"
        self.default_type = b"text/x"
        self.status = self.forced_status = 0
        self.content_type: bytes | None = None
        self.content_length: int | None = None
        self.sent: list[Any] = []
        self.logged: list[str] = []

    def respond_error(self, status: int, fields: Any = ()) -> None:
        self.sent = [status, *fields]

    def send_head(self) -> None:
        self.sent = [self.status, self.content_type, self.content_length]

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def finish(self) -> None:
        self.sent.append("end")

    def log(self, level: int, message: str) -> None:
        self.logged.append(message)


def _rules(tmp_path: Path, rules: str) -> AccessSettings:
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{ {rules} }}\n")
    return next(load("nginx.conf", str(tmp_path)).main.of("http"))[AccessSettings]


@pytest.mark.parametrize(
    ("rules", "address", "allowed"),
    [
        ("", "10.0.0.1", True),
        ("allow 127.0.0.1; deny all;", "127.0.0.1", True),
        ("allow 127.0.0.1; deny all;", "127.0.0.2", False),
        ("allow 127.0.0.1; deny all;", "::1", False),
        ("allow 127.0.0.1; deny all;", "unix:", False),
        ("deny 10.0.0.0/8;", "10.255.0.1", False),
        ("deny 10.0.0.0/8;", "11.0.0.1", True),
        ("deny 10.1.0.0/16; allow 10.0.0.0/8; deny all;", "10.1.2.3", False),
        ("deny 10.1.0.0/16; allow 10.0.0.0/8; deny all;", "10.2.2.3", True),
        ("allow 2001:db8::/32; deny all;", "2001:db8::7", True),
        ("allow 2001:db8::/32; deny all;", "2001:db9::7", False),
        ("allow 127.0.0.1; deny all;", "::ffff:127.0.0.1", True),
        ("allow unix:; deny all;", "unix:", True),
        ("allow unix:; deny all;", "127.0.0.1", False),
        ("deny all; allow all;", "127.0.0.1", False),
    ],
)
def test_the_first_rule_that_fits_decides(rules: str, address: str, allowed: bool, tmp_path: Path) -> None:
    settings = _rules(tmp_path, rules)
    assert is_allowed(settings, address) is allowed
    handler: Callable[..., int | None] | None = compile_access(settings)
    if not rules:
        assert handler is None
        return
    assert handler is not None
    exchange = _Exchange(address)
    assert handler(exchange) == (None if allowed else 403)
    assert exchange.logged == ([] if allowed else ["access forbidden by rule"])


def _render(template: Template) -> Callable[[Any], bytes]:
    return lambda exchange: b"".join(
        part.encode() if isinstance(part, str) else exchange.host for part in template.parts
    )


def _return(status: int, text: str | None, exchange: _Exchange) -> int | None:
    step = Return(status, None if text is None else compile_template(text), Position("x", 1))
    handler: Callable[..., int | None] = compile_return(step, _render)
    return handler(exchange)


@pytest.mark.parametrize(
    ("status", "text", "result", "sent"),
    [
        (200, "hi $host", None, [200, b"text/x", 14, b"hi example.com", "end"]),
        (200, None, None, [200, b"text/x", 0, b"", "end"]),
        (204, None, None, [204, b"text/x", 0, b"", "end"]),
        (404, "gone", None, [404, b"text/x", 4, b"gone", "end"]),
        (404, None, 404, []),
        (404, "", 404, []),
        (444, None, 444, []),
        (301, "https://$host/", None, [301, (b"Location", b"https://example.com/")]),
        (302, "/x", None, [302, (b"Location", b"http://example.com:8080/x")]),
        (308, "x", None, [308, (b"Location", b"x")]),
    ],
)
def test_return_answers_as_nginx_does(status: int, text: str | None, result: int | None, sent: list[Any]) -> None:
    exchange = _Exchange()
    assert _return(status, text, exchange) == result
    assert exchange.sent == sent


def test_a_redirect_names_no_default_port_and_falls_back_to_the_address() -> None:
    exchange = _Exchange(port=80, host=b"")
    _return(301, "/x", exchange)
    assert exchange.sent == [301, (b"Location", b"http://127.0.0.9/x")]
