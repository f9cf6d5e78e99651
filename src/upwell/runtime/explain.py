"""`upwell explain`: what a configuration has probed, how, how often, and by which rules, in plain words.

Knows specs and settings, and the checker's timetables well enough to say how long a dead peer can stay in use.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from upwell.check.named import NamedPeers
from upwell.check.probes import AT_ONCE
from upwell.check.rules import compiled
from upwell.check.spec import PLUS, RESTY, TENGINE, CheckSpec, HeaderRule, MatchSpec, NotifySpec
from upwell.config.model import Block
from upwell.errors import Position
from upwell.modules.checks import ChecksSettings
from upwell.modules.health_policy import HealthPolicySettings
from upwell.modules.location import PLACES
from upwell.modules.lua import LuaSettings
from upwell.modules.proxy import ProxySettings
from upwell.modules.resolver import resolver_of
from upwell.modules.sticky import Sticky, StickySettings
from upwell.modules.stream.proxy import StreamProxySettings
from upwell.modules.upstream import UpstreamSettings
from upwell.peers.panic import FAIL, PANIC
from upwell.peers.peer import STREAM, Method, PeerSpec, UpstreamSpec
from upwell.resolve.spec import ResolverSpec
from upwell.runtime.build import Plan

_SHOWN: Final = 80  # characters of what is sent or awaited
_MOST_NAMED: Final = 20  # peers
_KEPT: Final = UpstreamSpec("", ()).keepalive
_DIALECTS: Final = {
    RESTY: "lua-resty-upstream-healthcheck",
    PLUS: "health_check, as NGINX Plus",
    TENGINE: "check, as Tengine",
}


def explain(plan: Plan, of_lua: Sequence[CheckSpec] = (), lua_note: str = "") -> Iterator[str]:
    """The lines. `of_lua` are the checks that Lua code starts; `lua_note` is what else is to be said of them."""
    http = next(plan.config.main.of("http"), None)
    stream = next(plan.config.main.of("stream"), None)
    folder = os.path.dirname(plan.config.path)
    checks: list[tuple[CheckSpec, Position | None]] = []
    places: dict[str, Position] = {}
    used: set[str] | None = set()
    bound: dict[str, Sticky] = {}
    if http is not None:
        settings = http[ChecksSettings]
        lua = http[LuaSettings].init_worker
        checks += [(spec, lua.position if lua is not None else None) for spec in of_lua]
        checks += zip(settings.specs, settings.places, strict=True)
        places = {block[UpstreamSettings].name: block.position for block in http.of("upstream")}
        used = _used(http)
        for block in http.of("upstream"):
            sticky = block[StickySettings].sticky
            if sticky is not None:
                bound[block[UpstreamSettings].name] = sticky
    if stream is not None:
        settings = stream[ChecksSettings]
        checks += zip(settings.specs, settings.places, strict=True)
        places |= {f"{STREAM}{block[UpstreamSettings].name}": block.position for block in stream.of("stream_upstream")}
        if used is not None:
            of_sessions = _used_by_sessions(stream)
            used = None if of_sessions is None else used | of_sessions
    for upstream in plan.upstreams:
        names = [line for line in plan.names if line.upstream == upstream.name]
        own = [(spec, place) for spec, place in checks if spec.upstream == upstream.name]
        yield from _upstream(upstream, _place(places.get(upstream.name), folder), own, folder, names)
        balancing = "" if upstream.implicit else _balancing(upstream, bound.get(upstream.name))
        if balancing:
            yield f"  {balancing}"
        if own and upstream.name in plan.notified:
            yield f"  Told of it: {'; '.join(_told(target) for target in plan.notified[upstream.name])}."
        if used is not None and upstream.name not in used:
            yield "  No proxy_pass names it."
        yield ""
    if not plan.upstreams:
        yield "There is no upstream, so there is nothing to probe."
        yield ""
    if http is not None:
        for line in _said(http, folder):
            yield line
            yield ""
    if lua_note:
        yield lua_note
        yield ""
    if plan.health_check_concurrency:
        yield f"All checks together: at most {count_of(plan.health_check_concurrency, 'probe')} at once."
        yield ""
    if plan.state_file:
        yield f"What is known of peers is kept over a restart in {plan.state_file}."
        yield ""
    idle = list(plan.without_effect)
    if http is not None:
        idle += _policies_of_nobody(http, {spec.upstream for spec, _ in checks})
        idle += _queues_of_nobody(http, plan.upstreams)
    if idle:
        yield "Without effect:"
        for text, position in idle:
            yield f"  {text} ({_place(position, folder)})"


def _policies_of_nobody(http: Block, checked: set[str]) -> Iterator[tuple[str, Position]]:
    """What is said of health in upstreams that nothing probes."""
    names = {"all_down": "all_down", "mass_down": "mass_down_threshold"}
    for block in http.of("upstream"):
        name = block[UpstreamSettings].name
        own = block.own(HealthPolicySettings)
        if name not in checked:
            yield from (
                (f"{names[field]} of upstream {name}, which has no check", block.position)
                for field in names
                if field in own
            )


def _used(http: Block) -> set[str] | None:
    """The upstreams that a `proxy_pass` names; None if one with variables may name any."""
    passes = [block[ProxySettings].pass_ for block in http.walk() if block.kind in PLACES]
    targets = [target for target in passes if target is not None]
    return None if any(target.template is not None for target in targets) else {target.upstream for target in targets}


def _used_by_sessions(stream: Block) -> set[str] | None:
    passes = [block[StreamProxySettings].pass_ for block in stream.of("stream_server")]
    targets = [target for target in passes if target is not None]
    return None if any(target.template is not None for target in targets) else {target.upstream for target in targets}


def _place(position: Position | None, folder: str) -> str:
    """`position` as people look for it: from the configuration's folder on, by line."""
    if position is None:
        return ""
    return f"{position.file.removeprefix(folder + '/')}:{position.line}" if position.line else position.file


