"""The build backend's hook: `UPWELL_MYPYC=1 pip install .` makes the compiled upwell, anything else the pure one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompiledBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there only in builds
    """Puts the extensions beside the Python files that they are made of."""

    PLUGIN_NAME = "custom"

    def _wanted(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("UPWELL_MYPYC", "0") not in ("", "0")

    def dependencies(self) -> list[str]:
        """What the build needs besides hatchling."""
        return ["mypy>=1.18", "setuptools>=75"] if self._wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the package stays where it is: an editable one is src/ itself."""
        if not self._wanted() or version == "editable":
            return
        built = Path(self.root, "build", "wheel")
        # In a process of its own: mypyc and setuptools change the working directory and more.
        subprocess.run([sys.executable, str(Path(self.root, "tools", "compiled.py")), str(built)], check=True)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update({str(path): str(path.relative_to(built)) for path in built.rglob("*.so")})
