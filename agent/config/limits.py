"""Every limit in one place, each with its reason. Guards that use them: docs/threat-model.md."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- what callers send -----------------------------------------------------------------------------
TTRPC_MAX_BODY: Final = 4 * MIB
"""Largest ttrpc body, both directions: fixed by the protocol's other implementations."""

TTRPC_MAX_ANSWER: Final = TTRPC_MAX_BODY - KIB
"""Largest secret in a ttrpc answer: what the two envelopes around it leave."""

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

REST_SPARE_CONNECTIONS: Final = 64
"""Connections above REST_MAX_WAITING, so that the 429 can be said and health answers."""

REST_BACKLOG: Final = 512
"""Connections the kernel holds for us; a pod's containers start at once."""

TTRPC_MAX_CONNECTIONS: Final = 256
"""Connections to one socket; kata-agent, image-rs and a gateway keep one each, forever."""

TTRPC_MAX_UNSENT: Final = 32 * MIB
"""Answers one connection may leave unread: eight of the largest."""

TTRPC_MAX_FIELDS: Final = 256
"""Top-level fields of one request; four are usual, the rest is metadata."""

# --- what the broker sends -------------------------------------------------------------------------
KBS_MAX_CHALLENGE: Final = 256 * KIB
"""A nonce; for IBM SE a JSON document with a key blob in it."""

KBS_MAX_TOKEN: Final = 2 * MIB
"""A token reply. Eight GPUs make about 170 KiB."""

KBS_MAX_PROBLEM: Final = 64 * KIB
"""An error body: two short strings."""

KBS_MAX_RESOURCE: Final = 16 * MIB
"""An encrypted resource. Trustee takes uploads of 2 MiB by default; many callers can hold one each."""

KBS_MAX_HEAD: Final = 64 * KIB
"""Response head lines of the broker."""

KBS_CONNECTIONS: Final = 32
"""Exchanges under way with one broker; further callers wait inside the guest, not at the broker."""

KBS_MAX_HEADERS: Final = 64
"""Head lines of one answer; Trustee sends five, proxies add a dozen."""

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

REST_KEEP_ALIVE: Final = 75.0
"""Seconds an idle connection is kept, also one that never sent a request."""

REST_LINGER: Final = 1.0
"""Seconds given to a body that nobody reads before its connection ends."""

TTRPC_BACKSTOP: Final = 0.25
"""Seconds after the caller's timeout until the work is cancelled here: a handler that keeps its own
deadline can say which phase used the time."""

EXTEND_DEADLINE: Final = 10.0
"""Seconds for a measurement, as upstream's hub waits (kata_integration.md 2.1)."""

# --- tries -----------------------------------------------------------------------------------------
RESOURCE_ATTESTATIONS: Final = 1
"""Fresh attestations one resource request may cause after a refused token."""

ATTEST_TRIES: Final = 4
"""Handshakes one flight may start: with the pauses about 2 s, which covers a broker's restart."""

ATTEST_FIRST_PAUSE: Final = 0.25
"""Seconds before the second handshake, doubled each time; half to all of it at random."""

TOKEN_REFRESH_AT: Final = 0.75
"""Share of a token's usable life after which it is renewed in the background (user_pains.md row 3)."""

TOKEN_REFRESH_PAUSE: Final = 15.0
"""Seconds between background renewals that fail."""
