"""The one error of a build."""

from __future__ import annotations


class BuildError(Exception):
    """A build cannot go on; the text says why and what to do next."""
