"""What a process may need once its privileges are dropped is imported before: then the packages may be unreadable."""

from __future__ import annotations

import subprocess
import sys

import pytest

LATE = """
import sys
from upwell.process import parts
parts.{warm}()
before = set(sys.modules)
import calendar, time, traceback
calendar.timegm(time.strptime("Thu, 18 Nov 2010 11:27:35 GMT", "%a, %d %b %Y %H:%M:%S GMT"))
"b\u00fccher.example".encode("idna")
b"x".decode("ascii"), b"x".decode("latin-1"), b"x".decode("utf-8", "surrogateescape")
try:
    1 / 0
except ZeroDivisionError:
    traceback.format_exc()
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("warm", ["_warm_worker", "_warm_checker"])
def test_nothing_is_imported_late(warm: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LATE.format(warm=warm)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
