"""`upwell demo`: the guide's system in one command, with real apps, real traffic and the guide's two situations.

Knows the guide (which port is whose), its status page and how to show a table. Everything else it does as a stranger
would: it runs the `upwell` command, asks over HTTP and stops processes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from upwell.contrib.guide import APP_PORTS, FRONT_PORTS, UPSTREAMS, guide_text, with_ports
from upwell.contrib.processes import App, Balancer, NotReached, free_ports, peer_states
from upwell.contrib.traffic import Traffic, fetch

if TYPE_CHECKING:
    from rich.table import Table

SITUATIONS = {"Situation 1": (81, 83), "Situation 2": (82, 83)}
"""The guide's situations: which of its web apps are stopped, by the guide's own ports."""

_LOOK = 0.2  # seconds from one look at the status page to the next
_PATIENCE = 30.0  # seconds for a change on the page; the guide's slowest takes three probes, 3 s apart
_SETTLED = 2.0  # seconds of traffic watched in each settled state


class Stage:
    """The running system: four apps, the balancer before them, a client on each of its servers."""

    def __init__(self, prefix: Path) -> None:
        ports = free_ports(len(FRONT_PORTS) + len(APP_PORTS))
        self.ports = dict(zip((*FRONT_PORTS, *APP_PORTS), ports, strict=True))
        self.apps = {port: App(self.ports[port], f"app-{port}") for port in APP_PORTS}
        self.balancer = Balancer(
            prefix, with_ports(guide_text(), self.ports), ports=[self.ports[port] for port in FRONT_PORTS]
        )
        self.traffic = {port: Traffic(self.ports[port]) for port in FRONT_PORTS}
        self.up: dict[int, bool] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start the apps, the balancer and the clients, in this order; whatever happens, end them all."""
        with contextlib.ExitStack() as started:
            for app in self.apps.values():
                started.enter_context(app)
            started.enter_context(self.balancer)
            for traffic in self.traffic.values():
                started.enter_context(traffic)
            yield

    def url(self, port: int, path: str = "/") -> str:
        """The address at which the guide's `port` is found in this run."""
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def look(self) -> None:
        """Read the status page into `up`: the guide's app port -> whether its peer is up."""
        try:
            status, page = fetch(self.ports[80], "/status")
        except (OSError, http.client.HTTPException) as error:
            raise NotReached(f"the status page cannot be had: {error}\n{self.balancer.story()}") from None
        if status != 200:
            raise NotReached(f"the status page answered {status}:\n{page}\n{self.balancer.story()}")
        states = peer_states(page)
        self.up = {port: states[f"127.0.0.1:{self.ports[port]}"] for port in APP_PORTS}

    def answers(self, port: int) -> int:
        """How many requests of the clients the app of the guide's `port` has answered."""
        return sum(traffic.answered[self.apps[port].name] for traffic in self.traffic.values())


class View(Protocol):
    """Where the demo shows itself."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def show(self, stage: Stage, now: str) -> None:
        """The state of the peers while `now` happens; called several times a second."""

    def end(self) -> None:
        """No more states; lines may follow."""


class Lines:
    """For pipes and files: lines only, and a line for each peer whose state on the page changes."""

    def __init__(self) -> None:
        self._shown: dict[int, bool] = {}

    def say(self, line: str) -> None:
        print(line, flush=True)

    def show(self, stage: Stage, now: str) -> None:
        # What happens now is said by the lines between; the states are said when they change.
        for port, up in stage.up.items():
            if self._shown.get(port) is not up:
                self._shown[port] = up
                print(
                    f"    page: 127.0.0.1:{stage.ports[port]} (the guide's {port}) {'UP' if up else 'DOWN'}", flush=True
                )

    def end(self) -> None:
        """Nothing is kept open."""


class LiveTable:
    """For a terminal: a table that is drawn again in its place, lines that stay above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(highlight=False), auto_refresh=False)
        self._live.start()

    def say(self, line: str) -> None:
        self._live.console.print(line)

    def show(self, stage: Stage, now: str) -> None:
        self._live.update(peer_table(stage, now), refresh=True)

    def end(self) -> None:
        self._live.stop()


def peer_table(stage: Stage, caption: str) -> Table:
    """The peers with the process behind each, the page's word on it, and the requests its app answered."""
    from rich.table import Table

    table = Table(caption=caption, caption_justify="left", min_width=72)
    for heading in ("upstream", "peer", "web app", "its process", "/status says"):
        table.add_column(heading)
    table.add_column("answered", justify="right")
    for upstream, ports in UPSTREAMS.items():
        for port in ports:
            app = stage.apps[port]
            state = {True: "[green]UP", False: "[bold red]DOWN", None: "[dim]?"}[stage.up.get(port)]
            process = f"pid {app.pid}" if app.alive else "[red]stopped"
            table.add_row(
                upstream,
                f"127.0.0.1:{app.port}",
                app.name,
                process,
                state,
                f"{stage.answers(port):,}",
                end_section=port in (82, 84),
            )
    return table


def _await(stage: Stage, view: View, now: str, reached: Callable[[], bool]) -> float:
    """Keep looking and showing until `reached()`; the seconds it took. Raises NotReached when it takes too long."""
    started = time.monotonic()
    while True:
        stage.look()
        view.show(stage, now)
        taken = time.monotonic() - started
        if reached():
            return taken
        if taken > _PATIENCE:
            raise NotReached(f"not within {_PATIENCE:g} s: {now}\n{stage.balancer.story()}")
        time.sleep(_LOOK)


