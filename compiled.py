"""Build the data plane as C extensions with mypyc: a copy of src/ with them beside it, in build/compiled.

`PYTHONPATH=build/compiled upwell ...` runs it. Pure Python stays what src/ is: nothing is built into it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from mypyc.build import mypycify
from setuptools import Distribution

ROOT = Path(__file__).parent
SOURCE = ROOT / "src"
PATTERNS = (
    "errors.py",
    "pcre.py",
    "http1/*.py",
    "peers/**/*.py",
    "proxy/*.py",
    "zone/layout.py",
    "zone/table.py",
    "runtime/render.py",
    "runtime/locations.py",
    "runtime/servers.py",
)
"""What a request runs through. Packages' own files stay Python: they hold names only."""


def main() -> None:
    target = ROOT / "build" / "compiled"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    os.chdir(target)
    os.environ["MYPYPATH"] = str(target)
    files = sorted(
        str(path.relative_to(target))
        for pattern in PATTERNS
        for path in (target / "upwell").glob(pattern)
        if path.name not in ("__init__.py", "suspension.py")
    )
    debug = os.environ.get("UPWELL_MYPYC_DEBUG", "0")
    modules = mypycify(
        ["--python-version=3.11", *files],
        opt_level=os.environ.get("OPT", "3"),
        debug_level=debug,
        group_name="upwell",
        strip_asserts=False,
    )
    build = Distribution({"name": "upwell", "ext_modules": modules}).get_command_obj("build_ext")
    build.inplace = False
    build.build_lib = str(target)
    build.build_temp = str(ROOT / "build" / "mypyc")
    build.ensure_finalized()
    build.run()


if __name__ == "__main__":
    sys.exit(main())
