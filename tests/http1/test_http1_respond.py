"""upwell's own pages are nginx's byte for byte, but for the name of the server."""

from __future__ import annotations

import pytest

from tests.http1.reading import cases, wire
from upwell.http1.respond import SERVER, SERVER_WITHOUT_VERSION, error_page, status_line, status_sent
from upwell.version import VERSION

PAGES = {page["status"]: page for page in cases("pages")["page"]}


@pytest.mark.parametrize("status", PAGES)
def test_a_page_is_nginxs(status: int) -> None:
    assert error_page(status, b"nginx/1.31.3") == wire(PAGES[status]["content"])


@pytest.mark.parametrize("status", PAGES)
def test_a_status_line_is_nginxs(status: int) -> None:
    assert status_line(status_sent(status)) == wire(PAGES[status]["line"])


@pytest.mark.parametrize("status", [200, 204, 206, 299, 304, 305, 399, 418, 444, 499, 508, 599])
def test_where_nginx_has_no_page_there_is_none(status: int) -> None:
    assert error_page(status) is None


def test_the_page_names_upwell() -> None:
    assert b"upwell/" + VERSION.encode() == SERVER
    page = error_page(404)
    assert page is not None
    assert page.endswith(b"<hr><center>" + SERVER + b"</center>\r\n</body>\r\n</html>\r\n")
    page = error_page(404, SERVER_WITHOUT_VERSION)
    assert page is not None
    assert b"<center>upwell</center>" in page


def test_a_status_that_nobody_knows_has_a_line_with_its_number() -> None:
    assert status_line(200) == b"200 OK"
    assert status_line(599) == b"599 "
