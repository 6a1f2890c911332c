"""What kata-agent starts: its built-in plan, or an extension's manifest (kata_integration.md 1.2 and 1.6)."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RUN: Final = "/run/confidential-containers"
AA_SOCKET: Final = f"{RUN}/attestation-agent/attestation-agent.sock"
CDH_SOCKET: Final = f"{RUN}/cdh.sock"
INITDATA: Final = f"{RUN}/initdata"
LEVELS: Final = ("none", "attestation-agent", "confidential-data-hub", "api-server-rest")
_VARIABLE: Final = re.compile(r"\$\{([a-z_]+)\}")


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
        path = f"{INITDATA}/{name}"
        return ("-c", path) if self.exists(path) else ()


def built_in(asked: Asked) -> list[Process]:
    """Without an extension."""
    document = f"{INITDATA}/initdata.toml"
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


def from_manifest(text: str, root: str, asked: Asked) -> list[Process]:
    """With an extension mounted at ``root``.

    Raises:
        KeyError: a variable that kata-agent does not know, which ends it.
    """
    manifest = tomllib.loads(text)
    assert manifest["schema_version"] == 1
    document = f"{INITDATA}/initdata.toml"
    variables = {
        "aa_attestation_uri": f"unix://{AA_SOCKET}",
        "aa_attestation_socket": AA_SOCKET,
        "aa_config_path": f"{INITDATA}/aa.toml",
        "cdh_config_path": f"{INITDATA}/cdh.toml",
        "cdh_socket": CDH_SOCKET,
        "ocicrypt_config_path": f"{root}/{manifest['paths']['ocicrypt-config']}",
        "rest_api_features": asked.features,
        "launch_process_timeout": str(asked.timeout),
        "initdata_toml_path": document if asked.exists(document) else "",
        "extension_root": root,
        "attester_variant": "default",
    }

    def filled(words: str) -> str:
        return _VARIABLE.sub(lambda match: variables[match[1]], words)

    chosen = [one for one in manifest["process"] if 0 < one["level"] <= asked.level]
    return [_process(one, root, asked, filled, variables) for one in chosen]


def _process(
    one: dict[str, Any],
    root: str,
    asked: Asked,
    filled: Callable[[str], str],
    variables: Mapping[str, str],
) -> Process:
    variant = one.get("variants", {}).get(filled(one["select"]) if "select" in one else "", {})
    path = variant.get("path", one.get("path"))
    assert ".." not in path
    assert not path.startswith("/")
    arguments = [filled(word) for word in one.get("args", [])]
    for optional in one.get("optional_args", []):
        if variables[optional["when"]]:
            arguments += [filled(word) for word in optional["args"]]
    arguments += [filled(word) for word in variant.get("args", [])]
    config = filled(one["config"]) if "config" in one else ""
    if config and asked.exists(config):
        arguments += ["-c", config]
    environ = {**one.get("env", {}), **variant.get("env", {})}
    return Process(
        one["id"],
        f"{root}/{path}",
        tuple(arguments),
        {name: filled(text) for name, text in environ.items()},
        filled(one.get("wait_socket", "")),
        int(filled(one.get("timeout_secs", "0"))),
    )
