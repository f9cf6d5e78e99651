"""upwell: a load balancer in pure Python that keeps traffic on healthy upstreams."""

from upwell.version import VERSION as __version__

__all__ = ["__version__"]
