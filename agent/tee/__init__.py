"""How the guest proves where it runs."""
