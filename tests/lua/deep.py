"""Runs one handler that goes as deep as it can, in a process of its own: the C stack's end would be a signal 11."""

from __future__ import annotations

import sys

from tests.lua.conftest import Worker

if __name__ == "__main__":
    worker = Worker()
    request = worker.get(sys.argv[1])
    print(request.status, request.content, request.log_text)
    print(worker.say("'alive'"))
