"""Tests; unit/ mirrors agent/."""
