"""Which `$variables` there are: those of every request, those that upwell lacks, and those a configuration makes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from upwell.config.command import Module, words
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.errors import ConfigError

SUPPORTED = words(
    """
    ancient_browser args binary_remote_addr body_bytes_sent bytes_sent connection connection_requests connection_time
    connections_active connections_reading connections_waiting connections_writing content_length
    content_type date_gmt date_local document_uri host hostname http2 http3 https invalid_referer is_args
    is_request_port modern_browser msec msie nginx_version pid
    pipe proxy_add_x_forwarded_for proxy_host proxy_port query_string remote_addr remote_port remote_user request
    request_body request_body_file request_completion request_id request_length request_method request_port
    request_time request_uri scheme secure_link
    secure_link_expires server_addr server_name server_port server_protocol status tcpinfo_rcv_space
    tcpinfo_rtt tcpinfo_rttvar tcpinfo_snd_cwnd time_iso8601 time_local uri
    document_root gzip_ratio realpath_root request_filename
    limit_conn_status limit_rate limit_req_status proxy_protocol_addr proxy_protocol_port proxy_protocol_server_addr
    proxy_protocol_server_port realip_remote_addr realip_remote_port
    ssl_alpn_protocol ssl_cipher ssl_ciphers ssl_client_cert ssl_client_escaped_cert ssl_client_fingerprint
    ssl_client_i_dn ssl_client_raw_cert ssl_client_s_dn ssl_client_serial ssl_client_v_end ssl_client_v_remain
    ssl_client_v_start ssl_client_verify ssl_curve ssl_curves ssl_early_data ssl_protocol ssl_server_name ssl_session_id
    ssl_session_reused upstream_addr
    upstream_bytes_received upstream_bytes_sent
    upstream_cache_age upstream_cache_status upstream_connect_time upstream_header_time
    upstream_queue_time upstream_response_length upstream_response_time upstream_status
    """
)
"""The variables that `exchange.variable` answers by name."""

PREFIXES = (
    "arg_",
    "cookie_",
    "http_",
    "proxy_protocol_tlv_",
    "sent_http_",
    "sent_trailer_",
    "upstream_cookie_",
    "upstream_http_",
    "upstream_trailer_",
)
"""The families that `exchange.variable` answers: any name may follow."""

_NO_WORD = "Python's ssl has no word for it"
_REASONS = {
    "fastcgi_path_info fastcgi_script_name memcached_key": "peers are spoken to in HTTP/1.x",
    """geoip_area_code geoip_city geoip_city_continent_code geoip_city_country_code geoip_city_country_code3
    geoip_city_country_name geoip_country_code geoip_country_code3 geoip_country_name geoip_dma_code geoip_latitude
    geoip_longitude geoip_org geoip_postal_code geoip_region geoip_region_name""": (
        "MaxMind's old library is not there; geo and map choose by address"
    ),
    "slice_range": "upwell keeps no answers, so it asks for no slices of them",
    "uid_got uid_reset uid_set": "userid is not there",
    "ssl_client_i_dn_legacy ssl_client_s_dn_legacy": "the names without _legacy are in the form of RFC 4514",
    "ssl_client_sigalg ssl_ech_outer_server_name ssl_ech_status ssl_sigalg": _NO_WORD,
    "upstream_last_addr upstream_last_server_name": "$upstream_addr has all that were asked, in order",
}
REFUSED = {name: why for names, why in _REASONS.items() for name in names.split()}
"""Variables that nginx has and upwell has not, and why."""

UNSUPPORTED_PREFIXES = ("jwt_", "ssl_")

CHANGEABLE = frozenset(("args", "limit_rate"))
"""Variables of every request that `set` may change."""

CHANGEABLE_PREFIXES = tuple(prefix for prefix in PREFIXES if prefix != "proxy_protocol_tlv_")
"""Families of which `set` may make one's own variable, which then hides the request's."""


@dataclass(frozen=True, slots=True)
class VariableSettings:
    """The variables that a configuration makes (`set`, `set_by_lua`, named captures), on its http block. `captured` are
    those of the last kind.
    """

    names: frozenset[str] = field(default=frozenset(), metadata=LOCAL)
    captured: frozenset[str] = field(default=frozenset(), metadata=LOCAL)


def declare(block: Block, name: str) -> None:
    """Make `name` known to the templates of the whole configuration."""
    http = block.section
    http.set(VariableSettings, "names", http.own(VariableSettings).get("names", frozenset()) | {name})


def declare_groups(block: Block, regex: re.Pattern[bytes]) -> None:
    """Make the named groups of `regex` known."""
    for name in regex.groupindex:
        declare(block, name)
        http = block.section
        http.set(VariableSettings, "captured", http.own(VariableSettings).get("captured", frozenset()) | {name})


def is_known(name: str) -> bool:
    """Whether every request has `$name`, or `$name` is of a family that every request has."""
    return name in SUPPORTED or name.startswith(PREFIXES)


def is_unsupported(name: str) -> bool:
    return name not in SUPPORTED and (name in REFUSED or name.startswith(UNSUPPORTED_PREFIXES))


def _close_http(block: Block) -> None:
    load = block.loading
    made = block[VariableSettings].names
    for name, position in load.uses:
        if name in made or name in load.forgiven or is_known(name) or (len(name) == 1 and name in "123456789"):
            continue
        if is_unsupported(name):
            why = REFUSED.get(name)
            said = f'"${name}" is not supported by upwell{f": {why}" if why else ""}'
            load.errors.append(ConfigError(said, position))
        else:
            load.errors.append(ConfigError(f'unknown "{name}" variable', position))
    load.uses.clear()


MODULE = Module("variables", (), {"http": _close_http})
