"""How kata-agent reads an extension's ``components.toml`` (kata_integration.md 1.6), strictly: pure."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = "/run/kata-extensions/coco"
AA_SOCKET = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
CDH_SOCKET = "/run/confidential-containers/cdh.sock"
INIT_DATA = "/run/confidential-containers/initdata"

CONTEXT: Mapping[str, str] = {
    "aa_attestation_uri": f"unix://{AA_SOCKET}",
    "aa_attestation_socket": AA_SOCKET,
    "aa_config_path": f"{INIT_DATA}/aa.toml",
    "attester_variant": "default",
    "cdh_config_path": f"{INIT_DATA}/cdh.toml",
    "cdh_socket": CDH_SOCKET,
    "extension_root": ROOT,
    "initdata_toml_path": "",
    "launch_process_timeout": "6",
    "ocicrypt_config_path": f"{ROOT}/etc/ocicrypt_config.json",
    "rest_api_features": "all",
}
"""What kata-agent fills in; ``attester_variant`` is ``nvidia`` in GPU guests."""

_PROCESS = {"id", "level", "path", "select", "variants", "args", "optional_args", "config", "env"}
_KNOWN = _PROCESS | {"wait_socket", "timeout_secs"}


@dataclass(frozen=True)
class Launch:
    """One process kata-agent starts.

    ``config`` becomes ``-c`` behind all other arguments, if the file exists.
    """

    name: str
    level: int
    path: str
    arguments: tuple[str, ...]
    config: str
    environment: Mapping[str, str] = field(default_factory=dict)
    wait_socket: str = ""
    timeout: int = 0


def plan(text: str, context: Mapping[str, str] = CONTEXT, *, level: int = 3) -> list[Launch]:
    """The processes up to a level (``agent.guest_components_procs``); ValueError as kata-agent refuses."""
    manifest = tomllib.loads(text)
    if manifest.get("schema_version") != 1:
        raise ValueError("schema_version")
    processes = manifest["process"]
    return [_launch(one, context) for one in processes if 0 < one.get("level", 0) <= level]


def paths(text: str) -> dict[str, str]:
    """``[paths]``, made absolute."""
    return {name: _inside(path) for name, path in tomllib.loads(text)["paths"].items()}


def _launch(raw: dict[str, Any], context: Mapping[str, str]) -> Launch:
    if not set(raw) <= _KNOWN:
        raise ValueError(f"kata-agent would ignore {set(raw) - _KNOWN}")
    variants = raw.get("variants", {})
    variant = variants[_filled(raw.get("select", ""), context) or "default"] if variants else {}
    arguments = list(raw.get("args", []))
    for group in raw.get("optional_args", []):
        arguments += group["args"] if context.get(group["when"]) else []
    arguments += variant.get("args", [])
    environment = {**raw.get("env", {}), **variant.get("env", {})}
    return Launch(
        raw["id"],
        raw["level"],
        _inside(variant.get("path", raw.get("path", ""))),
        tuple(_filled(word, context) for word in arguments),
        _filled(raw.get("config", ""), context),
        {name: _filled(value, context) for name, value in environment.items()},
        _filled(raw.get("wait_socket", ""), context),
        int(_filled(raw.get("timeout_secs", "0"), context) or "0"),
    )


def _filled(template: str, context: Mapping[str, str]) -> str:
    """``${name}`` replaced; KeyError for a variable kata-agent does not know."""
    return re.sub(r"\$\{([^}]*)\}", lambda match: context[match[1]], template)


def _inside(path: str) -> str:
    if not path or ".." in PurePosixPath(path).parts:
        raise ValueError(path)
    return f"{ROOT}/{path.lstrip('/')}"
