"""The probe of type "https": the http probe of its dialect, inside TLS."""

from __future__ import annotations

from upwell.check.probes.http import HttpProbe
from upwell.check.probes.http_match import HttpMatchProbe
from upwell.check.secure import Secured
from upwell.check.spec import RESTY, CheckSpec


class HttpsProbe(Secured):
    __slots__ = ()

    def __init__(self, spec: CheckSpec, name: str) -> None:
        """Raises ValueError for a check that cannot be."""
        super().__init__(spec, name, HttpProbe(spec, name) if spec.dialect == RESTY else HttpMatchProbe(spec, name))
