"""Thundering herd: many guests boot against one broker that goes away and comes back. A simulation."""
