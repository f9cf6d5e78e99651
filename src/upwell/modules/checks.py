"""Where the dialects of health checks put what they read: one list of checks. Knows no dialect."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from upwell.check.spec import CheckSpec
from upwell.config.inherit import LOCAL
from upwell.config.model import Block
from upwell.errors import ConfigError, Position
from upwell.zone.layout import CHECKS_PER_PEER


@dataclass(frozen=True, slots=True)
class ChecksSettings:
    """On the http block: every check that the configuration names, in its order, and where each is named."""

    specs: tuple[CheckSpec, ...] = field(default=(), metadata=LOCAL)
    places: tuple[Position | None, ...] = field(default=(), metadata=LOCAL)


@dataclass(frozen=True, slots=True)
class _Known:
    """On the http block while it is read: the identities and titles of each upstream's checks."""

    identities: dict[str, set[int]] = field(default_factory=dict, metadata=LOCAL)
    titles: dict[str, list[str]] = field(default_factory=dict, metadata=LOCAL)


def add_check(http: Block, spec: CheckSpec, place: Position | None = None) -> CheckSpec:
    """Add `spec`, made distinct (`ordinal`) from those of the same upstream that probe the same, and (`number`) from
    those with the same title; returns it.

    Raises ConfigError for one more than the zone has room for.
    """
    known = http.own(_Known).setdefault("identities", {}).setdefault(spec.upstream, set())
    while (identity := spec.identity) in known:
        spec = replace(spec, ordinal=spec.ordinal + 1)
    if len(known) == CHECKS_PER_PEER:
        what = f'upstream "{spec.upstream}" has more than {CHECKS_PER_PEER} health checks'
        raise ConfigError(what, place)
    known.add(identity)
    titles: list[str] = http.own(_Known).setdefault("titles", {}).setdefault(spec.upstream, [])
    before = titles.count(spec.title)
    titles.append(spec.title)
    if before:
        spec = replace(spec, number=before + 1)
    http.append(ChecksSettings, "specs", spec)
    http.append(ChecksSettings, "places", place)
    return spec
