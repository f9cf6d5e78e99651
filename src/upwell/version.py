"""The one place the version comes from; nothing may be imported here."""

VERSION = "0.1.0"
"""upwell's own version: pyproject.toml, `-v`, `Server` and User-Agent read it from here."""

NGINX_VERSION = "1.31.4"
"""The nginx release whose language and behaviour upwell follows; tooling reads it from `-v`."""
