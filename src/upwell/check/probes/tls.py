"""The probe of type "tls": the handshake is the answer, or what is sent and expected inside it."""

from __future__ import annotations

from upwell.check.probes.expect import ExpectProbe
from upwell.check.probes.tcp import TcpProbe
from upwell.check.secure import Secured
from upwell.check.spec import CheckSpec


class TlsProbe(Secured):
    __slots__ = ()

    def __init__(self, spec: CheckSpec, name: str) -> None:
        """Raises ValueError for a check that cannot be."""
        inner = ExpectProbe(spec, name) if spec.request or spec.expect else TcpProbe(spec, name)
        super().__init__(spec, name, inner)
