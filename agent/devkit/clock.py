"""A clock that moves only when a test says so."""

from __future__ import annotations


class FakeClock:
    """An ``agent.clock.Clock`` under the test's control.

    Timeouts of :meth:`agent.clock.Deadline.limit` still run on the event loop's own time: a deadline of
    this clock decides *how long* they are, advancing it does not end one that is already running.

    Attributes of the constructor:
        boot: seconds since boot.
        wall: seconds since the Unix epoch.
    """

    def __init__(self, boot: float = 1000.0, wall: float = 1_790_000_000.0) -> None:
        self._boot = boot
        self._wall = wall

    def boot(self) -> float:
        """See :meth:`agent.clock.Clock.boot`."""
        return self._boot

    def wall(self) -> float:
        """See :meth:`agent.clock.Clock.wall`."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        Raises:
            ValueError: negative; the boot clock never goes back. Use :meth:`jump_wall`.
        """
        if seconds < 0:
            raise ValueError("the boot clock never goes back")
        self._boot += seconds
        self._wall += seconds

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as a time server or a hostile host does."""
        self._wall += seconds
