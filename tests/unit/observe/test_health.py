from __future__ import annotations

import logging

import pytest

from agent.errors import AgentError, ErrorCode
from agent.observe.health import Health, HealthReport


@pytest.fixture
def health() -> Health:
    made = Health()
    made.started()
    return made


def no_tee() -> str | None:
    raise AgentError(ErrorCode.NO_TEE, "no probe found a TEE")


def test_a_daemon_is_ready_between_start_and_stop() -> None:
    health = Health()
    assert health.ready() == HealthReport(ok=False, reasons=("STARTING",))
    health.started()
    assert health.ready() == HealthReport(ok=True)
    health.stopping()
    assert health.ready() == HealthReport(ok=False, reasons=("STOPPING",))
    assert health.live().ok


def test_reasons_are_collected_in_order_without_doubles(health: Health) -> None:
    health.add("platform", no_tee)
    health.add("kbs", lambda: "KBS_NOT_CONFIGURED")
    health.add("hub", lambda: "KBS_NOT_CONFIGURED")
    health.add("sockets", lambda: None)
    assert health.ready().reasons == ("NO_TEE", "KBS_NOT_CONFIGURED")


def test_a_failure_is_never_latched(health: Health) -> None:
    failures = ["KBS_UNREACHABLE"]
    health.add("attestation", lambda: failures[0] if failures else None)
    assert health.ready().reasons == ("KBS_UNREACHABLE",)
    failures.clear()
    assert health.ready().ok


def test_a_broken_check_is_a_reason_and_shows_nothing(
    health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> str | None:
        raise ValueError("c4n4ry")

    health.add("kbs", broken)
    with caplog.at_level(logging.DEBUG):
        assert health.ready().reasons == ("INTERNAL",)
    assert "c4n4ry" not in "\n".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("reason", ["kbs at http://kbs:8080", "", "lower", "A B", "X\n", "A" * 65])
def test_a_reason_is_a_word_in_capitals(health: Health, reason: str) -> None:
    health.add("kbs", lambda: reason)
    assert health.ready().reasons == ("INTERNAL",)


def test_a_guest_without_a_tee_is_alive(health: Health) -> None:
    health.add("platform", no_tee)
    assert health.live().ok
    assert not health.ready().ok
