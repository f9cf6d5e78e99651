"""HTTP/1.1 messages (RFC 9110, RFC 9112) as pure functions over bytes: no I/O, no clock, no configuration."""
