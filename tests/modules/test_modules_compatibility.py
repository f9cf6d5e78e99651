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
    assert found["proxy_cache_path", ""] == "refused: upwell keeps no answers"
    assert "refused" not in found.values(), "say why"
    assert found["ssl_ech_file", ""] == "refused: Python's ssl has no word for it"  # not that of a family


def test_variables_are_refused_with_a_reason_each() -> None:
    lines = text().splitlines()
    assert "| `$ssl_early_data` | works |" in lines
    assert "| `$ssl_sigalg` | refused: Python's ssl has no word for it |" in lines
    assert not [line for line in lines if line.startswith("| `$") and line.endswith(" refused |")]


def test_a_directive_that_stream_lacks_is_refused_there() -> None:
    found = {(name, where): said for name, where, said in rows()}
    assert found["limit_conn_zone", "stream"] == "refused there"
