"""The Containerfile, built unchanged and run (docs/container.md)."""
