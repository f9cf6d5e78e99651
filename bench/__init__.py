"""The benchmark: upwell beside nginx and other proxies, on one core each, under load generators that are cheap."""
