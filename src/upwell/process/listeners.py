"""The listening sockets: opened once by the master, kept over reloads by address, shared by all workers.

Knows addresses and nginx's `listen` options. Must not know servers, requests or who accepts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Set

from upwell.log import ALERT
from upwell.process.journal import Journal, failure
from upwell.proxy.listen import ListenSpec

TRIES = 5
PAUSE = 0.5
"""nginx binds five times with half a second between, so that a server that is just leaving is waited for."""

_ANY = ("0.0.0.0", "::")


Sockets = Mapping[ListenSpec, tuple[socket.socket, ...]]
"""For each address its socket, or with `reuseport` one for each worker."""


class ListenError(Exception):
    """The addresses could not be listened on; what nginx says about it has been logged."""


def absorb(listens: Iterable[ListenSpec]) -> list[ListenSpec]:
    """Those that need a socket: each address once, and none that a wildcard of its family and port covers.

    nginx (ngx_http_init_listening) binds `*:80` alone when `127.0.0.1:80` is also listened on, and finds the server by
    the connection's local address; a `reuseport` listen keeps a socket of its own.
    """
    unique: dict[tuple[int, tuple[str, int] | str, bool], ListenSpec] = {}
    for listen in listens:
        unique.setdefault((listen.family, listen.address, listen.udp), listen)
    wild: set[tuple[int, int, bool]] = {
        (x.family, x.address[1], x.udp)
        for x in unique.values()
        if not isinstance(x.address, str) and x.address[0] in _ANY
    }
    return [x for x in unique.values() if not _covered(x, wild)]


def _covered(listen: ListenSpec, wild: Set[tuple[int, int, bool]]) -> bool:
    if isinstance(listen.address, str) or listen.address[0] in _ANY or listen.reuseport:
        return False
    return (listen.family, listen.address[1], listen.udp) in wild


def open_sockets(
    listens: Iterable[ListenSpec],
    workers: int,
    kept: Sockets,
    journal: Journal,
    pause: Callable[[float], None] = time.sleep,
    test: bool = False,
) -> dict[ListenSpec, tuple[socket.socket, ...]]:
    """Open what `listens` asks for, taking from `kept` the sockets whose address stays.

    Every address that is in use is named (`bind() to 0.0.0.0:80 failed (98: Address already in use)`), tried five times
    in all; another error ends it at once. Raises ListenError, with nothing new left open. With `test` an address in
    use is no error, for nginx's `-t` runs beside the server that it checks.
    """
    at_hand = {(x.family, x.address, x.udp): (x, held) for x, held in kept.items()}
    opened: dict[ListenSpec, tuple[socket.socket, ...]] = {}
    fresh: list[socket.socket] = []
    wanted: list[ListenSpec] = []
    for listen in absorb(listens):
        old, held = at_hand.get((listen.family, listen.address, listen.udp), (None, ()))
        if old is not None:
            # One that no worker accepts on would still get its part of the connections.
            opened[listen] = held = held[: workers if listen.reuseport else 1]
            if listen.reuseport and not old.reuseport:
                _share(held, listen, journal)
            for sock in held:
                if old.backlog != listen.backlog and not listen.udp:
                    sock.listen(listen.backlog)
                _tune(sock, listen, old, journal)
            if not listen.reuseport or len(held) >= workers:
                continue
        wanted.append(listen)
    try:
        for _ in range(TRIES):
            wanted = [x for x in wanted if not _open_one(x, workers, opened, fresh, journal, test)]
            if not wanted or test:
                return opened
            journal.notice("try again to bind() after 500ms")
            pause(PAUSE)
        journal.emerg("still could not bind()")
        raise ListenError
    except ListenError:
        discard(fresh)
        raise


def _open_one(
    listen: ListenSpec,
    workers: int,
    opened: dict[ListenSpec, tuple[socket.socket, ...]],
    fresh: list[socket.socket],
    journal: Journal,
    test: bool,
) -> bool:
    """Open the sockets of one address; False: it is in use, and that was said. Raises ListenError for the rest."""
    held = list(opened.get(listen, ()))
    count = workers if listen.reuseport else 1
    try:
        while len(held) < count:
            sock = _bind(listen)
            _tune(sock, listen, None, journal)
            held.append(sock)
            fresh.append(sock)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and test:
            return False
        journal.emerg(f"bind() to {listen.text} {failure(error)}")
        if error.errno != errno.EADDRINUSE:
            raise ListenError from error
        return False
    opened[listen] = tuple(held)
    return True


def _bind(listen: ListenSpec) -> socket.socket:
    sock = socket.socket(listen.family, socket.SOCK_DGRAM if listen.udp else socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listen.reuseport:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if listen.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(listen.ipv6only))
        if isinstance(listen.address, str):
            _remove_stale(listen.address)
            sock.bind(listen.address)
            # nginx lets every local user connect; the folder's mode is what restricts it.
            os.chmod(listen.address, 0o666)
        else:
            sock.bind(listen.address)
        if not listen.udp:
            sock.listen(listen.backlog)
    except OSError:
        sock.close()
        raise
    return sock


def _share(held: Iterable[socket.socket], listen: ListenSpec, journal: Journal) -> None:
    """Let other sockets be bound to an address that one has to itself (nginx's add_reuseport)."""
    for sock in held:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        except OSError as error:
            journal.write(ALERT, f"setsockopt(SO_REUSEPORT) {listen.text} {failure(error)}, ignored")


def _tune(sock: socket.socket, listen: ListenSpec, before: ListenSpec | None, journal: Journal) -> None:
    """Give a socket the options of `listen`, and what it does not say any more an end. What cannot be given is told of
    and no more, as in nginx."""
    options: list[tuple[str, int, int, int]] = []
    if listen.rcvbuf is not None:
        options.append(("SO_RCVBUF", socket.SOL_SOCKET, socket.SO_RCVBUF, listen.rcvbuf))
    if listen.sndbuf is not None:
        options.append(("SO_SNDBUF", socket.SOL_SOCKET, socket.SO_SNDBUF, listen.sndbuf))
    if listen.keepalive is not None:
        options.append(("SO_KEEPALIVE", socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(listen.keepalive)))
    times = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    for name, option, value in zip(
        ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), times, listen.keepalive_times, strict=True
    ):
        if value:
            options.append((name, socket.IPPROTO_TCP, option, value))
    if listen.fastopen is not None:
        options.append(("TCP_FASTOPEN", socket.IPPROTO_TCP, socket.TCP_FASTOPEN, listen.fastopen))
    if listen.deferred or (before is not None and before.deferred):
        options.append(("TCP_DEFER_ACCEPT", socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(listen.deferred)))
    for name, level, option, value in options:
        try:
            sock.setsockopt(level, option, value)
        except (OSError, OverflowError) as error:
            why = failure(error) if isinstance(error, OSError) else f"failed ({error})"
            journal.write(ALERT, f"setsockopt({name}, {value}) for {listen.text} {why}, ignored")


def _remove_stale(path: str) -> None:
    """Delete the socket file that a killed server left: nobody answers on it any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return  # alive, or not ours to judge: bind() will say what is wrong


def discard(sockets: Iterable[socket.socket], unlink: bool = True) -> None:
    """Close listening sockets for good; the file of a unix socket goes with it (as nginx's master does), unless another
    master still listens there (`unlink` false)."""
    for sock in sockets:
        path = ""
        with contextlib.suppress(OSError):
            name = sock.getsockname()
            path = name if isinstance(name, str) else ""
        sock.close()
        if path and unlink:
            with contextlib.suppress(OSError):
                os.unlink(path)


def of_worker(sockets: Sockets, slot: int) -> dict[ListenSpec, socket.socket]:
    """The sockets that worker `slot` accepts on."""
    return {listen: held[slot % len(held)] for listen, held in sockets.items()}


def all_of(sockets: Iterable[Sockets]) -> list[socket.socket]:
    """Every socket of several generations once."""
    return list({id(sock): sock for table in sockets for held in table.values() for sock in held}.values())
