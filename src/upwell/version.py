"""The one place the version comes from, and which build this is; nothing of upwell may be imported here."""

VERSION = "0.1.0"
"""upwell's own version: pyproject.toml, `-v`, `Server` and User-Agent read it from here."""

NGINX_VERSION = "1.31.4"
"""The nginx release whose language and behaviour upwell follows; tooling reads it from `-v`."""


def data_plane() -> str:
    """How the code that a request runs through was built, found out without loading any of it."""
    from importlib.util import find_spec  # not for `-v`

    found = find_spec("upwell.errors")
    compiled = found is not None and found.origin is not None and not found.origin.endswith(".py")
    return "compiled (mypyc)" if compiled else "pure Python"
