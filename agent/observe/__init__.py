"""Metrics, audit, logging, health: what an operator sees."""
