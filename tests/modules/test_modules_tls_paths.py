"""Where the files of TLS are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from upwell.errors import ConfigErrors
from upwell.modules.load import load


def test_certificates_are_beside_the_configuration_as_in_nginx(tmp_path: Path) -> None:
    """Not in the prefix, where logs and pages are (nginx: ngx_conf_full_name with conf_prefix)."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "nginx.conf").write_text(
        "events {} http { server { listen 8443 ssl; ssl_certificate a.pem; ssl_certificate_key ../b.pem; } }"
    )
    with pytest.raises(ConfigErrors) as caught:
        load("conf/nginx.conf", str(tmp_path))
    assert f'"{tmp_path}/conf/a.pem"' in caught.value.errors[0].message
