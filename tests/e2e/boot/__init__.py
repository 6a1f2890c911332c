"""The built root, booted."""
