"""docs/configuration.md, from the same tables the loader reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.config import show
from agent.config.keys import ARGUMENTS, ENVIRONMENT, KERNEL, TRUST, File, Key, Place, keys_of
from agent.config.model import Config
from agent.config.narrow import RULES

if TYPE_CHECKING:
    from collections.abc import Iterable

_MARK: Final = " \N{DAGGER}"
_NO_ARGUMENT: Final = frozenset({"attester.sysroot", "attester.eventlog_dir"})
"""Fields of ``ARGUMENTS`` that no program's command line offers: for simulated guests."""

_TITLES: Final = {
    File.AA: """\
## aa.toml: the attester

Upstream's file, TOML or JSON, named with `-c`. It may be empty. Unknown keys are ignored with a warning.
""",
    File.CDH: """\
## cdh.toml: the hub

Upstream's file, TOML or JSON, named with `-c`. Unknown keys are ignored with a warning.
""",
    File.AGENT: """\
## agent.toml: what upstream's files cannot say

Ours, TOML or JSON. `/etc/coco-agent/agent.toml` is read if it is there, or the file named with
`--agent-config`. Unknown keys are errors.

A pod brings its own as `agent.toml` in init-data, where the attester is given the document
(`--initdata-toml`, as kata-agent does; peer pods do not). It is taken from the very bytes whose digest the
hardware vouches for, and wins over the image's, key by key. All roles see it, also those of launchers; a hub
or gateway in a process of its own binds the document once more. `attester.allow_unbound_init_data` and
`control.launchers` cannot be set there. On a platform that vouches for nothing it is one more unmeasured
place (see below).
""",
}

_INTRO: Final = """\
<!-- Generated from agent/config/keys.py by `make generate`. Do not edit. -->

# Configuration

Nothing has to be configured for the agent to start. To fetch anything it needs a key broker: in `aa.toml`
and `cdh.toml` as for upstream's daemons, or once for both in `agent.toml`:

```toml
[kbs]
url = "https://kbs.example:8080"
```

`coco-agent config check FILE...` finds mistakes before a pod does. It takes all three files and init-data,
and needs no guest. What it accepts, the agent accepts. With `--strict` warnings fail, too: a misspelt key of
upstream's files is one, since upstream ignores it. A table that is one character away from a known one is an
error without it. `coco-agent config show` prints every value in effect and where it came from.

The extension chooses the format: `.toml` or `.json`. Without an extension TOML is tried first, then JSON.
TOML is version 1.1. A file may begin with UTF-8's byte order mark.
Files are read without following symbolic links, must belong to root or to the agent's user, and nobody else
may be able to write to them. A value of the wrong type, or one that cannot work, stops the start.
Trust settings are marked with \N{DAGGER}.
"""

_PRECEDENCE: Final = """\
## Precedence

Each list begins with the strongest.

* **The attester's broker**: `token_configs.kbs` of aa.toml; `kbs` of agent.toml; without an aa.toml
  `AA_KBC_PARAMS`, then `agent.aa_kbc_params`.
* **The hub's broker**: `kbc` of cdh.toml; `kbs` of agent.toml; `AA_KBC_PARAMS`; without a cdh.toml
  `agent.aa_kbc_params`.
* **The hub's certificates**: `kbc.kbs_cert` of cdh.toml; `kbs.cert` or `kbs.cert_file` of agent.toml;
  `KBS_CERT`.
* **The attester's address, for the hub**: `aa.aa_socket` of cdh.toml; `AA_SOCKET`.
* **Every key of agent.toml**: bound init-data's; the image's.
* **Log level**: `RUST_LOG`; `observe.log_level` of agent.toml; `log.level` of cdh.toml; `log.level` of
  aa.toml.
* **Sealed secrets without a signature**: `skip_sealed_secret_verification` of cdh.toml, nothing else.
* **Sample evidence**: `attester.allow_sample` of agent.toml, nothing else.

A file stands for the whole role: with an aa.toml, even an empty one, the environment and the kernel command
line do not name the attester's broker.
"""

