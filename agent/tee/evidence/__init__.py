"""Parsers of evidence: pure functions of bytes, used by attesters, `inspect`, doctor and the devkit."""
