"""`python -m soak`: load, reloads and faults, then what became of memory, descriptors and latency; 1 when one grows."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle
from pathlib import Path

from bench.backend import backend
from soak.load import Done, Load, Ports
from soak.plot import Panel, draw
from soak.sample import ROLES, Sample, Trend, take, trend
from upwell.contrib.processes import UPWELL, Balancer, NotReached, await_condition, children, free_ports
from upwell.contrib.traffic import fetch
from upwell.version import VERSION, data_plane

RESULTS = Path(__file__).parent.parent / "bench" / "results"
WORKERS = 2
_PROCESSES = WORKERS + 2
SHORTEST = 60.0
"""Seconds below which nobody can say what grows."""
_STORMY = 0.4
"""The part of the time in which processes of upwell are replaced; the rest shows what those that stay become."""
_STOPPED = 2.0
"""Seconds for which a peer stands still."""
_MB = 1 << 20
_STEADY = (0.05, 1.0)  # memory: parts of itself, MB
_DESCRIPTORS = (0.1, 5.0)
_LATENCY = (0.5, 3.0)  # ms; a machine has other things to do


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (600)")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second (100)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds from one fault to the next (10)")
    parser.add_argument("--sample", type=float, default=1.0, help="seconds from one look to the next (1)")
    parser.add_argument("--save", action="store_true", help="write the report and the plot below bench/results")
    chosen = parser.parse_args(argv)
    if not 1 <= chosen.seconds <= 30 * 86400 or not 1 <= chosen.rate <= 10_000:
        parser.error("--seconds is between 1 and a month, --rate between 1 and 10000")
    if not chosen.every >= 0.2 or not chosen.sample >= 0.05:
        parser.error("--every is at least 0.2, --sample at least 0.05")
    return chosen


def configuration(ports: Ports, peers: Sequence[int]) -> str:
    """The nginx.conf of the run."""
    servers = " ".join(f"server 127.0.0.1:{port};" for port in peers)
    return f"""
