"""The processes of a running upwell: master, workers, checker. Knows signals, no directive, no request."""
