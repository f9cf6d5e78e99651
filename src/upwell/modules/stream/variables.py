"""Which `$variables` a session has, and those of nginx's that upwell lacks there."""

from __future__ import annotations

from upwell.config.command import Module, words
from upwell.config.model import Block
from upwell.errors import ConfigError
from upwell.modules.variables import VariableSettings
from upwell.proxy.session_variables import find

_UNSUPPORTED = words(
    """
    realip_remote_addr realip_remote_port server_name session_id ssl_alpn_protocol ssl_cipher_list ssl_ciphers
    ssl_client_cert ssl_client_fingerprint ssl_client_i_dn ssl_client_raw_cert ssl_client_s_dn ssl_client_serial
    ssl_client_v_end ssl_client_v_remain ssl_client_v_start ssl_curve ssl_curves
    ssl_server_name ssl_session_id ssl_sigalg ssl_sigalgs
    upstream_last_addr upstream_last_server_name
    """
)


def _close_stream(block: Block) -> None:
    load = block.loading
    for name, position in load.uses:
        made = block[VariableSettings].names
        if find(name) is not None or name in made or name in load.forgiven or (len(name) == 1 and name in "123456789"):
            continue
        if name in _UNSUPPORTED:
            load.errors.append(ConfigError(f'"${name}" is not supported by upwell in stream', position))
        else:
            load.errors.append(ConfigError(f'unknown "{name}" variable', position))
    load.uses.clear()


MODULE = Module("stream_variables", (), {"stream": _close_stream})