# Upstreams


def _upstream(
    upstream: UpstreamSpec,
    place: str,
    checks: Sequence[tuple[CheckSpec, Position | None]],
    folder: str,
    names: Sequence[NamedPeers],
) -> Iterator[str]:
    peers = upstream.peers
    where = "the address of a proxy_pass" if upstream.implicit else place
    counts = [count_of(len(peers), "peer")] if peers or not names else []
    if names:
        counts.append(f"{'those' if peers else 'the peers'} behind {count_of(len(names), 'name')}")
    yield f"upstream {upstream.name}{f' ({where})' if where else ''}: {' and '.join(counts)}"
    named = [_peer(peer) for peer in peers[:_MOST_NAMED]]
    if len(peers) > _MOST_NAMED:
        named.append(f"and {len(peers) - _MOST_NAMED} more")
    yield from (f"  {line}" for line in _wrapped(named))
    yield from (f"  {_named(line)}" for line in names)
    if upstream.state:
        yield f"  The list of peers is kept in {upstream.state}, which is written anew when it changes at run time."
    for spec, position in checks:
        yield ""
        found = _place(position, folder)
        yield f"  check: {spec.title} ({', '.join(part for part in (found, _DIALECTS[spec.dialect]) if part)})"
        for name, text in _check(spec, peers, bool(names)):
            yield f"    {name:<8} {text}"
    yield ""
    if not checks:
        yield "  No check: nothing probes these peers."
    elif len(checks) > 1:
        yield f"  A peer gets requests while it is up by {'both' if len(checks) == 2 else f'all {len(checks)}'} checks."
    yield f"  {_passive(upstream, any(spec.dialect != RESTY for spec, _ in checks))}"
    if checks:
        yield f"  {_policy(upstream)}"
    tiers = sorted({peer.tier for peer in peers if not peer.backup})
    if len(tiers) > 1:
        yield f"  {_tiers(tiers, upstream.tier_threshold)}"


def _queues_of_nobody(http: Block, upstreams: Sequence[UpstreamSpec]) -> Iterator[tuple[str, Position]]:
    """Queues that nothing can ever wait in: no peer can be full."""
    blocks = {block[UpstreamSettings].name: block for block in http.of("upstream")}
    for upstream in upstreams:
        block = blocks.get(upstream.name)
        if block is None or not upstream.queue or any(peer.max_conns for peer in (*upstream.peers, *upstream.lines)):
            continue
        if not upstream.state:  # a peer that joins may have one
            yield f"queue {upstream.queue} of upstream {upstream.name}, where no server has max_conns", block.position


