"""What kata-agent starts: its built-in plan, or an extension's manifest (kata_integration.md 1.2 and 1.6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests import kata
from tests.kata import AA_SOCKET, CDH_SOCKET, INIT_DATA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LEVELS: Final = ("none", "attestation-agent", "confidential-data-hub", "api-server-rest")


@dataclass(frozen=True, slots=True)
class Process:
    """One program to start; its socket is deleted before and waited for after."""

    name: str
    path: str
    arguments: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    socket: str = ""
    timeout: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """The knobs of kata_integration.md 1.4, and which files the guest has."""

    procs: str
    features: str
    timeout: int
    exists: Callable[[str], bool]

    @property
    def level(self) -> int:
        return LEVELS.index(self.procs)

    def config(self, name: str) -> tuple[str, ...]:
        """``-c FILE`` is added last, and only when the file is there at that moment."""
        path = f"{INIT_DATA}/{name}"
        return ("-c", path) if self.exists(path) else ()


def built_in(asked: Asked) -> list[Process]:
    """Without an extension."""
    document = f"{INIT_DATA}/initdata.toml"
    initdata = ("--initdata-toml", document) if asked.exists(document) else ()
    sock = ("--attestation_sock", f"unix://{AA_SOCKET}")
    key_provider = {"OCICRYPT_KEYPROVIDER_CONFIG": "/etc/ocicrypt_config.json"}
    there = "/usr/local/bin"
    every = [
        Process("attestation-agent", f"{there}/attestation-agent",
                (*sock, *initdata, *asked.config("aa.toml")), socket=AA_SOCKET, timeout=asked.timeout),
        Process("confidential-data-hub", f"{there}/confidential-data-hub", asked.config("cdh.toml"),
                key_provider, CDH_SOCKET, asked.timeout),
        Process("api-server-rest", f"{there}/api-server-rest", ("--features", asked.features)),
    ]  # fmt: skip
    return every[: asked.level]


def from_manifest(text: str, asked: Asked) -> list[Process]:
    """With an extension mounted where Kata mounts it; strictly, as ``tests/kata.py``."""
    document = f"{kata.INIT_DATA}/initdata.toml"
    context = {
        **kata.CONTEXT,
        "initdata_toml_path": document if asked.exists(document) else "",
        "launch_process_timeout": str(asked.timeout),
        "rest_api_features": asked.features,
    }
    return [
        Process(
            one.name,
            one.path,
            (*one.arguments, *(("-c", one.config) if one.config and asked.exists(one.config) else ())),
            one.environment,
            one.wait_socket,
            one.timeout,
        )
        for one in kata.plan(text, context, level=asked.level)
    ]
