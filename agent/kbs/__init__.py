"""How we talk to the key broker (KBS protocol 0.4.0)."""
