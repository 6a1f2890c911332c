"""kata-agent's way of starting the programs, replayed (kata_integration.md 1.1-1.6)."""
