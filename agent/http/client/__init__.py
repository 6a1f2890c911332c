"""The client: connections to servers and proxies, kept and new, and what goes out a second time."""
