"""`proxy_pass` with variables in `stream`: from what it comes to for a session to the upstream that is meant.

Which upstreams there are, and how those of other addresses and names are made, is destinations.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from upwell.log import printable
from upwell.modules.address import is_ip, parse_address
from upwell.peers.upstream import Upstream
from upwell.proxy.session import INTERNAL, WAITING, Session, SessionSpec
from upwell.proxy.timers import Timers
from upwell.runtime.destinations import Destinations, keepalive_of

if TYPE_CHECKING:
    from upwell.resolve.spec import Answer, ResolverSpec
    from upwell.runtime.directory import Directory

Aim = Callable[[Session, Callable[[int], None]], int]

_MOST_REMEMBERED: Final = 1024


class Targets:
    """What sessions of one worker may go to. `names` are not closed here."""

    __slots__ = ("_destinations", "names")

    def __init__(
        self,
        upstreams: Iterable[Upstream],
        loop: asyncio.AbstractEventLoop,
        timers: Timers,
        names: Mapping[ResolverSpec, Directory],
    ) -> None:
        self.names = names
        known = {one.spec.local: (one, keepalive_of(one.spec, loop, timers)) for one in upstreams}
        self._destinations = Destinations(known, loop, timers, {})

    def __repr__(self) -> str:
        return f"<Targets {self._destinations!r}>"

    def close(self) -> None:
        self._destinations.close()

    def aim(
        self,
        value: Callable[[Session], bytes],
        spec_for: Callable[[Upstream, str], SessionSpec],
        names: Directory | None,
    ) -> Aim:
        """What gives a session its spec by `value`; `spec_for` makes those, of an upstream and the name it was
        called."""
        made: dict[tuple[Upstream, str], SessionSpec] = {}
        destinations = self._destinations

        def go(session: Session, upstream: Upstream, name: str) -> int:
            spec = made.get((upstream, name))
            if spec is None:
                if len(made) >= _MOST_REMEMBERED:
                    made.clear()  # a client may have said the name
                spec = made[upstream, name] = spec_for(upstream, name)
            session.spec = spec
            return 0

        def aim(session: Session, go_on: Callable[[int], None]) -> int:
            text = value(session).decode("latin-1")
            try:
                address = parse_address(text)
            except ValueError as error:
                session.error(f'{error} in upstream "{printable(text.encode("latin-1"))}"')
                return INTERNAL
            somewhere = bool(address.port or address.path)
            found = destinations.find(address, 0) if somewhere or not is_ip(address.host) else None
            if found is not None:
                return go(session, found[0], text)
            if not somewhere:
                session.error(f'no port in upstream "{printable(text.encode("latin-1"))}"')
                return INTERNAL
            host = printable(address.host.encode("latin-1"))
            if names is None:
                session.error(f"no resolver defined to resolve {host}")
                return INTERNAL

            def settle(answer: Answer) -> int:
                if not answer.found:
                    session.error(f"{host} could not be resolved {answer.words}")
                    return INTERNAL
                return go(session, destinations.behind(address, 0, names, answer.found)[0], text)

            answers: list[Answer] = []
            waiting = False

            def done(answer: Answer) -> None:
                answers.append(answer)
                if waiting and not session.over:
                    go_on(settle(answer))

            names.ask(address.host, done)
            if answers:
                return settle(answers[0])
            waiting = True
            return WAITING

        return aim
