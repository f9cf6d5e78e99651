"""What becomes of a peer's answer on the way through: `proxy_intercept_errors`, `proxy_ignore_headers`,
`proxy_limit_rate`, and nginx's rules for the sizes of buffers.

No answer is held in a file (docs/decisions/0010), so `proxy_max_temp_file_size` and the like are checked and no more.
"""

from __future__ import annotations

from dataclasses import dataclass

from upwell.config.command import Module, command, words
from upwell.config.model import Block
from upwell.config.slots import flag, size, words_of
from upwell.config.template import Template
from upwell.errors import ConfigError
from upwell.modules.limit_rate import size_or_template
from upwell.modules.proxy import ProxySettings

_LEVELS = "http server location"
_IGNORABLE = words(
    """x-accel-redirect x-accel-expires x-accel-limit-rate x-accel-buffering x-accel-charset expires cache-control
    set-cookie vary"""
)


@dataclass(frozen=True, slots=True)
class ProxyResponseSettings:
    """Sizes in bytes, None: nginx's default, which follows from the buffers. `ignore_headers` are in lower case.

    `limit_rate` is in bytes a second, 0 or an empty value for no limit.
    """

    intercept_errors: bool = False
    ignore_headers: frozenset[str] = frozenset()
    limit_rate: Template | None = None
    busy_buffers_size: int | None = None
    temp_file_write_size: int | None = None
    max_temp_file_size: int | None = None


def _check_buffers(block: Block) -> None:
    """nginx's rules, where this level gives one of the sizes that they are about."""
    proxy = block.own(ProxySettings)
    own = block.own(ProxyResponseSettings)
    if not ({"buffers", "buffer_size"} & proxy.keys() or {n for n in own if n.endswith("_size")}):
        return
    sizes, settings = block[ProxySettings], block[ProxyResponseSettings]
    count, each = sizes.buffers
    if count < 2:
        return  # it was complained about already
    largest = max(sizes.buffer_size, each)
    of_largest = 'the maximum of the value of "proxy_buffer_size" and one of the "proxy_buffers"'
    busy = 2 * largest if settings.busy_buffers_size is None else settings.busy_buffers_size
    written, kept = settings.temp_file_write_size, settings.max_temp_file_size
    if busy < largest:
        message = f'"proxy_busy_buffers_size" must be equal to or greater than {of_largest}'
    elif busy > (count - 1) * each:
        message = '"proxy_busy_buffers_size" must be less than the size of all "proxy_buffers" minus one buffer'
    elif written is not None and written < largest:
        message = f'"proxy_temp_file_write_size" must be equal to or greater than {of_largest}'
    elif kept is not None and 0 < kept < largest:
        message = (
            '"proxy_max_temp_file_size" must be equal to zero to disable temporary files usage or must be equal to or '
            f"greater than {of_largest}"
        )
    else:
        return
    block.loading.errors.append(ConfigError(message, block.position))


MODULE = Module(
    "proxy_response",
    (
        command("proxy_intercept_errors", _LEVELS, 1, flag(ProxyResponseSettings, "intercept_errors")),
        command(
            "proxy_ignore_headers", _LEVELS, (1, None), words_of(ProxyResponseSettings, "ignore_headers", _IGNORABLE)
        ),
        command("proxy_limit_rate", _LEVELS, 1, size_or_template(ProxyResponseSettings, "limit_rate")),
        command("proxy_busy_buffers_size", _LEVELS, 1, size(ProxyResponseSettings, "busy_buffers_size")),
        command("proxy_temp_file_write_size", _LEVELS, 1, size(ProxyResponseSettings, "temp_file_write_size")),
        command("proxy_max_temp_file_size", _LEVELS, 1, size(ProxyResponseSettings, "max_temp_file_size")),
    ),
    {"http": _check_buffers, "server": _check_buffers, "location": _check_buffers},
)
