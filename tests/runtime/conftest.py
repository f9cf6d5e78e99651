"""Bugs that are known and open: their tests must fail, so that whoever mends one has to strike it out here."""

from __future__ import annotations

import pytest

_LOCATIONS = "whether regexes are tried depends on the nested prefix's ^~, not on that of their own level"
_CAPTURES = "captures of a server_name regex are thrown away"
_REDIRECT = "a Location that becomes a path is not made absolute"
_ESCAPED = "the rest of the path is escaped though the client's target had no escape"
_EMPTY = 'an empty value is logged as "-"'

OPEN = {
    ("test_a_request_gets_its_location", "[/pre/hat/x.out-"): _LOCATIONS,
    ("test_a_request_gets_its_location", "[/hat/in/x.out-"): _LOCATIONS,
    ("test_a_line_says_what_nginx_says", "[$sent_http_content_type $sent_http_x_peer-"): "$sent_http_ is not kept",
    ("test_a_line_says_what_nginx_says", "[[$empty]"): _EMPTY,
    ("test_what_is_not_found_depends_on_the_escape", "[default-"): _EMPTY,
    (
        "test_the_time_of_a_line_is_that_of_its_end_also_without_an_answer",
        "",
    ): "444 is logged as 000; the clock is stale",
    ("test_a_target_is_passed_as_nginx_passes_it", "[/a?b#c-"): "the fragment is cut off",
    ("test_a_target_is_passed_as_nginx_passes_it", "[/api/a|b-"): _ESCAPED,
    ("test_a_target_is_passed_as_nginx_passes_it", "[/api/\\xe9-"): _ESCAPED,
    ("test_a_redirect_of_a_peer_is_rewritten", "[/api/-http://o/v1/x-"): _REDIRECT,
    ("test_a_redirect_of_a_peer_is_rewritten", "[/-http://o/x-"): _REDIRECT,
    ("test_a_redirect_of_a_peer_is_rewritten", "[/pairs/-http://other/a-"): _REDIRECT,
    ("test_fields_of_the_answer_pass_but_the_hidden", ""): "proxy_pass_header Server sends two",
    ("test_a_host_gets_its_server", "[foo.re.com-"): _CAPTURES,
    ("test_a_host_gets_its_server", "[bar.re.com-"): _CAPTURES,
    ("test_a_host_gets_its_server", "[FOO.re.com-"): _CAPTURES,
    ("test_a_host_gets_its_server", "[r1.re.com-"): _CAPTURES,
    ("test_an_odd_host_is_refused", "[exact.com:99999]"): "a port above 65535 passes",
    ("test_an_odd_host_is_refused", "[]"): "an empty Host passes",
}
"""(test, start of its parameters) -> what is wrong in upwell."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name, bracket, parameters = item.name.partition("[")
        for (test, start), reason in OPEN.items():
            if name == test and (bracket + parameters).startswith(start):
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