def _balancing(upstream: UpstreamSpec, sticky: Sticky | None) -> str:
    """How a peer is chosen and kept, as far as it is not what every upstream does; "" if it is."""
    said = []
    if upstream.method != Method():
        said.append(f"peers are chosen by {_method(upstream.method)}")
    if sticky is not None:
        by = ", ".join(f"${name}" for name in sticky.lookup)
        if sticky.cookie is not None:
            by = f"the cookie {sticky.cookie.name}, which upwell sets"
        elif sticky.zone is not None:
            by += f" (sticky learn, forgotten after {time_of(sticky.zone.timeout)})"
        said.append(f"sessions stay with a peer by {by}")
    if upstream.queue:
        count = "1 request waits" if upstream.queue == 1 else f"{upstream.queue} requests wait"
        said.append(f"up to {count} for a peer that is not full, {time_of(upstream.queue_timeout)} at most")
    if upstream.keepalive != _KEPT:
        kept = count_of(upstream.keepalive, "idle connection")
        said.append(f"each worker keeps {kept}" if upstream.keepalive else "no connection is kept")
    return f"{_capital('; '.join(said))}." if said else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _method(method: Method) -> str:
    """The method as its directive says it."""
    words = [method.name, method.key, "consistent" if method.consistent else ""]
    words += [f"bounded={method.bounded:g}" if method.bounded else "", "two" if method.two else ""]
    words += [method.measure, "inflight" if method.inflight else ""]
    return " ".join(filter(None, words))


def _said(http: Block, folder: str) -> Iterator[str]:
    """Who knows the names that only requests say (`proxy_pass` with variables)."""
    for block in http.walk():
        target = block.own(ProxySettings).get("pass_")
        if target is None or target.template is None or block.kind == "limit_except":
            continue
        asked = resolver_of(block)
        how = "gets a 502: there is no resolver" if asked is None else f"is {_looked_up(asked)}"
        place = _place(block.position, folder)
        yield f"What the proxy_pass in {place} comes to, if it is a name but no upstream, {how}."


def _looked_up(asked: ResolverSpec) -> str:
    servers = ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in asked.servers)
    kinds = " and ".join(kind for kind, on in (("IPv4", asked.ipv4), ("IPv6", asked.ipv6)) if on)
    often = "as often as answers say (TTL)" if asked.valid is None else f"every {time_of(asked.valid)}"
    return f"looked up ({kinds}) {often} at {servers}"


def _named(line: NamedPeers) -> str:
    """What is said of a `server name resolve`."""
    what = f"SRV records of {line.question.owner}" if line.question.service else line.question.name
    role = " as backups" if line.template.backup else ""
    leads = "lead to" if line.question.service else "resolves to"
    return f"Peers{role}: what {what} {leads}, {_looked_up(line.resolver)}."


def _peer(peer: PeerSpec) -> str:
    marks = [mark for mark, on in (("backup", peer.backup), ("down", peer.down), ("drains", peer.drain)) if on]
    if peer.tier:
        marks.append(f"tier {peer.tier}")
    if peer.slow_start:
        marks.append(f"slow start {time_of(peer.slow_start)}")
    return f"{peer.name} ({', '.join(marks)})" if marks else peer.name


def _tiers(tiers: Sequence[int], threshold: int) -> str:
    """Which peers are asked first, with all of them healthy and without."""
    share = "none" if threshold == 1 else f"less than {threshold} %"
    first, *rest = map(str, tiers)
    joins = f"tier {rest[0]} joins" if len(rest) == 1 else f"tiers {', '.join(rest)} join one by one"
    return f"Tier {first} gets all requests; {joins} while {share} of the peers before is up (tier_threshold)."


def _wrapped(words: Iterable[str], width: int = 100) -> Iterator[str]:
    line = ""
    for word in words:
        if line and len(line) + len(word) + 2 > width:
            yield f"{line},"
            line = ""
        line = f"{line}, {word}" if line else word
    if line:
        yield line


def _passive(upstream: UpstreamSpec, relieved: bool) -> str:
    """What failed requests do (nginx: max_fails, fail_timeout); `relieved`: passes of a check end it."""
    ended = "; a pass of its checks ends that, but not twice within that time" if relieved else ""
    primaries = [peer for peer in (*upstream.peers, *upstream.lines) if not peer.backup]
    if len(upstream.peers) == 1 and not upstream.lines:
        return "Failed requests: its only peer is never left out for them."
    rules = {(peer.max_fails, peer.fail_timeout) for peer in (*upstream.peers, *upstream.lines)}
    if len(rules) > 1 or not primaries:
        return f"Failed requests: a peer is left out for a while by its own max_fails and fail_timeout{ended}."
    ((most, seconds),) = rules
    if not most or not seconds:
        return "Failed requests: no peer is left out for them (max_fails=0)."
    return (
        f"Failed requests: {count_of(most, 'failure')} within {time_of(seconds)} "
        f"{'leaves' if most == 1 else 'leave'} a peer out for {time_of(seconds)}{ended}."
    )


