"""Plain files beside nginx: the same answers to the same questions, and the same lines in the error log."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h11
import pytest

from tests.system.beside import NGINX
from tests.system.wire import Client, Origin, Seen, ask, get, post, response
from upwell.contrib.processes import UPWELL, Balancer, await_condition, free_ports

WHEN = 1_700_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
LONG = b"".join(b"%07d\n" % number for number in range(1_500_000))
DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
TAG = f'"{WHEN:x}-1a"'

CONFIGURATION = r"""
error_log logs/error.log info;
events {{}}
http {{
    access_log off;
    types {{ text/html html; text/css css; image/png png; }}
    default_type application/x-any;
    log_format size "$request_uri $status $body_bytes_sent $request_completion";
    server {{
        listen 127.0.0.1:{front};
        root {files};
        location = /file {{ access_log logs/access.log size; }}
        server_name first.example second.example;
        rewrite_log off;
        location / {{ }}
        location /off/ {{ alias {files}/; etag off; if_modified_since off; max_ranges 0; }}
        location /before/ {{ alias {files}/; if_modified_since before; max_ranges 1; }}
        location /two/ {{ alias {files}/; max_ranges 2; add_header X-Added $sent_http_etag; expires epoch; }}
        location /fields/ {{ alias {files}/; add_header ETag '"mine"'; add_header Last-Modified ""; }}
        location /always/ {{ alias {files}/; add_header X-Always $status always; }}
        location /quiet/ {{ log_not_found off; alias {files}/; }}
        location /typed/ {{ alias {files}/; types {{ }} default_type text/x-none; }}
        location /img {{ alias {files}/dir/; }}
        location = /exact {{ alias {files}/letters.txt; }}
        location ~ ^/re/(.+)\.(?<kind>html|txt)$ {{ alias {files}/$1.$kind; }}
        location ~ ^/retry/(.+)$ {{ alias {files}/; try_files $1 $1.txt =410; }}
        location /host/ {{ root {files}/$host; }}
        location /outer/ {{ alias {files}/; location /outer/dir/ {{ index letters.txt; }} }}
        location /index/ {{ alias {files}/; index none.html $arg_i letters.txt; }}
        location /last/ {{ alias {files}/empty/; index none.html /letters.txt; }}
        location /loop/ {{ index /loop/; }}
        location /vars {{
            return 200 "$document_root $realpath_root $request_filename"; root {files}/link;
        }}
        location /vars/alias/ {{ alias {files}/dir/; return 200 "$document_root $realpath_root $request_filename"; }}
        location ~ ^/vars/re/(.*) {{ alias {files}/$1; return 200 "$document_root $realpath_root $request_filename"; }}
        location /try/ {{ root {files}; try_files $uri $uri.txt $uri/ /letters.txt?x=$arg_x; }}
        location /try/alias/ {{ alias {files}/dir/; try_files $uri $uri.html =404; }}
        location /try/proxy/ {{ try_files /dir/$arg_f @peer; add_header X-Uri $uri; }}
        location /try/peer/ {{ try_files /letters.txt =500; proxy_pass http://127.0.0.1:{origin}; }}
        location /try/uri/ {{ try_files /letters.txt =500; proxy_pass http://127.0.0.1:{origin}/base/; }}
        location /try/cycle/ {{ try_files $uri /try/cycle/again; }}
        location /try/nobody/ {{ try_files $uri @nobody; }}
        location /try/418 {{ try_files $uri =418; }}
        location /try/dir/ {{ try_files /dir/ =404; }}
        location /try/204 {{ try_files $uri =204; }}
        location /try/600 {{ try_files $uri =600; }}
        location /try/0 {{ try_files $uri =0; }}
        location /try/bare {{ try_files $uri letters.txt; }}
        location /try/slash {{ try_files /dir /letters.txt/ /nothing/; }}
        location @peer {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /paged/ {{ alias {files}/; error_page 404 /letters.txt; error_page 405 =200 /dir/index.html;
            error_page 412 = /dir/index.html; error_page 403 @named; }}
        location @named {{ root {files}/dir; try_files /index.html =404; }}
        location /accel/ {{ proxy_pass http://127.0.0.1:{origin}; }}
        location /inside/ {{ internal; alias {files}/; }}
        location /rate/ {{ alias {files}/; limit_rate 100m; }}
        location /charset/ {{ alias {files}/; charset utf-8; charset_types *; autoindex on; }}
        location /charset/xml/ {{ alias {files}/listed/; charset utf-8; autoindex on; autoindex_format xml; }}
        location /zipped/ {{ alias {files}/; gzip on; gzip_types *; gzip_vary on; }}
        location /rewritten/ {{ alias {files}/; rewrite ^ /rewritten/letters.txt break; }}
        location /rewritten/root/ {{ rewrite ^ /letters.txt break; }}
        location ~ ^/rewritten/re/(.*) {{ alias {files}/$1; rewrite ^ /x break; }}
        location /rewritten/try/ {{ alias {files}/; rewrite ^ /x break; try_files letters.txt =404; }}
        location /if/ {{ alias {files}/dir/; if (!-f $request_filename) {{ return 207 $request_filename; }} }}
        location /if/root/ {{ if ($arg_x) {{ root {files}/dir; }} rewrite ^ /letters.txt break; }}
        location /list/ {{ alias {files}/listed/; autoindex on; add_header X-Added $status; }}
        location /list/dir/ {{ alias {files}/dir/; autoindex on; }}
        location /list/shut/ {{ alias {files}/shut/; autoindex on; index /; }}
        location /list/size/ {{
            alias {files}/listed/; autoindex on; autoindex_exact_size off; autoindex_localtime on;
        }}
        location /list/json/ {{ alias {files}/listed/; autoindex on; autoindex_format json; }}
        location /list/xml/ {{ alias {files}/listed/; autoindex on; autoindex_format xml; }}
        location /list/empty/ {{ alias {files}/empty/; autoindex on; autoindex_format json; }}
        location /relative/ {{ alias {files}/; absolute_redirect off; }}
        location /noport/ {{ alias {files}/; port_in_redirect off; }}
        location /named/ {{ alias {files}/; server_name_in_redirect on; }}
        location /named/noport/ {{ port_in_redirect off; server_name_in_redirect on; return 302 /x; }}
        location /relative/return {{ absolute_redirect off; return 302 /x; }}
        location /relative/proxied/ {{ absolute_redirect off; proxy_pass http://127.0.0.1:{origin}; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name bare;
        location = /small {{ return 200 small; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name tried;
        root {files};
        try_files /letters.txt =404;
        location /none {{ try_files /none $uri.txt /dir/none =444; }}
        location /dir/ {{ }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name .dotted.example;
        server_name_in_redirect on;
        root {files};
        location /name {{ return 200 "$server_name"; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name ~^re(?<more>.*)\.example$ other;
        server_name_in_redirect on;
        root {files};
        location /name {{ return 200 "$server_name"; }}
    }}
    server {{
        listen 127.0.0.1:{front};
        server_name *.leading.example;
        server_name_in_redirect on;
        root {files};
        location /name {{ return 200 "$server_name"; }}
    }}
}}
"""


def _respond(seen: Seen, _: socket.socket) -> bytes:
    if seen.target.startswith(b"/accel/"):
        to = seen.target.removeprefix(b"/accel").decode()
        return response(b"", f"X-Accel-Redirect: /inside{to}", "Set-Cookie: a=b", 'ETag: "theirs"')
    return response(seen.head.partition(b"\r\n")[0])


def _make_files(folder: Path) -> None:
    (folder / "dir").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a b%").mkdir()
    (folder / "shut").mkdir()
    (folder / "test").mkdir()
    (folder / "try").mkdir()
    (folder / "odd" / "index.html").mkdir(parents=True)
    contents = {
        "letters.txt": b"abcdefghijklmnopqrstuvwxyz",
        "nothing.html": b"",
        "dir/index.html": b"<i>index</i>",
        "dir/letters.txt": b"letters",
        "dir/.html": b"no extension",
        "dir/UP.HTML": b"upper",
        "dir/x.y.css": b"css",
        "test/host": b"of the host",
        "try/one.txt": b"one",
        "large.png": bytes(range(256)) * 4096,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    listed = folder / "listed"
    listed.mkdir()
    names = ["a b.txt", 'q"<&>.html', ".hidden", "x" * 70, "y" * 50, "z" * 49, "\u00e9%?#.txt", "a:b", "back\\slash"]
    for name in (*names, "tab\tand\x01", "~-._", "B", "a'"):
        (listed / name).write_bytes(b"")
    for name in ("dir", "d" * 50, "e" * 49, "f" * 51):
        (listed / name).mkdir()
    for size in (1, 1023, 9999, 10_000, 1_048_575, 1_048_576, 1_572_863, 1_572_864, 3_670_016_000):
        (listed / f"size{size}").touch()
        os.truncate(listed / f"size{size}", size)
    (listed / "broken").symlink_to("nowhere")
    (listed / "to dir").symlink_to("dir")
    os.mkfifo(listed / "fifo")
    (folder / "secret.txt").write_bytes(b"secret")
    (folder / "link").symlink_to("dir")
    (folder / "out").symlink_to("/etc/hostname")
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "fifo")
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (WHEN, WHEN), follow_symlinks=False)
    (folder / "secret.txt").chmod(0)
    (folder / "shut").chmod(0)


@dataclass
class Beside:
    nginx: int
    upwell: int
    logs: tuple[Path, Path]
    files: Path


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    if NGINX is None:
        pytest.skip("nginx is not installed (make dev)")
    # Not in pytest's folders: each session that starts closes them to others, which the workers of root are.
    with tempfile.TemporaryDirectory() as folder, Origin(_respond) as origin, ExitStack() as stack:
        Path(folder).chmod(0o755)
        files = Path(folder) / "root"
        _make_files(files)
        ports = free_ports(2)
        logs = []
        for port, command, name in zip(ports, (NGINX, UPWELL), ("nginx", "upwell"), strict=True):
            configuration = CONFIGURATION.format(front=port, origin=origin.port, files=files)
            balancer = stack.enter_context(Balancer(Path(folder) / name, configuration, [port], command))
            logs.append(balancer.prefix / "logs" / "error.log")
            assert ask(port, get("/letters.txt")).status == 200, balancer.story()
        yield Beside(ports[0], ports[1], (logs[0], logs[1]), files)
        (files / "shut").chmod(0o755)


_BOUNDARY = re.compile(rb"(?<=--)[0-9]{20}|(?<=boundary=)[0-9]{20}")
_FOOTER = re.compile(rb"<center>(?:nginx|upwell)[^<]*</center>")


def _outcome(port: int, request: bytes) -> tuple[object, ...]:
    try:
        with Client(port) as client:
            answer = client.ask(request)
            after = 0
            if (
                answer.field("connection") != "close" and answer.status != 412
            ):  # which nginx closes, having said nothing
                after = client.ask(get("/letters.txt")).status
    except (ConnectionError, h11.RemoteProtocolError) as error:
        return (type(error).__name__,)
    fields = []
    for name, value in answer.fields:
        if name not in ("Date", "Server") and not (name == "Content-Length" and _FOOTER.search(answer.body)):
            text = _BOUNDARY.sub(b"B", value.encode("latin-1")).decode("latin-1")
            fields.append((name, text.replace(f":{port}", ":PORT")))
    body = _FOOTER.sub(b"<hr>", _BOUNDARY.sub(b"B", answer.body))
    return answer.status, sorted(fields), body if len(body) < 9999 else hash(body), after


def _compare(beside: Beside, requests: list[bytes]) -> None:
    differing = []
    for request in requests:
        expected, got = _outcome(beside.nginx, request), _outcome(beside.upwell, request)
        if expected != got:
            differing.append(request)
            print(f"{request!r}\n  nginx:  {expected}\n  upwell: {got}\n")
    assert not differing


def _words(text: str) -> list[str]:
    return text.split()


def _head(request: bytes) -> bytes:
    return request.replace(b"GET", b"HEAD", 1)


def test_files_and_folders(beside: Beside) -> None:
    paths = _words(
        """
        / /letters.txt /letters.txt/ /letters.txt/x /nothing.html /dir /dir/ /dir/index.html /dir/.html
        /dir/UP.HTML /dir/x.y.css /dir?a=b /dir/?a=b /empty /empty/ /a%20b%25 /a%20b%25?q /none /none/ /none/x
        /fifo /circle /circle/ /link /link/ /link/letters.txt /secret.txt /shut /shut/ /shut/x /odd/
        /odd/index.html/ /large.png /dir/../letters.txt /dir/%2e%2e/letters.txt /%2e%2e/x /x%00
        /letters.txt%00.html /..%2f..%2fetc/passwd /img/letters.txt /img /img/ /img/none /exact /exact/
        /re/letters.txt /re/dir/index.html /re/none.html /re/letters.png /retry/letters /retry/letters.txt
        /retry/none /retry/dir/index.html /host/ /host /outer/ /outer/letters.txt /outer/dir/
        /outer/dir/index.html /index/ /index/?i=nothing.html /index/?i=/letters.txt /index/dir/?a=1 /last/
        /last/?q /loop/ /quiet/none /quiet/ /typed/letters.txt /typed/dir/index.html /rewritten/x /rewritten/root/x
        /rewritten/re/x /rewritten/try/ /if/letters.txt /if/none /if/root/ /if/root/?x=1 /vars /vars/x
        /vars/alias/letters.txt /vars/re/dir/index.html /vars/re/none
        """
    )
    paths.append("/" + "x" * 300)
    _compare(
        beside,
        [get(path) for path in paths] + [_head(get(path)) for path in ("/letters.txt", "/dir", "/none", "/dir/")],
    )


def test_methods(beside: Beside) -> None:
    paths = ("/letters.txt", "/none", "/dir", "/dir/", "/empty/", "/none/", "/try/one", "/paged/letters.txt")
    requests = [post(b"content", path) for path in paths]
    requests += [request.replace(b"POST", b"PUT", 1) for request in requests]
    requests += [get(path).replace(b"GET", b"OPTIONS", 1) for path in ("/letters.txt", "/dir/", "/none")]
    _compare(beside, requests)


def test_conditions(beside: Beside) -> None:
    later, sooner = "Tue, 14 Nov 2023 22:13:21 GMT", "Tue, 14 Nov 2023 22:13:19 GMT"
    dates = [DATE, later, sooner, "Tuesday, 14-Nov-23 22:13:20 GMT", "Tue Nov 14 22:13:20 2023", "rubbish", ""]
    dates += ["Tue, 14 Nov 2023 22:13:20", "Tue, 31 Feb 2023 22:13:20 GMT", "Tue, 14 Nov 2023 24:13:20 GMT"]
    dates += [
        "Sun Nov  5 22:13:20 2023",
        "Thursday, 05-Nov-70 22:13:20 GMT",
        "Tue,14 Nov 2023 22:13:20 GMT",
        "14 Nov 2023",
    ]
    tags = [
        TAG,
        f"W/{TAG}",
        "*",
        '"x"',
        f'"x", {TAG}',
        f'"x",{TAG} ,"y"',
        f"{TAG}x",
        TAG[:-1],
        f'W/"x", W/{TAG}',
        '"a,b"',
        "",
    ]
    places = ("/letters.txt", "/off/letters.txt", "/before/letters.txt", "/two/letters.txt")
    requests = []
    for field in ("If-Modified-Since", "If-Unmodified-Since"):
        requests += [get(path, f"{field}: {date}") for path in places[:3] for date in dates]
    for field in ("If-None-Match", "If-Match"):
        requests += [get(path, f"{field}: {tag}") for path in places[:2] for tag in tags]
        requests.append(get("/two/letters.txt", f"{field}: {TAG}"))
        requests.append(get("/fields/letters.txt", f'{field}: "mine"'))
        requests.append(get("/letters.txt", f'{field}: "x"', f"{field}: {TAG}"))
    requests += [
        get("/letters.txt", f"If-Modified-Since: {date}", f"If-None-Match: {tag}")
        for date in (DATE, later)
        for tag in (TAG, '"x"')
    ]
    requests.append(get("/letters.txt", f"If-Unmodified-Since: {DATE}", f"If-Match: {TAG}", f"If-None-Match: {TAG}"))
    requests.append(get("/letters.txt", f"If-None-Match: {TAG}", "Range: bytes=0-1"))
    requests += [_head(get("/letters.txt", f"If-None-Match: {TAG}")), get("/dir/", f"If-Modified-Since: {DATE}")]
    requests += [get("/paged/none", f"If-Modified-Since: {DATE}"), get("/paged/letters.txt", 'If-Match: "x"')]
    requests += [get("/none", f"If-Modified-Since: {DATE}"), get("/dir", "If-Match: x")]
    _compare(beside, requests)


def test_ranges(beside: Beside) -> None:
    ranges = _words(
        """
        0-0 0-25 0-26 0-100 25-25 26-26 26- 5- -5 -26 -27 -0 0- 5-4 a-b 1-2x -- - 1- 0-1,2-3 0-1,24- 0-1,-2
        0-20,0-20 5-6,5-6,5-6 0-1,99-100 99-100,0-1 99-100,100-101 0-0,,1-1 ,0-1 0-1, 99999999999999999999-
        0-99999999999999999999 -99999999999999999999 9223372036854775807- 0-9223372036854775807 26-1,5-6
        """
    )
    ranges += [" 0 - 1 , 3 - 4 ", "0-1 ,\t3-4", "- 5"]
    ranges += [",".join(["1-1"] * count) for count in (16, 17)]  # a few bytes of question for many of answer
    requests = [get("/letters.txt", f"Range: bytes={one}") for one in ranges]
    few = ("0-1", "0-1,3-4", "0-1,3-4,6-7", "99-", "0-25")
    for path in (
        "/off/letters.txt",
        "/before/letters.txt",
        "/two/letters.txt",
        "/fields/letters.txt",
        "/always/letters.txt",
        "/charset/letters.txt",
    ):
        requests += [get(path, f"Range: bytes={one}") for one in few]
    requests += [get(path, f"Range: bytes={one}") for path in ("/nothing.html", "/paged/letters.txt") for one in few]
    requests += [get("/large.png", f"Range: bytes={one}") for one in ("100000-900000", "1-200000,300000-900000", "-1")]
    requests += [
        get("/letters.txt", f"Range: {one}") for one in ("BYTES=0-1", "lines=0-1", "bytes", "bytes=", "bytes 0-1")
    ]
    for condition in (
        TAG,
        f"W/{TAG}",
        '"x"',
        DATE,
        "Tue Nov 14 22:13:20 2023",
        "Tue, 14 Nov 2023 22:13:19 GMT",
        "x",
        '"',
    ):
        requests.append(get("/letters.txt", "Range: bytes=0-1", f"If-Range: {condition}"))
        requests.append(get("/off/letters.txt", "Range: bytes=0-1", f"If-Range: {condition}"))
        requests.append(get("/fields/letters.txt", "Range: bytes=0-1", f"If-Range: {condition}"))
    requests.append(get("/fields/letters.txt", "Range: bytes=0-1", 'If-Range: "mine"'))
    requests += [_head(get("/letters.txt", f"Range: bytes={one}")) for one in few]
    requests += [get("/letters.txt", "Range: bytes=0-1", version="1.0"), get("/dir/", "Range: bytes=0-1")]
    requests += [get("/rate/large.png", "Range: bytes=7-900000"), get("/accel/letters.txt", "Range: bytes=1-2")]
    requests += [get("/letters.txt", "Range: bytes=0-1", "Range: bytes=5-6"), get("/none", "Range: bytes=0-1")]
    zipped = ("/zipped/letters.txt", "/zipped/large.png")
    requests += [get(path, "Accept-Encoding: gzip", "Range: bytes=0-1") for path in zipped]
    requests += [get(path, "Accept-Encoding: gzip", f"If-None-Match: W/{TAG}") for path in zipped]
    requests += [get(path, "Range: bytes=0-1") for path in zipped]
    requests += [get("/paged/none", "Range: bytes=0-1"), post(b"x", "/paged/letters.txt", "Range: bytes=0-1")]
    _compare(beside, requests)


def test_folders_are_listed(beside: Beside) -> None:
    paths = _words(
        "/list/ /list/dir/ /list/none/ /list/size/ /list/json/ /list/xml/ /list/empty/ /list/shut/ /charset/xml/"
        " /charset/empty/ /list/a:b /list/dir"
    )
    requests = [get(path) for path in paths] + [_head(get("/list/")), post(b"x", "/list/")]
    requests += [get("/list/", "Range: bytes=0-1"), get("/list/json/", version="1.0")]
    _compare(beside, requests)


def test_what_is_tried(beside: Beside) -> None:
    paths = _words(
        """
        /try/one /try/one.txt /try/one/ /try/ /try/none /try/none?x=1&y=2 /try/alias/letters.txt
        /try/alias/index /try/alias/none /try/alias/ /try/proxy/x?f=letters.txt /try/proxy/x?f=none
        /try/proxy/%41?f=index.html /try/peer/a%20b?q /try/uri/a /try/cycle/x /try/nobody/x /try/418 /try/204
        /try/600 /try/0 /try/bare /try/dir/ /try/dir/x /try/slash /paged/none /paged/ /paged/empty/
        /paged/letters.txt /accel/letters.txt /accel/none /accel/dir /inside/letters.txt /rate/letters.txt
        /rate/large.png
        """
    )
    requests = [get(path) for path in paths]
    requests += [get(path).replace(b"Host: test", b"Host: tried") for path in ("/", "/x", "/dir/", "/none", "/nothing")]
    _compare(beside, requests)


def test_where_redirects_lead(beside: Beside) -> None:
    paths = _words(
        """
        /dir /relative/dir /noport/dir /named/dir /named/noport/ /relative/return /relative/proxied
        /relative/dir?q /try/peer /named/a%20b%25?%41
        """
    )
    requests = [get(path) for path in paths]
    requests += [b"GET /dir HTTP/1.0\r\n\r\n", b"GET /dir HTTP/1.0\r\nHost: tried\r\n\r\n"]
    requests += [
        b"GET /dir HTTP/1.0\r\nHost: %b\r\n\r\n" % host for host in (b"a.dotted.example", b"a.leading.example")
    ]
    requests.append(b"GET /dir HTTP/1.1\r\nHost: Other.Example:99\r\n\r\n")
    _compare(beside, requests)


_LINE = re.compile(r"\[(\w+)\] [0-9]+#[0-9]+: (?:\*[0-9]+ )?(.*)")


def _lines(log: Path, port: int, since: int) -> list[str]:
    found = []
    for line in log.read_text("utf-8").splitlines()[since:]:
        match = _LINE.search(line)
        if match is not None and match[1] in ("alert", "crit", "error"):
            # Not the words for the number, which are those of the C library that each was built with.
            text = re.sub(r"(?<=\()([0-9]+): [^)]*", r"\1", match[2])
            found.append(f"{match[1]}: {text}".replace(str(port), "PORT"))
    return found


def test_the_error_log(beside: Beside) -> None:
    """What is said of each answer is there when the answer is: both write before they send."""
    paths = _words(
        """
        /none /none/ /letters.txt/x /letters.txt/ /empty/ /dir/ /secret.txt /shut/x /shut/ /circle /circle/
        /fifo /quiet/none /quiet/none/ /quiet/empty/ /try/nobody/x /try/cycle/x /try/alias/none /img/none
        /vars/re/none /loop/ /rewritten/x
        """
    )
    paths.append("/" + "x" * 300)
    counts = [len(log.read_text("utf-8").splitlines()) for log in beside.logs]
    for path in paths:
        for port in (beside.nginx, beside.upwell):
            with Client(port) as client:
                client.ask(get(path))
    of_nginx = _lines(beside.logs[0], beside.nginx, counts[0])
    assert len(of_nginx) > len(paths) // 2
    assert _lines(beside.logs[1], beside.upwell, counts[1]) == of_nginx


# What nginx does otherwise, or what cannot be seen beside it


def test_nothing_leads_out_of_the_folder(beside: Beside) -> None:
    """nginx follows dot segments that an alias without a slash, or a variable, brings back."""
    paths = ("/img../letters.txt", "/img..", "/index/?i=../letters.txt", "/try/proxy/x?f=../letters.txt", "/retry/../x")
    for path in (*paths, "/try/proxy/x?f=../../../../../../../etc/passwd"):
        answer = ask(beside.upwell, get(path))
        assert b"abcdef" not in answer.body, path
        assert b"root:" not in answer.body, path
    assert ask(beside.nginx, get("/img../letters.txt")).body == b"abcdefghijklmnopqrstuvwxyz"
    assert ask(beside.upwell, get("/img../letters.txt")).status == 404


class Slow:
    """A client that has asked for /file and reads nothing of the answer but its head."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", port))
        self.socket.sendall(get("/file"))
        self.got = bytearray(self.socket.recv(1000))

    def __enter__(self) -> Slow:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def rest(self, size: int) -> bytes:
        """The content, up to `size` bytes or the end."""
        while len(self.got.partition(b"\r\n\r\n")[2]) < size:
            piece = self.socket.recv(65536)
            if not piece:
                break
            self.got += piece
        return bytes(self.got.partition(b"\r\n\r\n")[2])


@pytest.fixture
def large(beside: Beside) -> Iterator[Path]:
    """The file that Slow asks for, longer than what sockets hold."""
    file = beside.files / "file"
    file.write_bytes(LONG)
    file.chmod(0o644)
    yield file
    file.unlink()


def test_a_client_that_does_not_read_holds_nobody_up(beside: Beside, large: Path) -> None:
    log = beside.logs[1].parent / "access.log"
    before = log.read_text().count("/file 200")
    small = b"GET /small HTTP/1.1\r\nHost: bare\r\n\r\n"
    with Slow(beside.upwell) as slow, Slow(beside.upwell) as gone:
        assert ask(beside.upwell, small).body == b"small"
        gone.socket.close()
        assert ask(beside.upwell, get("/file", "Range: bytes=9999992-")).body == LONG[9_999_992:]
        assert slow.rest(len(LONG)) == LONG
        slow.socket.sendall(small)
        assert slow.socket.recv(1000).endswith(b"small")
    await_condition(lambda: log.read_text().count("/file 200") == before + 2, "the lines of both", 10)
    assert f"/file 200 {len(LONG)} OK" in log.read_text()


def test_a_file_that_becomes_shorter_ends_the_connection(beside: Beside, large: Path) -> None:
    with Slow(beside.upwell) as slow:
        os.truncate(large, 8_000_000)
        assert slow.rest(len(LONG)) == LONG[:8_000_000]
    await_condition(lambda: "was truncated while it was sent" in beside.logs[1].read_text(), "the line in the log", 10)


def test_the_default_is_the_folder_html_of_the_prefix(beside: Beside) -> None:
    def status(port: int, path: str) -> int:
        return ask(port, get(path).replace(b"Host: test", b"Host: bare")).status

    for port, log in zip((beside.nginx, beside.upwell), beside.logs, strict=True):
        assert status(port, "/") == 404
        assert status(port, "/x") == 404
        html = log.parent.parent / "html"
        assert f'open() "{html}/x" failed (2: No such file or directory)' in log.read_text("utf-8")
        html.mkdir(mode=0o755)
        (html / "index.html").write_text("page")
        assert status(port, "/") == 200
        assert status(port, "/index.html") == 200
