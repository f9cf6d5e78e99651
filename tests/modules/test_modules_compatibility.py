"""docs/nginx-compatibility.md says what the tables say."""

from __future__ import annotations

from tools.compatibility import TARGET, rows, text


def test_the_table_is_what_the_code_does() -> None:
    assert TARGET.read_text() == text(), "python tools/compatibility.py writes it anew"


def test_each_kind_is_in_it() -> None:
    found = {(name, where): said for name, where, said in rows()}
    assert found["proxy_pass", "limit_except location location-if"].startswith("works")
    assert found["sendfile", "http location location-if server"] == "no effect"
    assert found["log_subrequest", "http location server"] == "only `off`"
    assert found["proxy_cache_path", ""] == "refused"
    assert found["limit_conn_zone", "stream"] == "refused there"
