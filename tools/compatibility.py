"""Write docs/nginx-compatibility.md from the command tables: what upwell does with each directive and variable.

`python tools/compatibility.py` after a change of directives; a test holds that the file is what this would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from upwell.modules import MODULES, no_effect
from upwell.modules.tls import WithoutEffect
from upwell.modules.unsupported import LACKING, REASONS, UNSUPPORTED
from upwell.modules.variables import PREFIXES, REFUSED, SUPPORTED, UNSUPPORTED_PREFIXES
from upwell.proxy.session_variables import VARIABLES as SESSION_VARIABLES
from upwell.version import NGINX_VERSION

TARGET = Path(__file__).parents[1] / "docs" / "nginx-compatibility.md"

_BEGIN = f"""# What upwell does with nginx's directives and variables

Made by `python tools/compatibility.py` from the tables that read a configuration, so it says what the code does; a test
holds that. The reference is nginx {NGINX_VERSION}, and for `*_by_lua*` OpenResty.

* **works**: as in nginx. Where upwell differs on purpose, `CHANGELOG.md` and the feature's file say so; parameters that
  are not there are refused by name.
* **no effect**: its place and its arguments are checked, and it changes nothing here; `upwell explain` lists it.
* **only**: said to be what upwell does anyhow; any other value is refused.
* **refused**: `"NAME" is not supported by upwell` and why, with file, line and column. Nothing is ignored silently.

`upwell -t` lists everything in a file that is refused or has no effect, all at once.

## Directives
"""

_PLACES = {"stream_server": "stream-server", "server_if": "server-if", "if": "location-if"}


def rows() -> Iterator[tuple[str, str, str]]:
    """(name, where it may stand, what it does) of each directive that upwell knows by name."""
    idle = dict(no_effect.described())
    places: dict[tuple[str, str], set[str]] = {}
    for module in MODULES:
        for item in module.commands:
            if isinstance(item.setter, WithoutEffect):
                idle[item.name] = "no effect"
            places.setdefault((item.name, module.name), set()).update(item.contexts)
    for (name, owner), contexts in places.items():
        where = " ".join(sorted(_PLACES.get(one, one) for one in contexts))
        yield name, where, idle.get(name, f"works (`{owner}`)")
    for name in UNSUPPORTED:
        yield name, "", f"refused: {REASONS[name]}"
    for section, names in LACKING.items():
        for name in names:
            yield name, section, "refused there"


def text() -> str:
    """The whole file."""
    lines = [_BEGIN, "| directive | in | upwell |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {where} | {said} |" for name, where, said in sorted(rows())]
    lines += ["", "## Variables of http", "", "| variable | upwell |", "| --- | --- |"]
    known = [(f"${name}", "works") for name in SUPPORTED] + [(f"${prefix}*", "works") for prefix in PREFIXES]
    known += [(f"${name}", f"refused: {why}") for name, why in REFUSED.items()]
    known += [(f"${prefix}*", "refused, but for those above") for prefix in UNSUPPORTED_PREFIXES]
    lines += [f"| `{name}` | {said} |" for name, said in sorted(known)]
    lines += ["", "## Variables of stream", "", "| variable | upwell |", "| --- | --- |"]
    lines += [f"| `${name}` | works |" for name in sorted((*SESSION_VARIABLES, "proxy_protocol_tlv_*"))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
    print(f"written: {TARGET}")
