"""The guide's configuration as it ships with upwell, and the one change that a run elsewhere may make: its ports.

Knows the text of `guide.conf` (byte for byte the guide's) and where ports stand in it. Must not know who runs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

FRONT_PORTS = (80, 8080)
"""What the guide's two servers listen on: 80 proxies tomcat_upstream and has the pages, 8080 proxies nginx_upstream."""

APP_PORTS = (81, 82, 83, 84)
"""Where the guide's four web apps listen: the peers of tomcat_upstream (81, 82) and of nginx_upstream (83, 84)."""

UPSTREAMS = {"tomcat_upstream": (81, 82), "nginx_upstream": (83, 84)}
"""The guide's upstreams in the order of the file, with the ports of their peers."""

_PORT = re.compile(r"(?P<before>\b(?:listen\s+|server\s+127\.0\.0\.1:))(?P<port>\d+)(?=\s*;)")


def guide_text() -> str:
    """The guide's nginx.conf, unmodified."""
    return (files("upwell.contrib") / "guide.conf").read_text(encoding="utf-8")


def with_ports(text: str, ports: Mapping[int, int]) -> str:
    """`text` with the port of each `listen` and each `server 127.0.0.1:` line replaced through `ports`, nothing else.

    Raises KeyError for a port of the text that `ports` does not have.
    """
    return _PORT.sub(lambda match: f"{match['before']}{ports[int(match['port'])]}", text)
