"""Key backends behind one interface, each loaded on first use."""
