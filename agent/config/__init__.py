"""Configuration: one immutable value from many places, each knowing where it came from."""
