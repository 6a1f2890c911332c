"""Key management services: one contract for all backends, played by servers of recorded shape."""
