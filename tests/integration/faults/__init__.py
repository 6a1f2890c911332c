"""Every fault, at every API (docs/faults.md), and a soak with faults at random."""
