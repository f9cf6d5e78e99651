"""What a test has a worker of upwell tell the checker: files that ordered.py reads."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any


class Orders:
    """Orders about peers of upstream `peers`, in a folder that is made here; and is what ORDERS is to say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o777)
        self._number = count()

    def __repr__(self) -> str:
        return f"<Orders in {self.folder}>"

    def give(self, op: str, port: int, **rest: Any) -> None:
        """`rest` is the peer's settings for add_peer, otherwise the rest of the message."""
        name = f"127.0.0.1:{port}"
        message: dict[str, Any] = {"op": op}
        if op == "add_peer":
            message |= {"upstream": "peers", "peer": {"name": name, "address": ["127.0.0.1", port], **rest}}
        else:
            message |= {"peer": ["peers", "primary", name, 0], **rest}
        whole = self.folder / f"{next(self._number):04}.new"
        whole.write_text(json.dumps(message))
        whole.rename(whole.with_suffix(".json"))

    def taken(self) -> bool:
        """Whether somebody has begun with each of them."""
        return not list(self.folder.glob("*.json"))
