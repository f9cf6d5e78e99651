"""One nginx feature is one file; MODULES is the list of them. A new directive goes into its feature's file."""

from upwell.config.command import Module
from upwell.modules import (
    access,
    access_log,
    client_body,
    core,
    early_hints,
    error_page,
    http,
    limit_rate,
    location,
    lua,
    no_effect,
    proxy,
    proxy_cookie,
    proxy_request,
    proxy_response,
    return_,
    rewrite,
    server,
    upstream,
    variables,
)

MODULES: tuple[Module, ...] = (
    core.MODULE,
    http.MODULE,
    client_body.MODULE,
    upstream.MODULE,
    server.MODULE,
    location.MODULE,
    proxy.MODULE,
    proxy_request.MODULE,
    proxy_response.MODULE,
    proxy_cookie.MODULE,
    limit_rate.MODULE,
    early_hints.MODULE,
    access.MODULE,
    rewrite.MODULE,
    return_.MODULE,
    error_page.MODULE,
    access_log.MODULE,
    lua.MODULE,
    variables.MODULE,
    no_effect.MODULE,
)
"""In the order in which their closing checks run: upstreams before what refers to them, variables after all uses."""
