"""Where things are in the bundle, relative to the root it is put below."""

from __future__ import annotations

from typing import Final

EXTENSION_ROOT: Final = "/run/kata-extensions/coco"
"""Kata mounts the extension image here (kata_integration.md 4.2)."""

HOME: Final = "usr/lib/coco-agent"
"""``sys.prefix`` of the bundle's interpreter, which finds it from where it is itself."""

INTERPRETER: Final = f"{HOME}/bin/python3"
LIBRARIES: Final = f"{HOME}/lib"
MODULES: Final = f"{HOME}/lib/python3.11"
"""Standard library and all packages in one folder: one place to search, no site-packages, no .pth files."""

DYNLOAD: Final = f"{MODULES}/lib-dynload"
PROGRAMS: Final = "usr/local/bin"
CRYPTSETUP: Final = "usr/sbin/cryptsetup"
LICENSES: Final = "usr/share/doc/coco-agent/licenses"
MANIFEST: Final = "etc/kata-extensions/components.toml"
OCICRYPT: Final = "etc/ocicrypt_config.json"
PAUSE: Final = "pause_bundle"
