"""The log's structured line of a transition: one line, whatever a peer says, each sign of it escaped once."""

from __future__ import annotations

import os
import re
from pathlib import Path

from upwell.check.events import Events
from upwell.check.probe import Verdict
from upwell.check.spec import PLUS, CheckSpec
from upwell.log import INFO, ErrorLog
from upwell.peers.health import Thresholds


def test_words_are_escaped_once(tmp_path: Path) -> None:
    log = ErrorLog(str(tmp_path / "error.log"), INFO)
    log.open()
    why = 'bad status line: "a\\x0D up=\n\'é"'
    Events(log).turned(CheckSpec("u", dialect=PLUS), Thresholds(1, 1), "app:1", False, Verdict(False, "protocol", why))
    os.close(log.fd)
    lines = (tmp_path / "error.log").read_text().splitlines()
    assert len(lines) == 2
    found = re.search(r' from=up to=down why="([^"]*)"$', lines[1])
    assert found is not None
    assert "\\x5C\\x22" not in found[1]
    plain = re.sub(rb"\\x([0-9A-F]{2})", lambda sign: bytes([int(sign[1], 16)]), found[1].encode())
    assert plain.decode() == why