def _await_down(stage: Stage, view: View, now: str, down: tuple[int, ...]) -> float:
    """Wait until the page shows exactly the apps of `down` DOWN; the seconds it took."""
    expected = {port: port not in down for port in APP_PORTS}
    return _await(stage, view, now, lambda: stage.up == expected)


def _settle(stage: Stage, view: View, now: str) -> None:
    until = time.monotonic() + _SETTLED
    _await(stage, view, now, lambda: time.monotonic() > until)


def play(stage: Stage, view: View) -> None:
    """The guide's two situations, each there and back, under traffic."""
    _await_down(stage, view, "all four apps are asked", ())
    _settle(stage, view, "all four apps are up")
    for title, ports in SITUATIONS.items():
        names = " and ".join(stage.apps[port].name for port in ports)
        view.say(f"{title}: {names} stop.")
        for port in ports:
            stage.apps[port].stop()
        taken = _await_down(stage, view, f"{title}: {names} stopped; three probes in a row have to fail", ports)
        view.say(f"  /status shows them DOWN after {taken:.1f} s; the other two carry the traffic.")
        _settle(stage, view, f"{title}: {names} are DOWN")
        view.say(f"  {names} start again.")
        for port in ports:
            stage.apps[port].start()
        taken = _await_down(stage, view, f"{title}: {names} started; two probes in a row have to pass", ())
        view.say(f"  /status shows them UP after {taken:.1f} s.")
        _settle(stage, view, "all four apps are up")


def _tell_addresses(stage: Stage, view: View) -> None:
    view.say("The guide's nginx.conf runs on upwell, with other ports and no other change:")
    for upstream, front in zip(UPSTREAMS, FRONT_PORTS, strict=True):
        view.say(f"  {stage.url(front):<32} the guide's port {front}, proxies {upstream}")
    view.say(f"  {stage.url(80, '/status'):<32} status page")
    view.say(f"  {stage.url(80, '/metrics'):<32} the same for Prometheus")


def _stay(stage: Stage, view: View) -> None:
    """Go on until Ctrl-C, with what a person needs to stop and start the apps."""
    with contextlib.suppress(KeyboardInterrupt):  # from the first word on that invites it
        view.say("Ctrl-C ends it. Until then, stop an app with `kill PID` and start it again with:")
        for app in stage.apps.values():
            view.say(f"  {app.name} (pid {app.pid}): {' '.join(app.command)} &")
        view.say(f"  error log: {stage.balancer.prefix / 'logs' / 'error.log'}")
        while stage.balancer.alive:
            stage.look()
            view.show(stage, "Ctrl-C ends it")
            time.sleep(_LOOK)


def sum_up(stage: Stage, view: View) -> int:
    """Say what was asked, who answered and what was lost; the exit status."""
    lost = [sentence for traffic in stage.traffic.values() for sentence in traffic.lost]
    asked = sum(traffic.asked for traffic in stage.traffic.values())
    view.say("")
    view.say(f"Asked: {asked:,} requests.")
    for upstream, front in zip(UPSTREAMS, FRONT_PORTS, strict=True):
        answered = ", ".join(f"{name} {count:,}" for name, count in sorted(stage.traffic[front].answered.items()))
        view.say(f"  {upstream}: {stage.traffic[front].asked:,}, answered by {answered}")
    if not lost:
        view.say("Lost: none. While apps stopped and came back, every request was answered.")
        return 0
    view.say(f"Lost: {len(lost):,} requests, the first ones:")
    for sentence in lost[:10]:
        view.say(f"  {sentence}")
    return 1


def _run(keep: bool, view: View) -> int:
    with tempfile.TemporaryDirectory(prefix="upwell-demo-") as prefix:
        stage = Stage(Path(prefix))
        try:
            with stage.running():
                _tell_addresses(stage, view)
                play(stage, view)
                if keep:
                    _stay(stage, view)
                for traffic in stage.traffic.values():
                    traffic.stop()
                view.show(stage, "the end")
                view.end()
        except NotReached as error:
            view.say(f"The demo failed: {error}")
            return 1
        return sum_up(stage, view)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Run the demo with what follows `upwell demo`; 1 when a request was lost or a state not reached, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="upwell demo",
        description="Run the guide's system: four web apps, upwell before them, and its two situations.",
    )
    parser.add_argument("--keep", action="store_true", help="go on until Ctrl-C, so that you can stop apps yourself")
    keep = parser.parse_args(argv).keep
    # Looking up a host imports this codec. Left to the threads, an interrupt in the middle of it can leave the import
    # locked, and the end would wait for a thread that waits for the lock.
    "localhost".encode("idna")
    # Being asked to end must not leave processes behind: it unwinds like Ctrl-C.
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    view: View = LiveTable() if sys.stdout.isatty() else Lines()
    try:
        return _run(keep, view)
    except BrokenPipeError:
        # Whoever read the lines has left (`upwell demo | head`): the interpreter must not stumble over it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the apps and upwell are stopped.", file=sys.stderr)
        return 130
    finally:
        view.end()
        for number, handler in before.items():
            signal.signal(number, handler)
