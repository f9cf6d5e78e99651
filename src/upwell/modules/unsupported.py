"""Directives of nginx, its commercial edition, lua-nginx-module and well-known other modules that upwell lacks.

They are refused by name: "is not supported by upwell", not "unknown directive". A name leaves when a module takes it
up; a test holds that no name is in both places.
"""

from __future__ import annotations

from upwell.config.command import words

UNSUPPORTED = words(
    """
    accept_terms_of_service account_key acme_certificate acme_issuer acme_shared_zone add_header_inherit
    add_trailer_inherit ancient_browser
    ancient_browser_value api array_join auth_http auth_http_header
    auth_http_pass_client_cert auth_http_timeout auth_jwt auth_jwt_allow_nested auth_jwt_claim_set
    auth_jwt_header_set auth_jwt_key_file auth_jwt_key_request auth_jwt_leeway auth_jwt_phase auth_jwt_require
    auth_jwt_require_claim auth_jwt_require_header auth_jwt_revocation_list_kid auth_jwt_revocation_list_sub
    auth_jwt_validate_exp auth_jwt_validate_sig auth_jwt_www_authenticate auth_oidc
    auth_require balancer_by_lua_block
    balancer_by_lua_file balancer_keepalive body_filter_by_lua body_filter_by_lua_block body_filter_by_lua_file
    brotli brotli_comp_level brotli_static brotli_types cache_purge challenge client_auth client_id
    client_secret config_url consistent_hash contact cookie_name coolkit create_full_put_path
    dav_access dav_methods drizzle_pass dyups_upstream_conf echo echo_abort_parent
    echo_after_body echo_before_body echo_blocking_sleep echo_duplicate echo_end echo_exec echo_flush
    echo_foreach_split echo_location echo_location_async echo_read_request_body echo_request_body echo_reset_timer
    echo_sleep echo_status echo_subrequest echo_subrequest_async empty_gif encrypted_session_iv
    encrypted_session_key epoll_events eval exit_worker_by_lua_block exit_worker_by_lua_file
    external_account_key f4f f4f_buffer_size fancyindex fastcgi_bind fastcgi_buffer_size fastcgi_buffering
    fastcgi_buffers fastcgi_busy_buffers_size fastcgi_cache fastcgi_cache_background_update fastcgi_cache_bypass
    fastcgi_cache_key fastcgi_cache_lock fastcgi_cache_lock_age fastcgi_cache_lock_timeout
    fastcgi_cache_max_range_offset fastcgi_cache_methods fastcgi_cache_min_uses fastcgi_cache_path
    fastcgi_cache_purge fastcgi_cache_revalidate fastcgi_cache_use_stale fastcgi_cache_valid fastcgi_catch_stderr
    fastcgi_connect_timeout fastcgi_force_ranges fastcgi_hide_header fastcgi_ignore_client_abort
    fastcgi_ignore_headers fastcgi_index fastcgi_intercept_errors fastcgi_keep_conn fastcgi_limit_rate
    fastcgi_max_temp_file_size fastcgi_next_upstream fastcgi_next_upstream_timeout fastcgi_next_upstream_tries
    fastcgi_no_cache fastcgi_param fastcgi_pass fastcgi_pass_header fastcgi_pass_request_body
    fastcgi_pass_request_headers fastcgi_read_timeout fastcgi_request_buffering fastcgi_send_lowat
    fastcgi_send_timeout fastcgi_socket_keepalive fastcgi_socket_rcvbuf fastcgi_socket_sndbuf
    fastcgi_split_path_info fastcgi_store fastcgi_store_access fastcgi_temp_file_write_size fastcgi_temp_path flv
    form_input geoip_city geoip_country geoip_org geoip_proxy geoip_proxy_recursive google_perftools_profiles
    grpc_bind grpc_buffer_size grpc_connect_timeout grpc_hide_header grpc_ignore_headers grpc_intercept_errors
    grpc_next_upstream grpc_next_upstream_timeout grpc_next_upstream_tries grpc_pass grpc_pass_header
    grpc_read_timeout grpc_send_timeout grpc_set_header grpc_socket_keepalive grpc_socket_rcvbuf grpc_socket_sndbuf
    grpc_ssl_certificate grpc_ssl_certificate_cache grpc_ssl_certificate_key grpc_ssl_ciphers grpc_ssl_conf_command
    grpc_ssl_crl grpc_ssl_name grpc_ssl_password_file grpc_ssl_protocols grpc_ssl_server_name grpc_ssl_session_reuse
    grpc_ssl_trusted_certificate grpc_ssl_verify grpc_ssl_verify_depth headers_more hls hls_buffers
    hls_forward_args hls_fragment
    hls_mp4_buffer_size hls_mp4_max_buffer_size http2_body_preread_size http2_chunk_size http2_idle_timeout
    http2_max_concurrent_pushes http2_max_concurrent_streams http2_max_field_size http2_max_header_size
    http2_max_requests http2_pool_size http2_push http2_push_preload http2_recv_buffer_size http2_recv_timeout
    http2_streams_index_size http3_hq http3_max_concurrent_streams http3_stream_buffer_size iconv_filter
    image_filter image_filter_buffer image_filter_interlace image_filter_jpeg_quality
    image_filter_sharpen image_filter_transparency image_filter_webp_quality imap_auth imap_capabilities
    imap_client_buffer internal_redirect js_access js_body_filter js_content js_context_reuse
    js_context_reuse_max_size js_engine js_fetch_buffer_size js_fetch_ciphers js_fetch_keepalive
    js_fetch_keepalive_requests js_fetch_keepalive_time js_fetch_keepalive_timeout js_fetch_max_response_buffer_size
    js_fetch_protocols js_fetch_proxy js_fetch_timeout js_fetch_trusted_certificate js_fetch_verify
    js_fetch_verify_depth js_filter js_header_filter js_import js_include js_load_http_native_module
    js_load_stream_native_module js_path js_periodic js_preload_object js_preread js_set js_shared_dict_zone js_var
    keyval keyval_zone license_token limit_zone load_module lua_add_variable
    lua_capture_error_log lua_socket_buffer_size lua_socket_connect_timeout lua_socket_keepalive_timeout
    lua_socket_pool_size lua_socket_read_timeout lua_socket_send_lowat lua_socket_send_timeout lua_ssl_certificate
    lua_ssl_certificate_key lua_ssl_ciphers lua_ssl_conf_command lua_ssl_crl lua_ssl_key_log lua_ssl_protocols
    lua_ssl_trusted_certificate lua_ssl_verify_depth lua_upstream_skip_openssl_default_verify mail
      memc_pass memcached_bind
    memcached_buffer_size memcached_connect_timeout memcached_force_ranges memcached_gzip_flag
    memcached_next_upstream memcached_next_upstream_timeout memcached_next_upstream_tries memcached_pass
    memcached_read_timeout memcached_send_timeout memcached_socket_keepalive mgmt min_delete_depth
    modern_browser modern_browser_value modsecurity modsecurity_rules modsecurity_rules_file
    more_clear_headers more_clear_input_headers more_set_headers more_set_input_headers mp4 mp4_buffer_size
    mp4_limit_rate mp4_limit_rate_after mp4_max_buffer_size mp4_start_key_frame nchan_pubsub ntlm num_map
    otel_exporter otel_service_name otel_span_attr otel_span_name otel_trace
    otel_trace_context pagespeed passenger_enabled perl perl_modules perl_require perl_set
    pop3_auth pop3_capabilities post_action postgres_pass postgres_server precontent_by_lua_block
    precontent_by_lua_file precontent_by_lua_no_postpone preferred_chain preread_by_lua_block
    preread_by_lua_file preread_by_lua_no_postpone profile protocol proxy_allow_upstream
    proxy_bind_dynamic proxy_buffer proxy_cache_background_update proxy_cache_bypass proxy_cache_convert_head
    proxy_cache_key proxy_cache_lock proxy_cache_lock_age proxy_cache_lock_timeout proxy_cache_max_range_offset
    proxy_cache_methods proxy_cache_min_uses proxy_cache_path proxy_cache_purge proxy_cache_revalidate
    proxy_cache_use_stale proxy_cache_valid proxy_downstream_buffer proxy_no_cache
    proxy_pass_error_message
    proxy_ssl_alpn
    proxy_ssl_certificate_by_lua_block proxy_ssl_certificate_by_lua_file proxy_ssl_certificate_cache
    proxy_ssl_verify_by_lua_block proxy_ssl_verify_by_lua_file
    proxy_ssl_verify_set_by_lua proxy_store_access
    proxy_upstream_buffer push_stream_publisher quic_active_connection_id_limit quic_bpf quic_gso
    quic_host_key quic_retry random_index rds_json redis2_pass redis2_query
    resolver_file rtmp
    scgi_bind scgi_buffer_size scgi_buffering scgi_buffers scgi_busy_buffers_size scgi_cache
    scgi_cache_background_update scgi_cache_bypass scgi_cache_key scgi_cache_lock scgi_cache_lock_age
    scgi_cache_lock_timeout scgi_cache_max_range_offset scgi_cache_methods scgi_cache_min_uses scgi_cache_path
    scgi_cache_purge scgi_cache_revalidate scgi_cache_use_stale scgi_cache_valid scgi_connect_timeout
    scgi_force_ranges scgi_hide_header scgi_ignore_client_abort scgi_ignore_headers scgi_intercept_errors
    scgi_limit_rate scgi_max_temp_file_size scgi_next_upstream scgi_next_upstream_timeout scgi_next_upstream_tries
    scgi_no_cache scgi_param scgi_pass scgi_pass_header scgi_pass_request_body scgi_pass_request_headers
    scgi_read_timeout scgi_request_buffering scgi_send_timeout scgi_socket_keepalive scgi_socket_rcvbuf
    scgi_socket_sndbuf scgi_store scgi_store_access scgi_temp_file_write_size scgi_temp_path
    server_rewrite_by_lua_block server_rewrite_by_lua_file session_log
    session_log_format session_log_zone session_sticky session_sticky_hide_cookie set_base32_alphabet
    set_base32_padding set_decode_base32 set_decode_base64 set_decode_base64url set_decode_hex set_encode_base32
    set_encode_base64 set_encode_base64url set_encode_hex set_escape_uri set_form_input set_formatted_gmt_time
    set_formatted_local_time set_hashed_upstream set_hmac_sha1 set_hmac_sha256 set_if_empty set_local_today set_md5
    set_misc_base32_padding set_quote_json_str set_quote_pgsql_str set_quote_sql_str set_random
    set_rotate set_secure_random_alphanum set_secure_random_lcalpha set_sha1 set_unescape_uri slice smtp_auth
    smtp_capabilities smtp_client_buffer smtp_greeting_delay spdy_chunk_size spdy_headers_comp
     srcache_fetch srcache_store ssi_ignore_recycled_buffers ssi_last_modified ssi_min_file_chunk
    ssi_silent_errors ssi_types ssi_value_length ssl ssl_certificate_by_lua_block
    ssl_certificate_by_lua_file ssl_certificate_compression
    ssl_client_hello_by_lua_block ssl_client_hello_by_lua_file
    ssl_ech_file ssl_engine ssl_object_cache_inheritable ssl_ocsp_cache
    ssl_ocsp_responder ssl_psk_by_lua_block
    ssl_session_fetch_by_lua_block ssl_session_fetch_by_lua_file
    ssl_session_store_by_lua_block ssl_session_store_by_lua_file
    ssl_stapling_file ssl_stapling_responder
    starttls state_path status
    status_zone sticky_cookie_insert stream_lua_package_path
       subrequest_output_buffer_size subs_filter timeout
    tunnel_allow_upstream tunnel_bind tunnel_bind_dynamic tunnel_buffer_size tunnel_connect_timeout
    tunnel_next_upstream tunnel_next_upstream_timeout tunnel_next_upstream_tries tunnel_pass tunnel_read_timeout
    tunnel_send_lowat tunnel_send_timeout tunnel_socket_keepalive tunnel_socket_rcvbuf tunnel_socket_sndbuf
    upstream_conf upstream_list upstream_show uri usage_report userid userid_domain
    userid_expires userid_flags userid_mark userid_name userid_p3p userid_path userid_service uwsgi_bind
    uwsgi_buffer_size uwsgi_buffering uwsgi_buffers uwsgi_busy_buffers_size uwsgi_cache
    uwsgi_cache_background_update uwsgi_cache_bypass uwsgi_cache_key uwsgi_cache_lock uwsgi_cache_lock_age
    uwsgi_cache_lock_timeout uwsgi_cache_max_range_offset uwsgi_cache_methods uwsgi_cache_min_uses uwsgi_cache_path
    uwsgi_cache_purge uwsgi_cache_revalidate uwsgi_cache_use_stale uwsgi_cache_valid uwsgi_connect_timeout
    uwsgi_force_ranges uwsgi_hide_header uwsgi_ignore_client_abort uwsgi_ignore_headers uwsgi_intercept_errors
    uwsgi_limit_rate uwsgi_max_temp_file_size uwsgi_modifier1 uwsgi_modifier2 uwsgi_next_upstream
    uwsgi_next_upstream_timeout uwsgi_next_upstream_tries uwsgi_no_cache uwsgi_param uwsgi_pass uwsgi_pass_header
    uwsgi_pass_request_body uwsgi_pass_request_headers uwsgi_read_timeout uwsgi_request_buffering uwsgi_send_timeout
    uwsgi_socket_keepalive uwsgi_socket_rcvbuf uwsgi_socket_sndbuf uwsgi_ssl_certificate uwsgi_ssl_certificate_cache
    uwsgi_ssl_certificate_key uwsgi_ssl_ciphers uwsgi_ssl_conf_command uwsgi_ssl_crl uwsgi_ssl_name
    uwsgi_ssl_password_file uwsgi_ssl_protocols uwsgi_ssl_server_name uwsgi_ssl_session_reuse
    uwsgi_ssl_trusted_certificate uwsgi_ssl_verify uwsgi_ssl_verify_depth uwsgi_store uwsgi_store_access
    uwsgi_string uwsgi_temp_file_write_size uwsgi_temp_path vhost_traffic_status
    vhost_traffic_status_display vhost_traffic_status_display_format vhost_traffic_status_zone
    xclient xml_entities xslt_last_modified xslt_param xslt_string_param xslt_stylesheet xslt_types xss_get
    zone_sync zone_sync_buffers zone_sync_connect_retry_interval zone_sync_connect_timeout zone_sync_interval
    zone_sync_recv_buffer_size zone_sync_server zone_sync_ssl zone_sync_ssl_certificate
    zone_sync_ssl_certificate_key zone_sync_ssl_ciphers zone_sync_ssl_crl zone_sync_ssl_name
    zone_sync_ssl_password_file zone_sync_ssl_protocols zone_sync_ssl_server_name zone_sync_ssl_trusted_certificate
    zone_sync_ssl_verify zone_sync_ssl_verify_depth zone_sync_timeout zstd zstd_types
    mqtt mqtt_buffers mqtt_preread mqtt_set_connect pass proxy_session_drop ssl_alpn ssl_certificate_cache
    """
)

