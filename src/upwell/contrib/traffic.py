"""A steady client for a demo or a test: asks one URL again and again and counts who answered and what was lost.

Knows `http.client` and the rule that an answer is 200 with an app's name in it. Must not know the load balancer.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from typing import Self


def fetch(port: int, path: str = "/", timeout: float = 10.0, source: str = "127.0.0.1") -> tuple[int, str]:
    """Status and text of GET `path` from 127.0.0.1:`port`, on a connection of its own from address `source`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout, source_address=(source, 0))
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


class Traffic:
    """One client thread on one kept connection (or, without `keep`, on a new one for each request).

    The next request goes out `pause` seconds after each answer.

    `answered` counts answers by their text, `lost` has a sentence for each request that got no 200, `asked` counts all.
    """

    def __init__(self, port: int, path: str = "/", pause: float = 0.02, keep: bool = True) -> None:
        self.port = port
        self.path = path
        self.pause = pause
        self.keep = keep
        self.asked = 0
        self.answered: Counter[str] = Counter()
        self.lost: list[str] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the request under way finish and end the thread; one that hangs is left to the end of the process."""
        self._stopping.set()
        self._thread.join(15.0)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10.0)
        while not self._stopping.is_set():
            self.asked += 1
            try:
                connection.request("GET", self.path)
                response = connection.getresponse()
                text = response.read().decode(errors="replace").strip()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self.lost.append(f"GET {self.path} on port {self.port}: {type(error).__name__}: {error}")
            else:
                if response.status == 200:
                    self.answered[text] += 1
                else:
                    self.lost.append(f"GET {self.path} on port {self.port}: status {response.status}")
            if not self.keep:
                connection.close()
            self._stopping.wait(self.pause)
        connection.close()
