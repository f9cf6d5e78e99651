"""upwell for minutes or days under mixed load, with reloads and faults: what grows, if anything."""