LACKING = {
    "http": words("ssl_handshake_timeout"),
    "stream": words(
        """
        limit_conn limit_conn_dry_run limit_conn_log_level limit_conn_zone open_log_file_cache server_name
        server_names_hash_bucket_size server_names_hash_max_size set_real_ip_from
        """
    ),
}
"""What upwell has in another section only."""

_NO_WORD = "Python's ssl has no word for it"
_ONE_PROTOCOL = "upwell speaks HTTP/1.1 with its clients"

_FAMILIES: tuple[tuple[str, str], ...] = (
    ("auth_jwt auth_oidc auth_require", "tokens are checked by who auth_request asks"),
    ("fastcgi_ uwsgi_ scgi_ grpc_ memcached_ memc_ redis2_ drizzle_ postgres_", "peers are spoken to in HTTP/1.x"),
    ("tunnel_", "upwell is no forward proxy, so CONNECT is refused"),
    ("proxy_cache proxy_no_cache srcache_ cache_purge", "upwell keeps no answers"),
    ("proxy_store_access", "upwell stores no answers"),
    ("http2_ http3_ quic_ spdy_", _ONE_PROTOCOL),
    (
        "mail auth_http imap_ pop3_ smtp_ starttls xclient protocol proxy_pass_error_message timeout",
        "upwell is no mail proxy",
    ),
    ("mqtt", "stream passes MQTT on without reading it"),
    ("js_ perl", "programs in a configuration are Lua's"),
    ("geoip_", "MaxMind's old library is not there; geo and map choose by address"),
    ("image_filter xslt_ xml_entities", "content is changed by text only: sub_filter, charset, addition"),
    ("hls f4f flv mp4", "films are sent as they lie on the disk"),
    ("dav_ create_full_put_path min_delete_depth", "clients write no files"),
    ("ssi_", "pages are put together by addition and Lua only"),
    ("userid", "cookies that tell clients apart are made by add_header and sticky"),
    (
        "keyval api upstream_conf upstream_show upstream_list status",
        "what changes while upwell runs is changed by a reload, and told by upwell_status",
    ),
    ("zone_sync", "zones are those of one machine"),
    ("session_log", "access_log and map tell what there is to tell"),
    ("otel_", "no traces are sent; fields of a request pass through"),
    ("mgmt license_token usage_report", "it belongs to a licence, of which upwell has none"),
    (
        "acme_ account_key accept_terms_of_service challenge contact external_account_key preferred_chain profile "
        "state_path uri",
        "certificates are fetched by a program beside upwell, and read again on HUP",
    ),
    ("client_auth client_id client_secret config_url cookie_name", "it is of auth_oidc, which is not there"),
    ("load_module", "there are no modules to load: upwell has what it has"),
    ("epoll_events google_perftools_profiles", "it is about nginx's own memory and events"),
    ("lua_ stream_lua_", "upwell's Lua has no sockets and no such settings of its own"),
    (
        "balancer_ exit_worker_ body_filter_by precontent_ preread_by server_rewrite_by ssl_certificate_by "
        "ssl_client_hello_by ssl_psk_by ssl_session_fetch ssl_session_store proxy_ssl_certificate_by "
        "proxy_ssl_verify_by proxy_ssl_verify_set_by",
        "Lua code runs in other phases",
    ),
    (
        "array_join brotli consistent_hash coolkit dyups_ echo encrypted_session_ eval fancyindex form_input "
        "headers_more iconv_ modsecurity more_ nchan_ ntlm pagespeed passenger_ proxy_allow_upstream push_stream_ rds_ "
        "rtmp session_sticky set_ sticky_cookie_insert subs_filter vhost_traffic_status xss_ zstd",
        "it is of a module that nginx's own packages do not have",
    ),
)
"""The beginnings of names, and why they are refused."""