def _policy(upstream: UpstreamSpec) -> str:
    """What happens when the checks find too few peers up (`all_down`)."""
    if upstream.all_down == FAIL:
        if upstream.name.startswith(STREAM):
            return "All peers down: sessions end at once (all_down fail)."
        return "All peers down: requests get a 502 (all_down fail)."
    if upstream.all_down == PANIC:
        return f"Less than {upstream.panic} % of the peers up: all get requests (all_down panic={upstream.panic}%)."
    return "All peers down: all get requests (all_down serve_all)."


def _told(target: NotifySpec) -> str:
    kind = "" if target.url else "the command " if target.command else "the Python function "
    return f"{kind}{target.title}" + (f", once it lasts {time_of(target.debounce)}" if target.debounce else "")


# Checks


def _check(spec: CheckSpec, peers: Sequence[PeerSpec], named: bool) -> Iterator[tuple[str, str]]:
    probed = [peer for peer in peers if spec.revives_down or not peer.down]
    yield "asks", _ASKS.get(spec.type, _ask_by_name)(spec)
    yield "whom", _whom(spec, probed, named)
    first, *others = _PASSES.get(spec.type, _passes_by_name)(spec)
    yield "passes", f"when {first}"
    yield from (("", f"and {rule}") for rule in others)
    yield "when", _when(spec)
    yield "timeout", _patience(spec)
    # One slow peer delays lua-resty's whole round, so that nothing is certain there.
    until = "about {}" if spec.dialect == RESTY else "{} at the latest"
    failures, passes = count_of(spec.fall, "failure"), count_of(spec.rise, "pass")
    silent = until.format(time_of(detection(spec, len(probed))))
    yield "down", f"after {failures}{_row(spec.fall)}, {silent} after a peer falls silent"
    yield (
        "up",
        f"after {passes}{_row(spec.rise)}, {until.format(time_of(recovery(spec, len(probed))))} after it answers again",
    )
    yield "begins", _beginning(spec)
    sockets = [peer.name for peer in probed if isinstance(peer.address, str)]
    if spec.port and sockets:
        yield "but", f"{', '.join(sockets)} has no port {spec.port}, and is asked itself"
    down = [peer.name for peer in peers if peer.down]
    if down:
        what = "turned up all the same when it passes" if spec.revives_down else "not probed"
        yield "but", f"{', '.join(down)} {'is' if len(down) == 1 else 'are'} marked down, and {what}"


def _whom(spec: CheckSpec, probed: Sequence[PeerSpec], named: bool) -> str:
    if not probed and not named:
        return "nobody"
    peers = "the peer" if len(probed) == 1 else f"each of {len(probed)} peers"
    if named:
        peers = f"{peers} and those behind names" if probed else "each of the peers behind names"
    only_sockets = all(isinstance(peer.address, str) for peer in probed)
    port = "" if not spec.port or only_sockets else f"port {spec.port} of "
    kept = f", on connections kept for {time_of(spec.keepalive_time)}" if spec.keepalive_time else ""
    if spec.keepalive_time and spec.keepalive_requests:
        kept += f" or {count_of(spec.keepalive_requests, 'probe')}"
    return f"{port}{peers}{kept}"


def _ask_http(spec: CheckSpec) -> str:
    lines = spec.request.partition(b"\r\n\r\n")[0].split(b"\r\n")
    line = lines[0].rpartition(b" HTTP/")[0] or lines[0]
    said = _cut(line.decode("latin-1")) if line else "the default request"
    host = next((value for line in lines[1:] for value in (_field(line, b"host"),) if value), "")
    text = f"{said}, Host: {host}" if host else said
    if spec.type == "https":
        text += f", over TLS ({_tls(spec)})"
    return text


def _field(line: bytes, name: bytes) -> str:
    known, _, value = line.partition(b":")
    return _cut(value.strip().decode("latin-1")) if known.strip().lower() == name else ""


