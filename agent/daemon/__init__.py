"""The composition root: the roles of one process. Nothing is wired anywhere else."""

from agent.daemon.daemon import Daemon
from agent.daemon.shared import ALL_ROLES, Role

__all__ = ["ALL_ROLES", "Daemon", "Role"]
