"""`mirror` and `mirror_request_body`: where requests are sent besides. The handler is proxy/mirror.py's."""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command
from upwell.config.directive import Directive
from upwell.config.model import Block
from upwell.config.slots import flag
from upwell.proxy.location import Access
from upwell.proxy.mirror import mirroring

_LEVELS = "http server location"


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """`uris` of one level replace those of the levels around it; () is `off`."""

    uris: tuple[str, ...] = ()
    request_body: bool = True


def compile_mirror(settings: MirrorSettings) -> tuple[Access, ...]:
    """The handler that comes behind all that decide on access."""
    if not settings.uris:
        return ()
    return (mirroring([uri.encode("utf-8", "surrogateescape") for uri in settings.uris], settings.request_body),)


def _mirror(block: Block, directive: Directive) -> None:
    own = block.own(MirrorSettings)
    off = directive.args[0] == "off"
    if "uris" in own and (off or not own["uris"]):
        raise directive.error('"mirror" directive is duplicate')
    if off:
        block.set(MirrorSettings, "uris", ())
    else:
        block.append(MirrorSettings, "uris", directive.args[0])


MODULE = Module(
    "mirror",
    (
        command("mirror", _LEVELS, 1, _mirror),
        command("mirror_request_body", _LEVELS, 1, flag(MirrorSettings, "request_body")),
    ),
    options=("http_mirror_module",),
)
