"""What kata-agent and image tools read from the extension: ``components.toml`` and ``ocicrypt_config.json``.

kata_integration.md 1.6: schema 1, paths relative to the extension, ``${...}`` filled in by kata-agent.
"""

from __future__ import annotations

import json
from typing import Final

from rootfs import layout

COMPONENTS: Final = f"""\
# Read by kata-agent: what this extension holds and what to start, in this order.
schema_version = 1

[paths]
"ocicrypt-config" = "{layout.OCICRYPT}"
"pause-bundle" = "{layout.PAUSE}"

# The first program becomes the daemon, and the later ones ask it to open their part. So it needs what the
# data hub needs: where cryptsetup is, and the key provider's address.
[[process]]
id = "attestation-agent"
level = 1
args = ["--attestation_sock", "${{aa_attestation_uri}}"]
optional_args = [{{ when = "initdata_toml_path", args = ["--initdata-toml", "${{initdata_toml_path}}"] }}]
config = "${{aa_config_path}}"
env = {{ PATH = "${{extension_root}}/usr/sbin:/bin:/sbin:/usr/bin:/usr/sbin", \
OCICRYPT_KEYPROVIDER_CONFIG = "${{ocicrypt_config_path}}" }}
wait_socket = "${{aa_attestation_socket}}"
timeout_secs = "${{launch_process_timeout}}"
select = "${{attester_variant}}"

  [process.variants.default]
  path = "{layout.PROGRAMS}/attestation-agent"

  # The same program. Only the driver's library is elsewhere: in the GPU extension, which is there when this
  # variant is chosen. Our own libraries are found first (DT_RPATH).
  [process.variants.nvidia]
  path = "{layout.PROGRAMS}/attestation-agent"
  env = {{ LD_LIBRARY_PATH = "/run/kata-extensions/gpu/usr/lib" }}

[[process]]
id = "confidential-data-hub"
level = 2
path = "{layout.PROGRAMS}/confidential-data-hub"
config = "${{cdh_config_path}}"
env = {{ PATH = "${{extension_root}}/usr/sbin:/bin:/sbin:/usr/bin:/usr/sbin", \
OCICRYPT_KEYPROVIDER_CONFIG = "${{ocicrypt_config_path}}" }}
wait_socket = "${{cdh_socket}}"
timeout_secs = "${{launch_process_timeout}}"

[[process]]
id = "api-server-rest"
level = 3
path = "{layout.PROGRAMS}/api-server-rest"
args = ["--features", "${{rest_api_features}}"]
timeout_secs = "0"
"""

DEVELOPMENT: Final = f"""\
# DEVELOPMENT IMAGE, built with --dev: without a TEE its evidence proves nothing. Never in production.
{COMPONENTS}"""


def ocicrypt() -> str:
    """Configuration of ocicrypt clients: image keys come from the data hub, over ttrpc."""
    provider = {"ttrpc": "unix:///run/confidential-containers/cdh.sock"}
    return json.dumps({"key-providers": {"attestation-agent": provider}}, indent=2) + "\n"
