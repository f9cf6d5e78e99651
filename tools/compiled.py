"""Build the data plane as C extensions with mypyc: a copy of src/ with them beside it, `make compiled`.

`PYTHONPATH=build/compiled` runs it. The source is the same and src/ stays pure Python: nothing is built into it.
`hatch_build.py` makes wheels with this. [Why](../docs/decisions/0012-compiled.md).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
TARGET = ROOT / "build" / "compiled"

PATTERNS = (
    "errors.py",
    "pcre.py",
    "http1/*.py",
    "peers/**/*.py",
    "proxy/*.py",
    "check/checker.py",
    "check/conversation.py",
    "check/crowding.py",
    "check/cycle.py",
    "check/events.py",
    "check/gate.py",
    "check/mass.py",
    "check/match.py",
    "check/pages/json_page.py",
    "check/pages/prometheus_page.py",
    "check/pages/view.py",
    "check/report.py",
    "check/rota.py",
    "check/rules.py",
    "check/schedule.py",
    "check/target.py",
    "check/trouble.py",
    "check/usual.py",
    "check/wholes.py",
    "check/probes/exec.py",
    "check/probes/http.py",
    "check/probes/http_match.py",
    "check/probes/python.py",
    "check/probes/tcp.py",
    "check/probes/udp.py",
    "zone/layout.py",
    "zone/phrases.py",
    "zone/records.py",
    "zone/table.py",
    "runtime/render.py",
    "runtime/locations.py",
    "runtime/servers.py",
    "runtime/choosing.py",
    "runtime/destinations.py",
    "runtime/dials.py",
    "runtime/logs.py",
    "runtime/proxying.py",
    "runtime/secured.py",
)
"""What a request runs through. What runs once for a configuration gains nothing; log.py is there to be extended by
others, and a compiled class cannot be."""

STAYS_PYTHON = (
    "__init__.py",  # names only
    "dial.py",  # its OSError of its own, and it runs only where proxy_bind and its like are used
    "openssl.py",  # OpenSSL calls back into it
    "tls_depth.py",  # ssl's classes, extended
    "suspension.py",  # a bare `yield` under types.coroutine, which mypyc does not know
)

_LEVEL = os.environ.get("UPWELL_MYPYC_OPT", "3")
"""How much gcc is to optimise: 3 takes minutes; 0 will do for tests of what is compiled, not for use."""

_STAMP = ".built-from"
_EXTENSION = str(sysconfig.get_config_var("EXT_SUFFIX"))


class NotPossible(Exception):
    """It cannot be built here; the text is a sentence that says what is missing."""


def data_plane(source: Path) -> Iterator[Path]:
    """The files below `source` that are compiled, relative to it."""
    for pattern in PATTERNS:
        for path in sorted((source / "upwell").glob(pattern)):
            if path.name not in STAYS_PYTHON:
                yield path.relative_to(source)


def _check_tools() -> None:
    """Raises NotPossible."""
    compiler = shlex.split(str(sysconfig.get_config_var("CC") or "cc"))[0]
    if shutil.which(os.environ.get("CC", compiler).split()[0]) is None:
        raise NotPossible(f"upwell is compiled by {compiler}, which is not here; on Debian: apt-get install gcc")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise NotPossible(
            f"upwell is compiled with {header}, which is not here; on Debian: apt-get install python3-dev"
        )
    for name in ("mypy", "setuptools"):
        if importlib.util.find_spec(name) is None:
            raise NotPossible(f"upwell is compiled with {name}, which is not here: pip install {name}")


def _files(folder: Path, but: str) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != but]


def _digest() -> str:
    """Of all that the result depends on. Files that are not compiled too: constants and types come from them."""
    from mypy.version import __version__

    found = hashlib.sha256(f"{__version__} {sys.version} {os.environ.get('CFLAGS')} {_LEVEL}".encode())
    for path in (Path(__file__), *_files(SOURCE, ".pyc")):
        found.update(b"%s\0%s\0" % (path.relative_to(ROOT).as_posix().encode(), path.read_bytes()))
    return found.hexdigest()


def _built_from(target: Path) -> str:
    stamp = target / _STAMP
    return stamp.read_text() if stamp.exists() else ""


def is_current(target: Path) -> bool:
    """Whether `target` holds what would be built now."""
    return _built_from(target) == _digest()


def _copy(target: Path) -> None:
    """Make `target` a copy of src/; extensions stay, so that only what changed is compiled again."""
    wanted = {path.relative_to(SOURCE) for path in _files(SOURCE, ".pyc")}
    for old in _files(target, ".so"):
        if old.relative_to(target) not in wanted:
            old.unlink()
    for path in wanted:
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if not copy.exists() or copy.read_bytes() != (SOURCE / path).read_bytes():
            shutil.copyfile(SOURCE / path, copy)


def build(target: Path) -> bool:
    """Build into `target`; whether anything had to be done. Raises NotPossible.

    What mypyc makes on the way stays beside it, for the next time. SystemExit when mypyc refuses the source.
    """
    _check_tools()
    digest = _digest()  # the source may be edited while it is compiled
    if _built_from(target) == digest:
        return False

    from mypyc.build import mypycify
    from setuptools import Distribution

    between = target.with_name(f"{target.name}-c")
    target.mkdir(parents=True, exist_ok=True)
    (target / _STAMP).unlink(missing_ok=True)
    _copy(target)
    os.chdir(target)  # mypyc puts the files' names into tracebacks as they are given, relative ones
    files = [str(path) for path in data_plane(Path())]
    built = {path.removesuffix(".py") + _EXTENSION for path in files}
    for old in Path("upwell").rglob("*.so"):
        if str(old) not in built:
            old.unlink()
    os.environ["MYPYPATH"] = str(target)
    # One group: with two of them (`separate`) compiled code called through empty slots, and the process died.
    modules = mypycify(
        ["--config-file=", "--ignore-missing-imports", *files],
        debug_level="0",
        opt_level=_LEVEL,
        group_name="upwell",
        target_dir=str(between),
    )
    for module in modules:
        # gcc looks for misleading indentation otherwise, in lines that mypyc indents ever deeper: it takes longer than
        # all the rest.
        module.extra_compile_args.append("-Wno-misleading-indentation")
    command = Distribution({"name": "upwell", "ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(target)
    command.build_temp = str(between)
    options, wanted = between / "options", f"{_LEVEL} {os.environ.get('CFLAGS')}"
    # Only the age of sources is looked at otherwise.
    command.force = not options.exists() or options.read_text() != wanted
    command.ensure_finalized()
    command.run()
    options.write_text(wanted)
    (target / _STAMP).write_text(digest)
    return True


def main() -> int:
    """Build into the folder that the command line names, or into build/compiled."""
    target = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else TARGET
    try:
        done = build(target)
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{'compiled' if done else 'nothing changed'}: {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
