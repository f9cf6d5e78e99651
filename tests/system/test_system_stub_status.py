"""`stub_status` counts over all workers, and over reloads."""

from __future__ import annotations

import re
import signal
from contextlib import ExitStack

from tests.system.conftest import StartBalancer
from tests.system.wire import Client, get
from upwell.contrib.processes import await_condition, free_ports

_NUMBERS = re.compile(
    rb"Active connections: (\d+) \nserver accepts handled requests\n (\d+) (\d+) (\d+) \n"
    rb"Reading: (\d+) Writing: (\d+) Waiting: (\d+) \n"
)
_RESTING = 6
_GAUGES = (0, 4, 5, 6)


def test_all_workers_are_counted_and_over_a_reload(start: StartBalancer) -> None:
    (port,) = free_ports(1)
    configuration = f"""
worker_processes 2;
events {{ }}
http {{ server {{ listen 127.0.0.1:{port}; location = /status {{ stub_status; }}
    location / {{ return 204; }} }} }}
"""
    balancer = start(configuration, [port])

    def status() -> list[int]:
        with Client(port) as client:
            found = _NUMBERS.fullmatch(client.ask(get("/status")).body)
        assert found is not None
        return [int(number) for number in found.groups()]

    def gauges(numbers: list[int]) -> list[int]:
        return [numbers[place] for place in _GAUGES]

    with ExitStack() as stack:
        for _ in range(_RESTING):
            client = stack.enter_context(Client(port))
            assert client.ask(get("/")).status == 204
        wanted = [_RESTING + 1, 0, 1, _RESTING]
        await_condition(lambda: gauges(status()) == wanted, "those that rest do", seconds=20)
        _, accepted, handled, requests, *_ = status()
        assert accepted == handled >= requests > _RESTING
        serving = set(balancer.workers)
        balancer.configure(configuration.replace("return 204", "return 200"))  # else nobody has to be replaced
        balancer.send(signal.SIGHUP)
        await_condition(lambda: not serving & set(balancer.workers), "new processes only", seconds=20)
    await_condition(lambda: status()[0] == 1, "nobody else is connected", seconds=20)
    _, accepted_after, handled_after, requests_after, *_ = status()
    assert accepted_after == handled_after > accepted
    assert requests_after > requests