_UNMEASURED: Final = """\
## Unmeasured places

The command line, the environment, the kernel command line, and init-data that no hardware vouches for are
not measured. Where files and bound init-data are silent, their values are used as upstream uses them, and
`coco-agent config show` names their origin. Where measured configuration speaks, they may only narrow it:

* an argument that would widen it stops the start;
* a variable or kernel parameter that would widen it is ignored with an error, and so is one that cannot work:
  neither stops a guest whose files are right.

With `security.strict_origin = true` silence stands for the default: the agent refuses to start when one of
them sets a trust setting to something wider, and names it.
"""

_DIFFERENCES: Final = """\
## Differences from upstream

* `AA_KBC_PARAMS`, `AA_SOCKET`, arguments and `cdh.kbs_resources` do not win over measured files (see above).
* `AA_KBC_PARAMS` and `agent.aa_kbc_params` are split at the first `::`, so that
  `cc_kbc::http://[fd00::1]:8080` works.
* Certificates are read at the start. Upstream's test files have `cert = "cert"`: they are refused, with
  `token_configs.kbs.cert: has no 'BEGIN CERTIFICATE' block; PEM text belongs here, not a path`.
* URLs that cannot work (`http:10.0.0.1`, no scheme, credentials, trailing text) stop the start.
* The kernel command line is taken apart as the kernel does: double quotes hold white space together, and what
  stands inside another parameter's quotes is part of its value. Quotes around a value are taken off, also in
  the environment, where env files of container engines leave them.
* `SKIP_SEALED_SECRET_VERIFICATION=true` is not obeyed.
* Credential paths are compared by whole path segments: `/run/confidential-containers/cdh/kbsfoo` is refused.
* Files in UTF-16 and leap seconds (`23:59:60`) are refused. Integers of more than 64 bits and tables nested
  80 to 400 deep are read where no key here gives them a meaning; upstream refuses the file.
* YAML, INI, RON and JSON5 files are not read. Values are not converted: `"true"` is not a boolean.
* The environment's proxies are not used for the broker; `kbs.proxy` is.
"""


def render() -> str:
    """The whole reference, ending in a newline."""
    parts = [_INTRO]
    for file, title in _TITLES.items():
        parts += [title, _keys(keys_of(file))]
    parts += [
        _PRECEDENCE,
        "## Environment\n",
        _places(ENVIRONMENT),
        "## Kernel command line\n",
        _places(KERNEL),
        _arguments(),
        _UNMEASURED,
        _narrow(),
        _DIFFERENCES,
    ]
    return "\n".join(parts)


def _keys(table: Iterable[Key]) -> str:
    lines = ["| Key | Type | Default | Meaning |", "|---|---|---|---|"]
    lines += [f"| {_name(key)} | {key.kind.name} | {_default(key)} | {_meaning(key)} |" for key in table]
    return "\n".join(lines) + "\n"


def _name(key: Key) -> str:
    return f"`{key.name}`{_MARK if key.trust else ''}"


def _meaning(key: Key) -> str:
    return key.meaning if key.used else f"{key.meaning}. *No effect in this release*"


def _default(key: Key) -> str:
    if key.required:
        return "required"
    if key.needed:
        return "required in its table"
    if key.contents or not key.sets:
        return ""
    target = key.sets[0]
    value: object = Config()
    for part in target.split("."):
        value = getattr(value, part)
    text = show.text(target, value)
    return f"`{text}`" if text else ""


def _places(table: Iterable[Place]) -> str:
    lines = ["| Name | Sets | Meaning |", "|---|---|---|"]
    lines += [
        f"| `{place.name}`{_MARK if TRUST & set(place.sets) else ''} | "
        f"{', '.join(f'`{name}`' for name in place.sets)} | {place.meaning} |"
        for place in table
    ]
    return "\n".join(lines) + "\n"


def _narrow() -> str:
    lines = ["| Field | Set by | Against a measured value |", "|---|---|---|"]
    for name, rule in RULES.items():
        if name not in _NO_ARGUMENT:
            places = [f"`{place.name}`" for place in (*ENVIRONMENT, *KERNEL) if name in place.sets]
            places += ["the command line"] if name in ARGUMENTS else []
            lines.append(f"| `{name}` | {', '.join(places)} | {rule.words} |")
    return "\n".join(lines) + "\n"


def _arguments() -> str:
    names = ", ".join(f"`{name}`" for name in ARGUMENTS if name not in _NO_ARGUMENT)
    return f"## Command line\n\nThe programs' `--help` lists their arguments; they set {names}.\n"
