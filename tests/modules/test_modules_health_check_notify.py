"""`health_check_notify` and `health_check_state`: what they say to the checker, and what is refused."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from upwell.check.spec import NotifySpec
from upwell.errors import ConfigErrors
from upwell.modules.load import load
from upwell.runtime.build import Plan, plan

FORMS = 'a receiver is "http://host/path" or "https://...", "exec:/path argument ..." or "python:module:function"'


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below tmp_path, where the user that functions run as may not read."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "pager.py").write_text("def call(document): ...\n")
        yield path
        if name in sys.path:
            sys.path.remove(name)


def _plan(folder: Path, http: str = "", upstream: str = "") -> Plan:
    text = f"""
events {{}}
http {{
    {http}
    upstream a {{ server 127.0.0.1:1; {upstream} }}
    upstream b {{ server 127.0.0.1:1; }}
    server {{ location / {{ proxy_pass http://127.0.0.1:2; }} }}
}}
"""
    (folder / "nginx.conf").write_text(text)
    return plan(load("nginx.conf", str(folder)))


def _notified(folder: Path, http: str = "", upstream: str = "") -> Mapping[str, tuple[NotifySpec, ...]]:
    return _plan(folder, http, upstream).notified


def _error(folder: Path, http: str) -> str:
    with pytest.raises(ConfigErrors) as caught:
        _plan(folder, http)
    return "; ".join(error.message for error in caught.value.errors)


def test_nobody_is_told_by_default(folder: Path) -> None:
    assert _notified(folder) == {}
    assert _plan(folder).state_file == ""


def test_an_upstream_has_its_own_or_those_of_all(folder: Path) -> None:
    found = _notified(folder, "health_check_notify http://x/1; health_check_notify http://x/2;")
    one, two = (NotifySpec(url=f"http://x/{number}", retries=5) for number in (1, 2))
    assert found == {"a": (one, two), "b": (one, two), "127.0.0.1:2": (one, two)}
    found = _notified(folder, "health_check_notify http://x/1;", "health_check_notify http://x/2;")
    assert found == {"a": (two,), "b": (one,), "127.0.0.1:2": (one,)}
    assert _notified(folder, "", "health_check_notify http://x/2;") == {"a": (two,)}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "https://me:secret@[::1]:8443/a?b=c timeout=2s retries=0 debounce=500ms",
            NotifySpec(url="https://me:secret@[::1]:8443/a?b=c", timeout=2.0, debounce=0.5),
        ),
        (
            'debounce=10s retries=1 timeout=1 exec:/bin/sh -c "exit 0" retries=7',
            NotifySpec(command=("/bin/sh", "-c", "exit 0", "retries=7"), timeout=1.0, retries=1, debounce=10.0),
        ),
        ("exec:/bin/true", NotifySpec(command=("/bin/true",))),
        ("python:pager:call", NotifySpec(function="pager:call")),
        ("debounce=1m python:pager:call retries=2", NotifySpec(function="pager:call", retries=2, debounce=60.0)),
    ],
)
def test_what_is_read(folder: Path, text: str, wanted: NotifySpec) -> None:
    assert _notified(folder, f"health_check_notify {text};")["a"] == (wanted,)


@pytest.mark.parametrize(
    ("spec", "title"),
    [
        (NotifySpec(url="https://me:secret@[::1]:8443/a/secret?secret=c"), "https://[::1]:8443/..."),
        (NotifySpec(command=("/bin/page", "secret")), "/bin/page"),
        (NotifySpec(function="pager:call"), "pager:call"),
    ],
)
def test_a_title_has_no_secrets(spec: NotifySpec, title: str) -> None:
    assert spec.title == title
    assert "secret" not in repr(spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timeout=5s", f'"health_check_notify" tells nobody, {FORMS}'),
        ("ftp://x/", f'invalid parameter "ftp://x/", {FORMS}'),
        ("mailto:x", f'invalid parameter "mailto:x", {FORMS}'),
        ("/bin/true", f'invalid parameter "/bin/true", {FORMS}'),
        ("command=/bin/true", f'invalid parameter "command=/bin/true", {FORMS}'),
        ("pager:call", f'invalid parameter "pager:call", {FORMS}'),
        ("http://", "invalid URL"),
        ("http://:80/", "invalid URL"),
        ("http://x:99999/", "invalid URL"),
        ("http://x:0/", "invalid URL"),
        ("http://x/#part", "invalid URL"),
        ('"http://x/a b"', "invalid URL"),
        ("http://\u00fc.test/", "invalid URL"),
        ("http://[::1/", "invalid URL"),
        ("http:x", "invalid URL"),
        ("http://x/ http://y/", 'duplicate parameter "http://y/"'),
        ("http://x/ python:pager:call", 'duplicate parameter "python:pager:call"'),
        ("http://x/ retries=1 retries=2", 'duplicate parameter "retries=2"'),
        ("http://x/ retries=-1", 'invalid retries value "-1"'),
        ("http://x/ retries", 'invalid retries value ""'),
        ("http://x/ timeout=0", 'invalid timeout value "0"'),
        ("http://x/ timeout=often", 'invalid timeout value "often"'),
        ("http://x/ debounce=", 'invalid debounce value ""'),
        ("http://x/ interval=5", f'invalid parameter "interval=5", {FORMS}'),
        ("exec:", 'the command "" is no absolute path'),
        ("exec:true", 'the command "true" is no absolute path'),
        ("exec:/no/such", 'the command "/no/such" cannot be run'),
        ("exec:/etc/passwd", 'the command "/etc/passwd" cannot be run'),
        ("python:pager", 'invalid function "pager"'),
        ("python:pager:ring", 'no "ring" in module pager'),
        ("python:nosuchpager:call", "cannot import nosuchpager: ModuleNotFoundError: No module named 'nosuchpager'"),
    ],
)
def test_what_is_refused(folder: Path, text: str, message: str) -> None:
    assert _error(folder, f"health_check_notify {text};") == message


def test_a_state_file_is_found_from_the_prefix(folder: Path) -> None:
    assert _plan(folder, "health_check_state state/checks.json;").state_file == str(folder / "state/checks.json")
    assert _plan(folder, "health_check_state /x/checks.json;").state_file == "/x/checks.json"
    assert not os.path.exists(folder / "state")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("health_check_state;", 'invalid number of arguments in "health_check_state" directive'),
        ('health_check_state "";', 'invalid file ""'),
        ("health_check_state folder/;", 'invalid file "folder/"'),
        ("health_check_state a; health_check_state b;", '"health_check_state" directive is duplicate'),
        ("server { health_check_state a; }", '"health_check_state" directive is not allowed here'),
        ("server { health_check_notify http://x/; }", '"health_check_notify" directive is not allowed here'),
        ("health_check_notify;", 'invalid number of arguments in "health_check_notify" directive'),
    ],
)
def test_where_they_may_stand(folder: Path, text: str, message: str) -> None:
    assert _error(folder, text) == message