worker_processes {WORKERS};
error_log logs/error.log notice;
worker_shutdown_timeout 10s;
events {{ worker_connections 4096; }}
http {{
    access_log logs/access.log;
    keepalive_requests 1000000;
    keepalive_min_timeout 5s;
    client_max_body_size 0;
    lua_shared_dict counted 1m;
    upstream app {{ {servers} keepalive 16; }}
    proxy_http_version 1.1;
    proxy_connect_timeout 2s;
    proxy_read_timeout 5s;
    server {{
        listen 127.0.0.1:{ports.http};
        location / {{
            proxy_pass http://app;
            proxy_set_header Connection "";
            health_check interval=500ms fails=2 passes=1;
        }}
        location = /echo {{
            proxy_pass http://app;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
        location = /lua {{
            content_by_lua_block {{
                local text = tostring(ngx.shared.counted:incr("all", 1, 0))
                ngx.header["Content-Length"] = #text
                ngx.print(text)
            }}
        }}
        location = /upwell {{ upwell_status; }}
    }}
}}
stream {{
    upstream app {{ {servers} }}
    server {{ listen 127.0.0.1:{ports.stream}; proxy_pass app; proxy_connect_timeout 2s; proxy_timeout 30s; }}
}}
"""


@dataclass
class Course:
    """All that is known of a run."""

    seconds: float
    samples: list[Sample] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    """`began` counts from the begin of the run."""
    calm: float = 0.0
    """From when on no process of upwell was replaced."""


class Run:
    """One upwell, two peers, and what is done to them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        http, stream, one, two = free_ports(4)
        self.ports = Ports(http, stream)
        self.peers = [
            stack.enter_context(backend(folder / f"peer{number}", [port], None))
            for number, port in enumerate((one, two))
        ]
        text = configuration(self.ports, (one, two))
        self.upwell = stack.enter_context(Balancer(folder / "prefix", text, [http, stream], UPWELL))
        self._standing: Balancer | None = None
        stack.callback(self.end)

    def children(self, role: str) -> list[int]:
        found = []
        for pid in children(self.upwell.pid):
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == f"upwell: {role}":
                    found.append(pid)
            except OSError:
                continue
        return found

    def reload(self) -> None:
        self.upwell.send(signal.SIGHUP)

    def reopen(self) -> None:
        self.upwell.send(signal.SIGUSR1)

    def kill_worker(self) -> None:
        self._kill("worker")

    def kill_checker(self) -> None:
        self._kill("checker")

    def _kill(self, role: str) -> None:
        for pid in self.children(role)[:1]:  # in the middle of a reload there may be none
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stand(self) -> None:
        self._standing = self.peers[0]
        self._standing.send(signal.SIGSTOP)

    def go_on(self) -> None:
        if self._standing is not None:
            self._standing.send(signal.SIGCONT)
            self._standing = None

    def restart_peer(self) -> None:
        self.peers[1].stop()
        self.peers[1].start()

    def end(self) -> None:
        self.go_on()


_STORM: Sequence[tuple[str, Callable[[Run], None]]] = (
    ("reload", Run.reload),
    ("a peer stands still", Run.stand),
    ("a worker is killed", Run.kill_worker),
    ("a peer ends and starts", Run.restart_peer),
    ("the checker is killed", Run.kill_checker),
    ("logs are reopened", Run.reopen),
)
_CALM: Sequence[tuple[str, Callable[[Run], None]]] = (
    ("a peer stands still", Run.stand),
    ("a peer ends and starts", Run.restart_peer),
    ("logs are reopened", Run.reopen),
)


def soak(chosen: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> Course:
    """Run it. Raises NotReached when upwell does not come up, or goes."""
    course = Course(chosen.seconds)
    with ExitStack() as stack:
        run = Run(folder, stack)
        await_condition(lambda: len(children(run.upwell.pid)) == _PROCESSES - 1, "all processes", 20)
        load = stack.enter_context(Load(run.ports, chosen.rate))
        begin = time.monotonic()
        storm, calm = cycle(_STORM), cycle(_CALM)
        next_fault, next_sample, released, said = chosen.every, 0.0, 0.0, 0.0
        course.calm = _STORMY * chosen.seconds
        while (now := time.monotonic() - begin) < chosen.seconds:
            if not run.upwell.alive:
                raise NotReached(f"upwell ended\n{run.upwell.story()}")
            if now >= next_sample:
                course.samples.append(take(run.upwell.pid, now))
                next_sample = now + chosen.sample
            if released and now >= released:
                run.go_on()
                released = 0.0
            if now >= next_fault:
                stormy = now < course.calm
                name, do = next(storm if stormy else calm)
                course.marks.append((now, name))
                do(run)
                released = now + min(_STOPPED, chosen.every / 2) if name == "a peer stands still" else released
                if stormy:
                    course.calm = max(course.calm, now + chosen.every)  # what is replaced has come up by then
                next_fault = now + chosen.every
            if now - said >= 30:
                said = now
                say(f"{now:.0f} of {chosen.seconds:g} s, {len(load.done):,} requests")
            time.sleep(0.02)
        run.go_on()
        status, _ = fetch(run.ports.http, "/upwell?format=json")
        if status != 200:
            raise NotReached(f"the status page answers {status}\n{run.upwell.story()}")
        load.end()
        course.done = [Done(one.kind, one.began - begin, one.seconds, one.failure) for one in load.done]
    return course


def trends(course: Course) -> list[Trend]:
    """What grew and what did not: the master's from the begin, others' since they were left alone."""
    if course.seconds < SHORTEST:
        return []
    whole = [one for one in course.samples if one.processes == _PROCESSES]
    found: list[Trend | None] = []
    for role in ROLES:
        counted = whole if role == "master" else [one for one in whole if one.at >= course.calm]
        held = [(one.at, one.memory[role] / _MB) for one in counted if role in one.memory]
        files = [(one.at, one.descriptors[role]) for one in counted if role in one.descriptors]
        found.append(trend(f"memory of a {role}", "MB", held, *_STEADY))
        found.append(trend(f"descriptors of a {role}", "open", files, *_DESCRIPTORS))
    found.append(trend("median time of a small request", "ms", latency(course, 0.5), *_LATENCY))
    return [one for one in found if one is not None]


def latency(course: Course, part: float) -> list[tuple[float, float]]:
    """A quantile of the milliseconds of small requests, for each hundredth of the run."""
    slots: dict[int, list[float]] = {}
    wide = max(course.seconds / 100, 1.0)
    for one in course.done:
        if one.kind == "small" and not one.failure:
            slots.setdefault(int(one.began / wide), []).append(one.seconds * 1e3)
    return [(slot * wide, sorted(each)[int(part * (len(each) - 1))]) for slot, each in sorted(slots.items())]


def picture(course: Course, title: str) -> str:
    """The course as SVG."""
    held = [
        (role, [(one.at, one.memory[role] / _MB) for one in course.samples if role in one.memory]) for role in ROLES
    ]
    files = [
        (role, [(one.at, one.descriptors[role]) for one in course.samples if role in one.descriptors]) for role in ROLES
    ]
    panels = [
        Panel("Memory of one process, MB (PSS)", held),
        Panel("Open descriptors of one process", files),
        Panel("Time of a small request, ms", [("median", latency(course, 0.5)), ("99 of 100", latency(course, 0.99))]),
        Panel("Processes", [("of upwell", [(one.at, float(one.processes)) for one in course.samples])]),
    ]
    return draw(title, panels, course.seconds, course.marks)


def report(course: Course, facts: dict[str, str], plot: str = "") -> str:
    """The run in words, as Markdown."""
    lines = ["# Soak", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    if plot:
        lines += [f"![the course]({plot})", ""]
    lines += [f"- {one}" for one in trends(course)]
    lines += ["", "| kind | done | failed | why |", "| --- | ---: | ---: | --- |"]
    for kind in dict.fromkeys(one.kind for one in course.done):
        each = [one for one in course.done if one.kind == kind]
        why = Counter(one.failure for one in each if one.failure)
        words = ", ".join(f"{reason} {count}" for reason, count in why.most_common())
        lines.append(f"| {kind} | {len(each):,} | {sum(why.values())} | {words} |")
    after = Counter(_before(course, one) for one in course.done if one.failure)
    if after:
        lines += ["", "Failed after: " + ", ".join(f"{what}: {count}" for what, count in after.most_common()) + "."]
    events = Counter(what for _, what in course.marks)
    lines += ["", "Done to it: " + ", ".join(f"{what} ({count})" for what, count in events.items()) + ".", ""]
    return "\n".join(lines)


def _before(course: Course, one: Done) -> str:
    """What was done last before a request failed, and how long before."""
    ended = one.began + one.seconds
    marks = [(at, what) for at, what in course.marks if at <= ended]
    if not marks:
        return "nothing yet"
    at, what = marks[-1]
    return f"{what} (within a second)" if ended - at < 1 else f"{what} (later)"


def main(argv: list[str]) -> int:
    """Run what `argv` chooses."""
    chosen = _arguments(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started ends with it
    with tempfile.TemporaryDirectory(prefix="upwell-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            course = soak(chosen, folder, say)
        except NotReached as error:
            say(str(error))
            return 2
    today = datetime.date.today().isoformat()
    facts = {
        "date": today,
        "command": shlex.join(["python", "-m", "soak", *argv]),
        "upwell": f"{VERSION}, data plane {data_plane()}",
        "machine": f"{os.cpu_count()} processors, Python {sys.version.split()[0]}",
        "load": f"{chosen.rate:g} requests a second, a fault every {chosen.every:g} s; "
        f"from {course.calm:.0f} s on no process of upwell is replaced",
    }
    found = trends(course)
    print(report(course, facts))
    if chosen.save:
        RESULTS.mkdir(exist_ok=True)
        stem = RESULTS / f"{today}-soak"
        Path(f"{stem}.svg").write_text(picture(course, f"upwell {VERSION}, {chosen.seconds:g} s, {chosen.rate:g}/s"))
        Path(f"{stem}.md").write_text(report(course, facts, f"{stem.name}.svg"))
        Path(f"{stem}.json").write_text(json.dumps(_as_data(course, facts)) + "\n")
        say(f"saved {stem}.svg, .md and .json")
    if not found:
        say("too short to say whether anything grows")
        return 0
    growing = [one for one in found if not one.flat]
    say("all flat" if not growing else f"not flat: {'; '.join(map(str, growing))}")
    return 1 if growing else 0


def _as_data(course: Course, facts: dict[str, str]) -> dict[str, object]:
    return {
        "facts": facts,
        "trends": [asdict(one) for one in trends(course)],
        "events": course.marks,
        "samples": [asdict(one) for one in course.samples],
        "latency": {"median": latency(course, 0.5), "p99": latency(course, 0.99)},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
