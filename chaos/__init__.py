"""Backends that fail in every way, under constant load: `python -m chaos`, `make chaos`."""
