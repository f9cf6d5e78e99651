"""`sticky` compiled: how each upstream that has sessions gives a request its peer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from upwell.config.model import Block
from upwell.modules.sticky import Sticky as Settings
from upwell.modules.sticky import StickyCookie, StickySettings, lookup_template
from upwell.modules.upstream import UpstreamSettings
from upwell.proxy.keepalive import Keepalive
from upwell.proxy.sticky import SessionCookie, Sticky
from upwell.runtime.choosing import key_of
from upwell.runtime.render import constant_or_render, render
from upwell.zone.sessions import Sessions
from upwell.zone.shared_dict import SharedDict

if TYPE_CHECKING:
    from upwell.peers.upstream import Upstream


def compile_sticky(
    http: Block, upstreams: Mapping[str, tuple[Upstream, Keepalive]], dicts: Mapping[str, SharedDict]
) -> dict[Upstream, Sticky]:
    """The upstreams with sessions. `dicts` are those of the zones by name."""
    found = {}
    for block in http.of("upstream"):
        settings = block[StickySettings].sticky
        if settings is not None:
            upstream = upstreams[block[UpstreamSettings].name][0]
            found[upstream] = _compile(settings, upstream, dicts)
    return found


def _compile(settings: Settings, upstream: Upstream, dicts: Mapping[str, SharedDict]) -> Sticky:
    zone = settings.zone
    return Sticky(
        upstream,
        [render(lookup_template(name)) for name in settings.lookup],
        None if settings.cookie is None else _cookie(settings.cookie),
        None if zone is None else Sessions(dicts[zone.name], zone.timeout),
        [render(lookup_template(name)) for name in settings.create],
        key_of(upstream.spec.method),
        zone is not None and zone.header,
    )


def _cookie(cookie: StickyCookie) -> SessionCookie:
    return SessionCookie(
        cookie.name.encode("utf-8", "surrogateescape"),
        cookie.expires,
        None if cookie.domain is None else render(cookie.domain),
        cookie.path.encode("utf-8", "surrogateescape"),
        cookie.httponly,
        cookie.secure,
        None if cookie.samesite is None else constant_or_render(cookie.samesite),
    )