def _tls(spec: CheckSpec) -> str:
    parts = [f"server name {spec.host}" if spec.host else "no server name"]
    if spec.verify:
        parts.append(f"certificate verified against {spec.ca or 'the authorities of the system'}")
    else:
        parts.append("certificate not verified")
    if spec.certificate:
        parts.append(f"with the certificate {spec.certificate}")
    return ", ".join(parts)


def _ask_stream(spec: CheckSpec) -> str:
    text = "a connection" if spec.type == "tcp" else f"a TLS connection ({_tls(spec)})"
    return f"{text}, over which {_quoted(spec.request)} is sent" if spec.request else text


def _ask_udp(spec: CheckSpec) -> str:
    return f"a datagram of {_quoted(spec.request)}"


def _ask_grpc(spec: CheckSpec) -> str:
    return f"grpc.health.v1.Health/Check for {f'the service {spec.service}' if spec.service else 'the whole server'}"


def _ask_command(spec: CheckSpec) -> str:
    return f"the command {_cut(shlex.join(spec.command))}"


def _ask_function(spec: CheckSpec) -> str:
    return f"the Python function {spec.function}"


def _ask_by_name(spec: CheckSpec) -> str:
    text = _PROTOCOLS.get(spec.type, f"the {spec.type} probe")
    if spec.host:
        text += f" for {spec.host}"
    return f"{text}, {', '.join(f'{name} {value}' for name, value in spec.params)}" if spec.params else text


_PROTOCOLS: Final = {
    "ajp": "AJP's CPing",
    "fastcgi": "a FastCGI request",
    "mysql": "MySQL's greeting",
    "postgres": "PostgreSQL's StartupMessage",
    "redis": "Redis' PING",
    "ssl_hello": "a TLS ClientHello",
}


_ASKS: Final[dict[str, Callable[[CheckSpec], str]]] = {
    "http": _ask_http,
    "https": _ask_http,
    "tcp": _ask_stream,
    "tls": _ask_stream,
    "udp": _ask_udp,
    "grpc": _ask_grpc,
    "exec": _ask_command,
    "python": _ask_function,
}


def _passes_http(spec: CheckSpec) -> list[str]:
    if spec.dialect == RESTY:
        if not spec.statuses:
            return ["any status line comes"]
        return [f"the status is {' or '.join(str(status) for status in spec.statuses)}"]
    match = spec.match or MatchSpec(words="200-399", statuses=((200, 399),))
    rules = [f"the status is {match.words}"] if match.statuses else []
    rules += [_header(rule) for rule in match.headers]
    if match.body:
        verb = "does not match" if match.body_not else "matches"
        rules.append(f"the body (its first 256 KB) {verb} {_cut(match.body)}")
    rules += [f"{text} is neither empty nor 0" for text in match.require]
    return rules or ["any answer comes"]


def _header(rule: HeaderRule) -> str:
    return f"the header {rule.name} {_OPERATORS[rule.operator]} {_cut(rule.value)}".rstrip()


_OPERATORS: Final = {
    "": "is there",
    "!": "is not there",
    "=": "is",
    "!=": "is there, but not",
    "~": "matches",
    "!~": "is there, and does not match",
}


def _passes_stream(spec: CheckSpec) -> list[str]:
    if spec.expect:
        wanted = compiled(spec.expect).wanted
        return [f"what comes back matches {wanted[2:]}" if wanted.startswith("~") else f"{wanted} comes back"]
    if spec.type == "udp":
        return ["no ICMP error comes back before something else, or in all that time"]
    if spec.request:
        return ["anything comes back"]
    return ["it is accepted" if spec.type == "tcp" else "the TLS handshake is done"]


def _passes_grpc(spec: CheckSpec) -> list[str]:
    if spec.grpc_status >= 0:
        return [f"the gRPC status is {spec.grpc_status}"]
    return ["the answer is SERVING"]


def _passes_database(spec: CheckSpec) -> list[str]:
    named = "user" in dict(spec.params)
    if spec.type == "mysql":
        return ["the user is let in" if named else "the greeting comes, and the server is neither full nor ending"]
    return [f"the server asks for a password, or lets in and is ready{'' if named else ', or does not know the user'}"]


def _passes_by_name(spec: CheckSpec) -> list[str]:
    return [_SUCCESS.get(spec.type, "that succeeds")]


_SUCCESS: Final = {
    "ajp": "CPong comes",
    "exec": "it ends with status 0",
    "python": "it returns None or True",
    "redis": "PONG comes",
    "ssl_hello": "a ServerHello comes",
}


