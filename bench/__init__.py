"""The benchmark: upwell beside nginx on the guide's configuration, under a load generator that is not Python."""
