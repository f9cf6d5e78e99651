"""Who gets in, held beside nginx: passwords, other apps that decide, rules, and what the error log says of each."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import pytest

from tests.system.beside import Outcome, outcome
from tests.system.wire import Origin, Seen, get, post, response
from upwell.contrib.processes import UPWELL, Balancer, free_ports

USERS = """# a remark
\r
plain:{PLAIN}secret
sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=
ssha:{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0
apr1:$apr1$saltsalt$LrttParrLPdxvgutaSXWJ0:a remark
md5:$1$saltsalt$9xy1btjgzLYfb7hivXtC//
sha256:$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA
sha512:$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1
bcrypt:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW
des:abNANd1rDfiNc
bare:secret
badssha:{SSHA}???
shortssha:{SSHA}c2hvcnQ=
empty:
none
twice:{PLAIN}first
twice:{PLAIN}second
crlf:{PLAIN}secret\r
\xfcml:{PLAIN}secret
last:{PLAIN}secret"""

LOCATIONS = r"""
        location / { proxy_pass http://peers; }
        location /after { return 204; }
        location /basic/ { auth_basic "the realm"; proxy_pass http://peers; }
        location /basic/open/ { auth_basic off; proxy_pass http://peers; }
        location /basic/unless/ { auth_basic $arg_realm; proxy_pass http://peers; }
        location /basic/by/ { auth_basic "r"; auth_basic_user_file $arg_file; proxy_pass http://peers; }
        location /basic/shown/ { auth_basic "r"; error_page 401 /shown; proxy_pass http://peers; }
        location = /shown { auth_basic off; return 200 "show yourself"; }
        location /file-only/ { proxy_pass http://peers; }
        location /who/ { auth_basic "r"; proxy_pass http://peers;
                         proxy_set_header X-User $remote_user; }
        location /all/denied/ { auth_basic "r"; deny all; proxy_pass http://peers; }
        location /all/allowed/ { auth_basic "r"; allow all; proxy_pass http://peers; }
        location /any/denied/ { satisfy any; auth_basic "r"; deny all;
                                proxy_pass http://peers; }
        location /any/allowed/ { satisfy any; auth_basic "r"; allow all;
                                 proxy_pass http://peers; }
        location /any/no-rule/ { satisfy any; auth_basic "r"; allow 192.0.2.1;
                                 proxy_pass http://peers; }
        location /any/rules/ { satisfy any; deny all; proxy_pass http://peers; }
        location /any/none/ { satisfy any; proxy_pass http://peers; }
        location /delayed/ { auth_delay 1ms; auth_basic "r"; proxy_pass http://peers; }
        location /methods/ { proxy_pass http://peers; limit_except GET { deny all; } }
        location /methods/some/ { limit_except post Options { allow 127.0.0.1; deny all; } proxy_pass http://peers; }
        location /methods/uri/ { proxy_pass http://peers/other/; limit_except HEAD { auth_basic "r"; } }
        location /methods/elsewhere/ {
            limit_except GET { proxy_pass http://others; auth_basic "write"; access_log off; }
            proxy_pass http://peers/read/;
        }
        location /methods/returned/ { return 200 "returned"; limit_except GET { deny all; } }
        location /methods/open/ { return 200 "returned"; limit_except GET { allow all; } }
        location /methods/any/ { satisfy any; deny all; limit_except GET { auth_basic "r"; } proxy_pass http://peers; }
        location ~ ^/methods/regex/(.*) { limit_except GET { deny all; } proxy_pass http://peers/$1; }
        location /methods/regex/no { limit_except GET { deny all; } internal; }
        location /methods/error/ { error_page 403 = /shown; limit_except GET { deny all; } proxy_pass http://peers; }
        location /link/ {
            secure_link $arg_h,$arg_e;
            secure_link_md5 "$arg_e$uri secret";
            add_header X-Before "$secure_link_expires" always;
            return 200 "$secure_link|$secure_link_expires";
        }
        location /link/forever/ {
            secure_link $arg_h;
            return 200 "$secure_link|$secure_link_expires";
            secure_link_md5 "$uri secret";
        }
        location /link/half/ { secure_link $arg_h; secure_link_md5 ""; return 200 "$secure_link"; }
        location /secret/ {
            secure_link_secret word;
            return 200 "$secure_link|$secure_link_expires";
            location /secret/inner/ { return 200 "inner $secure_link"; }
        }
        location /referer/ {
            valid_referers none blocked server_names *.example.com .dotted.example
                example.* www.example.org/galleries/ ~\.google\. ~/end$;
            return 200 "$invalid_referer";
        }
        location /referer/strict/ { valid_referers only.example; return 200 "$invalid_referer"; }
        location /referer/nothing/ { return 200 "$invalid_referer"; }
        location /asks/ {
            auth_request /decides/;
            auth_request_set $user $upstream_http_x_user;
            auth_request_set $with $upstream_status;
            proxy_pass http://peers;
            proxy_set_header X-User $user;
            add_header X-With $with always;
        }
        location /asks/shown/ {
            auth_request /decides/;
            auth_request_set $user $upstream_http_x_user;
            error_page 401 403 500 /asked;
            proxy_pass http://peers;
        }
        location /asked { return 200 "[$user]"; }
        location /asks/none { auth_request off; proxy_pass http://peers; }
        location /asks/missing { auth_request /nowhere; proxy_pass http://peers; }
        location /asks/returned { auth_request /says; proxy_pass http://peers; }
        location /asks/gone { auth_request /refused; proxy_pass http://peers; }
        location /asks/any/ { satisfy any; allow 192.0.2.1; deny all; auth_request /decides/;
                              proxy_pass http://peers; }
        location /asks/plainly { auth_request /plainly; proxy_pass http://peers; }
        location = /plainly { proxy_pass http://peers/auth/; }
        location /asks/both/ { satisfy any; auth_basic "r"; auth_request /decides/; proxy_pass http://peers; }
        location /asks/all/ { auth_basic "r"; auth_request /decides/; proxy_pass http://peers; }
        location /asks/delayed/ { auth_delay 1ms; auth_request /decides/; proxy_pass http://peers; }
        location /asks/itself/ { auth_request /asks/itself/; proxy_pass http://peers; }
        location /decides/ {
            internal;
            deny all;
            set $set_within within;
            proxy_pass http://peers/auth/$arg_say;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Original-URI $request_uri;
        }
        location = /says { set $set_within within; return 204; }
        location = /refused { proxy_pass http://127.0.0.1:1; }
        location /any/delayed/ { satisfy any; deny all; auth_delay 1ms; auth_basic "r";
                                 proxy_pass http://peers; }
"""


def _configuration(front: int, peer: int) -> str:
    return f"""
error_log logs/error.log info;
events {{ }}
http {{
    upstream peers {{ server 127.0.0.1:{peer}; }}
    upstream others {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{front};
        server_name localhost;
        auth_basic_user_file users;
{LOCATIONS}
    }}
}}
"""


def basic(user: str, password: str = "secret") -> str:
    return "Authorization: Basic " + b64encode(f"{user}:{password}".encode("latin-1")).decode()


def _hash(text: str) -> str:
    return urlsafe_b64encode(md5(text.encode()).digest()).rstrip(b"=").decode()


_LATER, _LONG_AGO = "4102444800", "1000000000"
_LINKS = {
    f"a link until {until}": get(f"/link/x?h={_hash(f'{until}/link/x secret')}&e={until}")
    for until in (_LATER, _LONG_AGO, "0", "-1", "x", "9223372036854775807", "9223372036854775808")
}
_LINKS |= {
    "a link forever": get(f"/link/forever/x?h={_hash('/link/forever/x secret')}"),
    "a link, padded": get(f"/link/forever/x?h={_hash('/link/forever/x secret')}=="),
    "a link, padded too much": get(f"/link/forever/x?h={_hash('/link/forever/x secret')}==="),
    "a link, with something behind": get(f"/link/forever/x?h={_hash('/link/forever/x secret')}=x"),
    "a link, another letter": get(f"/link/forever/x?h={_hash('/link/forever/x secret')[:-2]}AA"),
    "a link, one letter less": get(f"/link/forever/x?h={_hash('/link/forever/x secret')[:-1]}"),
    "a link, one letter more": get(f"/link/forever/x?h={_hash('/link/forever/x secret')}A"),
    "a link with a plus": get("/link/forever/x?h=++++++++++++++++++++++"),
    "a link of nothing": get("/link/forever/x"),
    "a link of another page": get(f"/link/forever/y?h={_hash('/link/forever/x secret')}"),
    "no end": get("/link/x?h=x&e="),
    "a link to half a configuration": get("/link/half/?h=1B2M2Y8AsgTpgAmY7PhCfg"),
}
for _name, _path in {
    "": "/secret/{}/page",
    " with a query": "/secret/{}/page?x=1",
    " below": "/secret/{}/page/below",
    " within": "/secret/inner/{}/page",
    " nowhere": "/secret/{}/",
    " without a slash": "/secret/{}",
}.items():
    for _what, _text in {"page": "page", "all": "page?x=1", "below": "page/below", "other": "other"}.items():
        _LINKS[f"a secret of {_what}{_name}"] = get(_path.format(md5(f"{_text}word".encode()).hexdigest()))
_LINKS["a secret in capitals"] = get(f"/secret/{md5(b'pageword').hexdigest().upper()}/page")
_LINKS["no secret"] = get(f"/secret/{'x' * 32}/page")

_REFERERS = [
    "http://localhost/", "https://LOCALHOST", "http://local", "http://a.example.com/", "http://example.com/",
    "http://xexample.com/", "http://dotted.example", "http://a.b.dotted.example/x", "http://example.net:80/y",
    "http://example.", "http://x.example.net/", "http://www.example.org/galleries/1", "http://www.example.org/other",
    "http://www.example.org", "http://WWW.Google.com/", "http://some.where/at/the/END", "ftp://localhost/", "blocked",
    "http://", "http://i.r", "http://%s/" % ("x" * 256), "http://%s/" % ("x" * 255 + ".google.com"), "//localhost/",
    "http://only.example/", "http://user@localhost/",
]  # fmt: skip

_NAMES = ["plain", "sha", "ssha", "apr1", "md5", "sha256", "sha512", "bcrypt", "des", "bare", "badssha", "shortssha"]
_NAMES += ["none", "crlf", "last"]
_WORDS = ("secret", "Secret")

REQUESTS = {
    "nothing": get("/basic/"),
    **{f"{user}, {word}": get("/basic/", basic(user, word)) for user in _NAMES for word in _WORDS},
    "a name in Latin-1": get("/basic/", basic("\xfcml")),
    "a password of nothing": get("/basic/", basic("empty", "")),
    "the first line counts": get("/basic/", basic("twice", "first")),
    "the second line does not": get("/basic/", basic("twice", "second")),
    "a password with a colon": get("/basic/", basic("plain", "secret:")),
    "nobody": get("/basic/", basic("nobody")),
    "part of a name": get("/basic/", basic("plai")),
    "a remark": get("/basic/", basic("# a remark", "")),
    "no name": get("/basic/", basic("")),
    "no colon": get("/basic/", "Authorization: Basic cGxhaW4="),
    "no base64": get("/basic/", "Authorization: Basic !!!!"),
    "no padding": get("/basic/", basic("plain").rstrip("=")),
    "spaces": get("/basic/", basic("plain").replace("Basic ", "basic    ")),
    "another scheme": get("/basic/", "Authorization: Bearer abc"),
    "only a scheme": get("/basic/", "Authorization: Basic"),
    "HEAD": get("/basic/").replace(b"GET", b"HEAD"),
    "POST": post(b"content", "/basic/"),
    "POST let in": post(b"content", "/basic/", basic("plain")),
    "off within": get("/basic/open/"),
    "off by a variable": get("/basic/unless/?realm=off"),
    "asked by a variable": get("/basic/unless/?realm=a'b"),
    "asked without a realm": get("/basic/unless/"),
    "a file by a variable": get("/basic/by/?file=users", basic("plain")),
    "another file": get("/basic/by/?file=others", basic("plain")),
    "another file's": get("/basic/by/?file=others", basic("other")),
    "no file": get("/basic/by/?file=missing", basic("plain")),
    "no file and nobody": get("/basic/by/?file=missing"),
    "a folder": get("/basic/by/?file=folder", basic("plain")),
    "behind a file": get("/basic/by/?file=users/x", basic("plain")),
    "an error page": get("/basic/shown/"),
    "an error page not needed": get("/basic/shown/", basic("plain")),
    "no realm": get("/file-only/"),
    "the name as a variable": get("/who/", basic("plain")),
    "all: denied, right": get("/all/denied/", basic("plain")),
    "all: denied, nothing": get("/all/denied/"),
    "all: allowed, right": get("/all/allowed/", basic("plain")),
    "all: allowed, nothing": get("/all/allowed/"),
    "any: denied, right": get("/any/denied/", basic("plain")),
    "any: denied, slowly right": get("/any/denied/", basic("bcrypt")),
    "any: denied, wrong": get("/any/denied/", basic("plain", "x")),
    "any: denied, nothing": get("/any/denied/"),
    "any: allowed, nothing": get("/any/allowed/"),
    "any: allowed, wrong": get("/any/allowed/", basic("plain", "x")),
    "any: no rule, right": get("/any/no-rule/", basic("plain")),
    "any: no rule, nothing": get("/any/no-rule/"),
    "any: only rules": get("/any/rules/"),
    "any: nothing to satisfy": get("/any/none/"),
    **{
        f"{place}, asked: {status}": get(f"/asks/{place}?say={status}")
        for place in ("", "shown/", "any/", "both/", "all/", "delayed/")
        for status in (200, 204, 401, 403, 404, 302, 500)
    },
    **_LINKS,
    **{
        f"{method} {place}": get(f"/methods/{place}x").replace(b"GET", method.encode(), 1)
        for place in ("", "some/", "uri/", "elsewhere/", "returned/", "open/", "any/", "regex/", "regex/no", "error/")
        for method in ("GET", "HEAD", "DELETE", "OPTIONS", "BREW")
    },
    "POST, limited": post(b"content", "/methods/"),
    "POST, not limited": post(b"content", "/methods/some/"),
    "POST, to others": post(b"content", "/methods/elsewhere/", basic("plain")),
    "PUT, an error page": post(b"content", "/methods/error/").replace(b"POST", b"PUT", 1),
    "a folder's redirect": get("/methods/elsewhere").replace(b"GET", b"DELETE", 1),
    **{
        f"from {referer[:40]} at {place}": get(f"/referer/{place}", f"Referer: {referer}")
        for referer in _REFERERS
        for place in ("", "strict/", "nothing/")
    },
    **{f"from nowhere at {place}": get(f"/referer/{place}") for place in ("", "strict/", "nothing/")},
    "asked in vain, right": get("/asks/both/?say=403", basic("plain")),
    "asked in vain, wrong": get("/asks/both/?say=403", basic("plain", "x")),
    "asked, but who it is first": get("/asks/all/?say=403"),
    "asked, and right": get("/asks/all/?say=200", basic("plain")),
    "nobody is asked": get("/asks/none?say=403"),
    "nobody there to ask": get("/asks/missing"),
    "asked, and answered here": get("/asks/returned"),
    "asked who does not listen": get("/asks/gone"),
    "asks itself": get("/asks/itself/"),
    "asked for HEAD": get("/asks/?say=200").replace(b"GET", b"HEAD"),
    "asked for HEAD, no": get("/asks/?say=401").replace(b"GET", b"HEAD"),
    "asked for POST": post(b"content", "/asks/?say=200"),
    "asked for POST, no": post(b"content", "/asks/?say=401"),
    "asked plainly": get("/asks/plainly", basic("plain"), "Cookie: a=b"),
    "asked with a query": get("/asks/?say=200&x=1"),
    "not for everybody": get("/decides/?say=200"),
    "delayed": get("/delayed/"),
    "not delayed": get("/delayed/", basic("plain")),
    "any: delayed": get("/any/delayed/"),
    "any: not delayed": get("/any/delayed/", basic("plain")),
}

_ABOUT = re.compile(r"user|password|forbidden|delaying|failed \(|auth request")


@dataclass
class _Side:
    port: int
    balancer: Balancer

    def ask(self, request: bytes, origin: Origin) -> tuple[Outcome, list[str]]:
        """What comes of it, and what the error log says of it."""
        before = len(self.balancer.error_log())
        found = outcome(self.port, request, origin)
        lines = self.balancer.error_log()[before:].splitlines()
        said = [re.sub(r"^.*?\[(\w+)\] \d+#\d+: (?:\*\d+ )?", r"[\1] ", line) for line in lines if _ABOUT.search(line)]
        prefix = str(self.balancer.prefix)
        return found, [line.replace(prefix, "PREFIX").replace(f":{self.port}", ":PORT") for line in said]


@dataclass
class _Both:
    nginx: _Side
    upwell: _Side
    origin: Origin


def _respond(seen: Seen, connection: socket.socket) -> bytes:
    path = seen.target.decode().partition("?")[0]
    if path.startswith("/auth/"):
        status = path.removeprefix("/auth/") or "200"
        challenge = (
            ["WWW-Authenticate: Bearer", 'www-authenticate: Basic realm="x"'] if status.startswith("401") else []
        )
        return response(
            b"not for the client" * 1000, "X-User: somebody", "X-Not: shown", *challenge, status=f"{status} X"
        )
    return response(b"" if seen.head.startswith(b"HEAD") else b"fine")


def write_users(balancer: Balancer) -> None:
    folder = balancer.prefix / "conf"
    (folder / "users").write_text(USERS, "latin-1", newline="")
    (folder / "others").write_text("other:{PLAIN}secret\n")
    (folder / "folder").mkdir()
    for path in ("users", "others"):
        (folder / path).chmod(0o644)  # the workers are somebody else
    (folder / "folder").chmod(0o755)


@pytest.fixture(scope="module")
def sides(nginx: tuple[str, ...]) -> Iterator[_Both]:
    ports = free_ports(2)
    # Not in pytest's folders: each session that starts closes them to others, which the workers of root are.
    with tempfile.TemporaryDirectory() as folder, Origin(_respond) as origin, ExitStack() as stack:
        Path(folder).chmod(0o755)

        def start(name: str, port: int, command: tuple[str, ...]) -> _Side:
            prefix = Path(folder) / name
            balancer = stack.enter_context(Balancer(prefix, _configuration(port, origin.port), [port], command))
            write_users(balancer)
            return _Side(port, balancer)

        yield _Both(start("nginx", ports[0], nginx), start("upwell", ports[1], UPWELL), origin)


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS.keys())
def test_as_nginx_does_it(sides: _Both, request_bytes: bytes) -> None:
    expected = sides.nginx.ask(request_bytes, sides.origin)
    assert sides.upwell.ask(request_bytes, sides.origin) == expected


def test_better_who_is_asked_is_not_promised_content(sides: _Both) -> None:
    # nginx passes Content-Length on and sends none, so that both wait, unless the configuration takes the field out.
    found = outcome(sides.upwell.port, post(b"content", "/asks/plainly"), sides.origin)
    asked, then = found.origin_saw
    assert b"content" not in asked.lower()
    assert then.endswith(b"Content-Length: 7\r\n\r\ncontent")
    assert found.status == 200


def test_a_changed_file_counts_from_the_next_request_on(sides: _Both) -> None:
    path = sides.upwell.balancer.prefix / "conf" / "changing"
    request = get("/basic/by/?file=changing", basic("somebody", "right"))
    asked = []
    for text in ("somebody:{PLAIN}right", "somebody:{PLAIN}wrong", "somebody:{PLAIN}right"):
        path.write_text(text)
        path.chmod(0o644)  # the worker is somebody else
        os.utime(path, (1, 1))
        asked.append(outcome(sides.upwell.port, request, sides.origin).status)
    path.unlink()
    asked.append(outcome(sides.upwell.port, request, sides.origin).status)
    assert asked == [200, 401, 200, 403]


def test_no_password_is_in_the_log(sides: _Both) -> None:
    outcome(sides.upwell.port, get("/basic/", basic("plain", "a-word-of-mine")), sides.origin)
    said = sides.upwell.balancer.error_log()
    assert 'user "plain": password mismatch' in said
    assert "a-word-of-mine" not in said
    assert b64encode(b"plain:a-word-of-mine").decode() not in said
    assert "LrttParr" not in said