_PASSES: Final[dict[str, Callable[[CheckSpec], list[str]]]] = {
    "http": _passes_http,
    "https": _passes_http,
    "tcp": _passes_stream,
    "tls": _passes_stream,
    "udp": _passes_stream,
    "grpc": _passes_grpc,
    "mysql": _passes_database,
    "postgres": _passes_database,
    "fastcgi": _passes_http,
}


# When


def _when(spec: CheckSpec) -> str:
    if spec.dialect == RESTY:
        return f"in rounds with a pause of {time_of(spec.interval)}, {_slices(spec.concurrency)}"
    text = f"every {time_of(spec.interval)}, "
    if spec.jitter < 0:
        text += "at once at the start, then spread evenly"
    else:
        text += f"at random up to {time_of(spec.jitter)} later" if spec.jitter else "all peers at the same time"
    if spec.fast_interval and spec.rise + spec.fall > 2:
        text += f"; every {time_of(spec.fast_interval)} while between up and down"
    if spec.down_interval:
        text += f"; every {time_of(spec.down_interval)} while down"
    most = spec.concurrency or AT_ONCE.get(spec.type, 0)
    if most:
        text += f"; at most {count_of(most, 'peer')} at once"
    return text


def _slices(concurrency: int) -> str:
    return "one peer after the other" if concurrency <= 1 else f"at most {concurrency} peers at once, backups last"


def _patience(spec: CheckSpec) -> str:
    if spec.dialect == RESTY:
        return f"{time_of(spec.timeout)} each for connecting, sending and receiving"
    return f"{time_of(spec.timeout)} for the whole probe"


def detection(spec: CheckSpec, probed: int = 1) -> float:
    """Seconds from a peer's death right after a probe to its `fall`-th failure, each a time-out; all `probed` ones may
    have died."""
    if spec.dialect == RESTY:
        return spec.fall * (max(spec.interval, 0.002) + spec.timeout)
    spread = max(spec.jitter, 0.0)
    first, further = _queue(spec, probed)
    between = max((spec.fast_interval or spec.interval) + spread, spec.timeout) + further
    return spec.interval + spread + first + (spec.fall - 1) * between + spec.timeout


def recovery(spec: CheckSpec, probed: int = 1) -> float:
    """Seconds from a peer's return, right after a probe began that still times out, to its `rise`-th pass; all others
    of the `probed` ones may be dead."""
    if spec.dialect == RESTY:
        return spec.timeout + spec.rise * max(spec.interval, 0.002)
    spread = max(spec.jitter, 0.0)
    _, further = _queue(spec, probed)
    first = max((spec.down_interval or spec.interval) + spread, spec.timeout) + further
    return first + (spec.rise - 1) * ((spec.fast_interval or spec.interval) + spread)


def _queue(spec: CheckSpec, probed: int) -> tuple[float, float]:
    """Seconds that a probe waits for others (check/gate.py) if these all time out: the first time, and then."""
    most = spec.concurrency or AT_ONCE.get(spec.type, 0)
    if not most:
        return 0.0, 0.0
    # Those that timed out have half of the places, a quarter if others want them.
    slow = -(-most // (4 if probed > most else 2))
    first, further = ((-(-probed // places) - 1) * spec.timeout for places in (most, slow))
    # Who began that late is due again by a multiple of the interval.
    return first, further + spec.interval if further else 0.0


def _beginning(spec: CheckSpec) -> str:
    if spec.initial == "down":
        return f"down: no requests before {count_of(spec.rise, 'pass')}{_row(spec.rise)}"
    if spec.initial == "checking":
        also = ", or one that the state file tells of" if spec.persistent else ""
        return f"checking: no requests before the first pass{also}; what is known of a peer is kept over a reload"
    return "up: requests from the start; what is known of a peer is kept over a reload"


# Words


def time_of(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:g} ms"
    for unit, name in ((86400, "d"), (3600, "h")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{round(seconds, 3):g} s"


def count_of(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    return f"{number} {what}{'es' if what.endswith('s') else 's'}"


def _row(number: int) -> str:
    return " in a row" if number > 1 else ""


def _quoted(data: bytes) -> str:
    return f'"{_cut(data.decode("latin-1"))}"'


def _cut(text: str) -> str:
    """`text` in one line, and not too long a one."""
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
