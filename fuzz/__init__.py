"""Fuzzers: each throws broken input at one part of upwell and holds what comes of it to an invariant of its own."""
