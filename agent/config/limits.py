"""Every limit in one place, each with its reason. Guards that use them: docs/threat-model.md."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- what callers send -----------------------------------------------------------------------------
TTRPC_MAX_BODY: Final = 4 * MIB
"""Largest ttrpc body, both directions: fixed by the protocol's other implementations."""

TTRPC_MAX_STREAMS: Final = 512
"""Requests under way on one connection; kata-agent and image-rs keep a handful."""

REST_MAX_BODY: Final = 64 * KIB
"""The only REST body is an event-log entry of three short strings."""

REST_MAX_TARGET: Final = 8 * KIB
"""Path and query. Runtime data in a query is at most a few hundred bytes."""

REST_MAX_WAITING: Final = 2048
"""Requests under way in the REST API; more than this is an attack or a bug, not a pod."""

MAX_RUNTIME_DATA: Final = 4 * KIB
"""Runtime data for evidence: TEEs take 64 bytes, `sample` takes any length upstream."""

URI_MAX: Final = 4 * KIB
"""A resource URI. Trustee's own storage keys are file names."""

SEALED_MAX: Final = 256 * KIB
"""A sealed secret. A vault secret is below 1 KiB; envelopes carry data."""

KEY_PROVIDER_MAX: Final = 256 * KIB
"""Key provider protocol JSON; a wrapped layer key is below 1 KiB."""

# --- what the broker sends -------------------------------------------------------------------------
KBS_MAX_CHALLENGE: Final = 256 * KIB
"""A nonce; for IBM SE a JSON document with a key blob in it."""

KBS_MAX_TOKEN: Final = 2 * MIB
"""A token reply. Eight GPUs make about 170 KiB."""

KBS_MAX_PROBLEM: Final = 64 * KIB
"""An error body: two short strings."""

KBS_MAX_RESOURCE: Final = 64 * MIB
"""An encrypted resource. Trustee takes uploads of 2 MiB by default; operators raise it for models."""

KBS_MAX_HEAD: Final = 64 * KIB
"""Response head lines of the broker."""

# --- files -----------------------------------------------------------------------------------------
CONFIG_MAX_FILE: Final = 2 * MIB
"""A configuration file; init-data as a whole travels in one annotation."""

CONFIG_MAX_ITEMS: Final = 1024
"""Entries of one list in a configuration file: key ids, pins, credentials."""

CMDLINE_MAX: Final = 64 * KIB
"""The kernel command line; Linux itself ends at 2 or 4 KiB on our platforms."""

URL_MAX: Final = 2 * KIB
"""A configured URL."""

SOCKET_PATH_MAX: Final = 107
"""A socket's path: ``sun_path`` has 108 bytes with its final NUL (unix(7))."""

CONFIG_MAX_SECONDS: Final = 3600.0
"""The longest time a configuration may set; a caller is gone long before."""

OFFLINE_STORE_MAX: Final = 16 * MIB
"""One offline_fs_kbc store."""

JWK_MAX: Final = 64 * KIB
"""A public key file or resource."""

# --- time, in seconds ------------------------------------------------------------------------------
RPC_DEADLINE: Final = 50.0
"""What kata-agent, image-rs and api-server-rest wait. Used when a caller names no deadline."""

KBS_CONNECT: Final = 10.0
"""Connection set-up with TLS; a broker that needs longer is as good as down."""

KBS_REQUEST: Final = 45.0
"""One HTTP exchange: below RPC_DEADLINE, so that the caller hears the reason."""

ATTEST_DEADLINE: Final = 45.0
"""One handshake, evidence included. It runs for all waiting callers, so it has its own limit."""

EVIDENCE_DEADLINE: Final = 30.0
"""Evidence of all devices; eight GPUs take several seconds."""

TOKEN_MARGIN: Final = 30.0
"""A token is renewed this long before it expires: the broker's clock and the way there."""

TOKEN_DEFAULT_LIFE: Final = 300.0
"""Life assumed for a token that names no expiry: Trustee's default."""

TOKEN_MAX_LIFE: Final = 24 * 3600.0
"""A token is never held longer, whatever it says."""

STOP_GRACE: Final = 3.0
"""Time for requests under way when the daemon stops."""

# --- tries -----------------------------------------------------------------------------------------
RESOURCE_ATTESTATIONS: Final = 1
"""Fresh attestations one resource request may cause after a refused token."""
