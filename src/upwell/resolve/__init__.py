"""Names into addresses by DNS: bytes and times in, bytes and answers out. I/O is in `sockets.py` only."""