def _families() -> dict[str, str]:
    found: dict[str, str] = {}
    for beginnings, why in _FAMILIES:
        fitting = tuple(beginnings.split())
        for name in UNSUPPORTED:
            if name.startswith(fitting):
                found.setdefault(name, why)
    return found


NOT_MADE = "nobody has made it yet"

REASONS = (
    dict.fromkeys(UNSUPPORTED, NOT_MADE)
    | _families()
    | {
        "disable_symlinks": NOT_MADE,
        "http2": _ONE_PROTOCOL,
        "http3": _ONE_PROTOCOL,
        "limit_zone": "nginx has limit_conn_zone for it",
        "proxy_cache": "upwell keeps no answers",
        "proxy_ssl_alpn": "peers are spoken to in HTTP/1.1, which needs no telling",
        "proxy_store": "upwell keeps no answers",
        "ssi": NOT_MADE,
        "ssl": "nginx has it no more: it is a parameter of listen",
        "ssl_certificate_cache": "certificates with variables are not supported",
        "ssl_certificate_compression": _NO_WORD,
        "ssl_early_data": f"{_NO_WORD}, and what it carries may be replayed",
        "ssl_ech_file": _NO_WORD,
        "ssl_engine": _NO_WORD,
        "ssl_ocsp": f"{_NO_WORD}; ssl_crl refuses revoked certificates",
        "ssl_ocsp_cache": _NO_WORD,
        "ssl_ocsp_responder": _NO_WORD,
        "ssl_stapling": _NO_WORD,
        "ssl_stapling_file": _NO_WORD,
        "ssl_stapling_responder": _NO_WORD,
        "ssl_stapling_verify": _NO_WORD,
    }
)
"""Why each is refused, and some that may only say what upwell does anyhow."""
