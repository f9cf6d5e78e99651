"""`stream`: sessions over TCP and UDP, one nginx feature a file."""
