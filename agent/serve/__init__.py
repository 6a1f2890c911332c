"""How callers reach us: protocols, no decisions."""
