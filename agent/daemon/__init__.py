"""The composition root: the roles of one process. Nothing is wired anywhere else."""

from agent.daemon.daemon import Daemon

__all__ = ["Daemon"]
