"""The status page in a real browser: it shows how things are, follows what changes, and says when it cannot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.system.conftest import StartBalancer
from tests.system.wire import Origin, response
from upwell.contrib.processes import free_ports

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
_MILLISECONDS = 20_000
FINE = response(b"fine")
BROKEN = response(b"sorry", status="503 Service Unavailable")

pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium (apt-get install chromium-headless-shell)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


def _configuration(front: int, peer: int) -> str:
    return f"""
events {{}}
http {{
    upstream app {{ server 127.0.0.1:{peer}; }}
    server {{
        listen 127.0.0.1:{front};
        location / {{ proxy_pass http://app; health_check interval=100ms uri=/health; }}
        location = /status {{ upwell_status; }}
    }}
}}
"""


def test_the_page_follows_what_changes_and_says_when_it_cannot(start: StartBalancer, browser: Browser) -> None:
    (front,) = free_ports(1)
    with Origin(FINE) as origin:
        balancer = start(_configuration(front, origin.port), [front])
        page = browser.new_page()
        page.set_default_timeout(_MILLISECONDS)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{front}/status")
        peer = page.locator("tbody tr")
        expect(page.locator("#live")).to_have_text("live", timeout=_MILLISECONDS)
        expect(peer).to_contain_text("passed with status 200", timeout=_MILLISECONDS)
        # The page's own style is let in by its policy, or this would be black.
        assert peer.locator(".up").first.evaluate("one => getComputedStyle(one).color") == "rgb(26, 127, 55)"
        origin.respond(BROKEN)
        expect(peer).to_contain_text("status 503, want 200-399", timeout=_MILLISECONDS)
        expect(page.locator("h2")).to_contain_text("0 of 1 up", timeout=_MILLISECONDS)
        page.locator("details summary").click()
        origin.respond(FINE)
        expect(page.locator("h2")).to_contain_text("1 of 1 up", timeout=_MILLISECONDS)
        # What was unfolded stays so when the page brings itself up to date.
        expect(page.locator("details li").first).to_be_visible(timeout=_MILLISECONDS)
        assert complaints == []
        balancer.stop()
        expect(page.locator("#live")).to_contain_text("what is shown is old", timeout=_MILLISECONDS)
        page.close()


def test_without_javascript_it_is_all_there(start: StartBalancer, browser: Browser) -> None:
    (front,) = free_ports(1)
    with Origin(BROKEN) as origin:
        start(_configuration(front, origin.port), [front])
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.set_default_timeout(_MILLISECONDS)
        page.goto(f"http://127.0.0.1:{front}/status")
        # The page asks to be loaded again every five seconds where no script does it.
        expect(page.locator("tbody tr")).to_contain_text("status 503, want 200-399", timeout=_MILLISECONDS)
        expect(page.locator("h2")).to_contain_text("0 of 1 up", timeout=_MILLISECONDS)
        context.close()
