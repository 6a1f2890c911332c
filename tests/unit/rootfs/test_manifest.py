"""The manifest, read as strictly as kata-agent reads it (``tests/kata.py``)."""

from __future__ import annotations

import json

import pytest

from rootfs import manifest
from tests import kata


def plan(**context: str) -> list[kata.Launch]:
    return kata.plan(manifest.COMPONENTS, {**kata.CONTEXT, **context})


def test_three_processes_in_katas_order() -> None:
    launches = plan()
    assert [one.name for one in launches] == ["attestation-agent", "confidential-data-hub", "api-server-rest"]
    assert [one.wait_socket for one in launches] == [kata.AA_SOCKET, kata.CDH_SOCKET, ""]
    assert [one.timeout for one in launches] == [6, 6, 0]
    assert [one.config for one in launches] == [f"{kata.INIT_DATA}/aa.toml", f"{kata.INIT_DATA}/cdh.toml", ""]


def test_a_development_image_says_so_first_and_starts_the_same() -> None:
    assert manifest.DEVELOPMENT.startswith("# DEVELOPMENT IMAGE")
    assert "DEVELOPMENT" not in manifest.COMPONENTS
    assert kata.plan(manifest.DEVELOPMENT) == kata.plan(manifest.COMPONENTS)
    assert kata.paths(manifest.DEVELOPMENT) == kata.paths(manifest.COMPONENTS)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_the_level_says_how_many(level: int) -> None:
    assert len(kata.plan(manifest.COMPONENTS, level=level)) == level


def test_arguments_are_upstreams() -> None:
    first, second, third = plan(initdata_toml_path="/run/initdata.toml")
    socket = ("--attestation_sock", f"unix://{kata.AA_SOCKET}")
    assert first.arguments == (*socket, "--initdata-toml", "/run/initdata.toml")
    assert plan()[0].arguments == socket
    assert second.arguments == ()
    assert third.arguments == ("--features", "all")


def test_the_first_process_becomes_the_daemon_and_has_what_the_hub_needs() -> None:
    first, second, _ = plan()
    assert first.environment == second.environment
    assert first.environment["PATH"].startswith(f"{kata.ROOT}/usr/sbin:")
    assert first.environment["OCICRYPT_KEYPROVIDER_CONFIG"] == f"{kata.ROOT}/etc/ocicrypt_config.json"


def test_gpu_guests_start_the_same_program_with_the_drivers_library() -> None:
    ordinary, gpu = plan()[0], plan(attester_variant="nvidia")[0]
    assert gpu.path == ordinary.path == f"{kata.ROOT}/usr/local/bin/attestation-agent"
    added = {"LD_LIBRARY_PATH": "/run/kata-extensions/gpu/usr/lib"}
    assert gpu.environment == {**ordinary.environment, **added}


def test_resources_other_programs_look_up() -> None:
    assert kata.paths(manifest.COMPONENTS) == {
        "ocicrypt-config": f"{kata.ROOT}/etc/ocicrypt_config.json",
        "pause-bundle": f"{kata.ROOT}/pause_bundle",
    }
    provider = json.loads(manifest.ocicrypt())["key-providers"]["attestation-agent"]
    assert provider == {"ttrpc": f"unix://{kata.CDH_SOCKET}"}


def test_the_reader_refuses_what_kata_agent_refuses() -> None:
    with pytest.raises(KeyError):
        kata.plan(manifest.COMPONENTS, {})
    with pytest.raises(ValueError, match="schema"):
        kata.plan(manifest.COMPONENTS.replace("schema_version = 1", "schema_version = 2"))
    with pytest.raises(ValueError, match="evil"):
        kata.plan(manifest.COMPONENTS.replace("usr/local/bin/api", "../evil/api"))
