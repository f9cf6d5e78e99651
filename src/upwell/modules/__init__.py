"""One nginx feature is one file; MODULES is the list of them. A new directive goes into its feature's file."""

from upwell.config.command import Module
from upwell.modules import (
    access,
    access_log,
    core,
    http,
    location,
    lua,
    no_effect,
    proxy,
    proxy_request,
    return_,
    rewrite,
    server,
    upstream,
    variables,
)

MODULES: tuple[Module, ...] = (
    core.MODULE,
    http.MODULE,
    upstream.MODULE,
    server.MODULE,
    location.MODULE,
    proxy.MODULE,
    proxy_request.MODULE,
    access.MODULE,
    rewrite.MODULE,
    return_.MODULE,
    access_log.MODULE,
    lua.MODULE,
    variables.MODULE,
    no_effect.MODULE,
)
"""In the order in which their closing checks run: upstreams before what refers to them, variables after all uses."""
