"""The effective configuration as data. Reading it from files is the loader's work.

Upstream's keys and defaults: cdh.md section 3, kata_integration.md section 9.4. Ours come from
``agent.toml``. Every field's origin is in :attr:`Config.origins` under its dotted name, which is the
path through these structs (``hub.kbc.url``).
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from agent.config import limits

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_DIR: Final = "/run/confidential-containers"
AA_SOCKET: Final = f"unix://{RUN_DIR}/attestation-agent/attestation-agent.sock"
CDH_SOCKET: Final = f"unix://{RUN_DIR}/cdh.sock"
CONTROL_SOCKET: Final = f"unix://{RUN_DIR}/coco-agent/control.sock"
INIT_DATA_FILE: Final = f"{RUN_DIR}/initdata/initdata.toml"
"""Where kata-agent puts the document (kata_integration.md 3.2)."""
EVENTLOG_DIR: Final = "/run/attestation-agent"
IMDS_URL: Final = "http://169.254.169.254"
KMS_CREDENTIALS: Final = f"{RUN_DIR}/cdh/kbs/kms-credential"
REST_BIND: Final = "127.0.0.1:8006"
OFFLINE_STORES: Final = (
    "/etc/aa-offline_fs_kbc-keys.json",
    "/etc/aa-offline_fs_kbc-resources.json",
)


class Source(enum.Enum):
    """Where a value came from; which of them are unmeasured: :mod:`agent.config.narrow`."""

    DEFAULT = "default"
    FILE = "file"
    INIT_DATA = "init-data"
    UNBOUND = "init-data, not bound"
    COMMAND_LINE = "command line"
    ENVIRONMENT = "environment"
    KERNEL = "kernel command line"


class Origin(msgspec.Struct, frozen=True):
    """Where one value came from.

    Attributes:
        source: kind of place.
        where: file path, variable or parameter name; empty for defaults.
    """

    source: Source
    where: str = ""


class KeyAlgorithm(enum.Enum):
    """``tee_key_algorithm``: how the broker encrypts to this guest (kbs_protocol.md 1.7)."""

    EC_P256 = "ECDH-ES+A256KW-P256"
    EC_P521 = "ECDH-ES+A256KW-P521"
    RSA = "RSA-OAEP-256"


class Features(enum.Enum):
    """Which REST routes exist (``--features``)."""

    RESOURCE = "resource"
    ATTESTATION = "attestation"
    ALL = "all"


class KbsServer(msgspec.Struct, frozen=True):
    """One of several endpoints of a broker.

    Attributes:
        url: see :class:`Kbs`, as both below. With neither roots nor pins of its own it has the broker's.
        extra_roots: PEM certificates.
        pins: SHA-256 digests.
    """

    url: str
    extra_roots: str = ""
    pins: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        trust = f" with {len(self.pins)} pins" if self.pins else " with a cert" if self.extra_roots else ""
        return f"{self.url}{trust}"


class Kbs(msgspec.Struct, frozen=True):
    """How to talk to one key broker.

    Attributes:
        url: base URL without trailing slashes, or empty when none is configured.
        extra_roots: PEM certificates added to the system's trust store.
        pins: SHA-256 digests (32 bytes each) of accepted SubjectPublicKeyInfo. When not empty, the
            broker's leaf key must be one of them and no certificate authority is asked.
        proxy: explicit http(s) proxy URL; the environment is never consulted.
        require_tls: refuse http:// URLs.
        connect_timeout: seconds for connection set-up.
        request_timeout: seconds for one exchange.
        retry_for: seconds in which a request that failed for a passing reason is begun again, at most
            until the caller's deadline.
        endpoints: all endpoints, in order of preference, when there is more than ``url``. They count only
            when ``url`` is one of them: another file may name another broker.
        token_header_limit: bytes of a token above which the broker's session cookie stands for it.
    """

    url: str = ""
    extra_roots: str = ""
    pins: tuple[bytes, ...] = ()
    proxy: str | None = None
    require_tls: bool = False
    connect_timeout: float = limits.KBS_CONNECT
    request_timeout: float = limits.KBS_REQUEST
    retry_for: float = limits.RETRY_FOR
    endpoints: tuple[KbsServer, ...] = ()
    token_header_limit: int = limits.TOKEN_HEADER

    def servers(self) -> tuple[KbsServer, ...]:
        """The endpoints to use; at least one, which may have an empty URL."""
        common = KbsServer(self.url, self.extra_roots, self.pins)
        if all(one.url.rstrip("/") != self.url.rstrip("/") for one in self.endpoints):
            return (common,)
        return tuple(
            one if one.extra_roots or one.pins else replace(common, url=one.url) for one in self.endpoints
        )


class Attester(msgspec.Struct, frozen=True):
    """The attester role.

    Attributes:
        socket: listen address, ``unix://<path>``.
        kbs: where to attest (aa.toml ``token_configs.kbs``).
        coco_as_url: aa.toml ``token_configs.coco_as.url``; read, and has no effect.
        key_algorithm: of the TEE key pair.
        allow_sample: permit evidence that proves nothing. Only agent.toml can say so.
        sample_device: also offer the sample device; needs ``allow_sample``.
        refresh_while_used: seconds after its last use the token is still renewed in the background; 0: never.
        init_pcr: register for runtime measurements when the caller names none; 0 to 23.
        enable_eventlog: aa.toml ``eventlog_config.enable_eventlog``; without it, measurements are refused.
        require_firmware_log: aa.toml ``eventlog_config.require_firmware_log``; measure nothing where
            verifiers replay our log behind the firmware's, and there is none.
        eventlog_dir: folder of the runtime event log and its write-ahead record, on a tmpfs.
        sysroot: prefix of /sys, /dev and /proc; "/" outside of tests.
        expected_devices: wire strings of devices that must give evidence, e.g. ``nvidia``, or
            ``nvidia:8`` for a count. Others that fail are left out with a warning (SR-21, SR-28).
        allow_unbound_init_data: accept init-data on a platform that has no register for it.
        snp_vmpl: privilege level asked for in an SNP report, 0 to 3.
        tdx_quote_vsock: ``CID:PORT`` of a quote generation service to ask directly; empty: configfs-tsm.
        tpm_device: path of the TPM below ``sysroot``; empty: the first of /dev/tpmrm0, /dev/tpm0.
        tpm_ak_handle: persistent handle of a plain TPM's attestation key.
        imds_url: base URL of Azure's instance metadata service.
    """

    socket: str = AA_SOCKET
    kbs: Kbs = msgspec.field(default_factory=Kbs)
    coco_as_url: str | None = None
    key_algorithm: KeyAlgorithm = KeyAlgorithm.EC_P256
    allow_sample: bool = False
    sample_device: bool = False
    refresh_while_used: float = limits.TOKEN_REFRESH_WHILE_USED
    init_pcr: int = 17
    enable_eventlog: bool = False
    require_firmware_log: bool = True
    eventlog_dir: str = EVENTLOG_DIR
    sysroot: str = "/"
    expected_devices: tuple[str, ...] = ()
    allow_unbound_init_data: bool = False
    snp_vmpl: int = 0
    tdx_quote_vsock: str = ""
    tpm_device: str = ""
    tpm_ak_handle: int = 0x81010002
    imds_url: str = IMDS_URL


class Credential(msgspec.Struct, frozen=True):
    """One ``[[credentials]]`` entry: fetch ``resource_uri`` into ``path``."""

    path: str
    resource_uri: str


class SealedSecrets(msgspec.Struct, frozen=True):
    """Which sealed secrets are accepted.

    Attributes:
        skip_verification: accept unsigned secrets (cdh.toml ``skip_sealed_secret_verification``).
        trusted_kids: exact key ids, or prefixes ending in ``/`` or ``*``. Empty: any key id, as
            upstream; a list refuses others before any network access.
        key_dir: folder of local JWK files.
    """

    skip_verification: bool = False
    trusted_kids: tuple[str, ...] = ()
    key_dir: str = f"{RUN_DIR}/cdh/sealed-secret"


class CacheRule(msgspec.Struct, frozen=True):
    """How long resources are kept in memory.

    Attributes:
        pattern: of resource names (:mod:`agent.config.patterns`).
        ttl: seconds an answer of the broker is used without asking again; 0: never kept.
        max_stale: seconds after that in which it still serves while the broker cannot be reached.
    """

    pattern: str
    ttl: float
    max_stale: float = 0.0

    def __str__(self) -> str:
        return f"{self.pattern} ttl {self.ttl:g} max_stale {self.max_stale:g}"


class Cache(msgspec.Struct, frozen=True):
    """The resource cache. Without rules nothing is kept, as upstream.

    Attributes:
        rules: the first one that matches decides; a resource without one is never kept.
        max_entries: resources kept at most.
        max_bytes: their plaintext together, at most.
        negative_ttl: seconds a "not found" or "denied" is remembered; 0: not at all.
    """

    rules: tuple[CacheRule, ...] = ()
    max_entries: int = limits.CACHE_ENTRIES
    max_bytes: int = limits.CACHE_BYTES
    negative_ttl: float = limits.CACHE_NEGATIVE


class Kms(msgspec.Struct, frozen=True):
    """Key management services (docs/backends.md).

    Attributes:
        credentials_dir: folder with a folder per provider, as upstream's ``[[credentials]]`` fills it.
        credentials: provider and file name, ``aws/credential.json``, to the URI of the resource that is used
            instead of the file; fetched after attestation.
        endpoints: base URLs that credentials may be sent to, for providers whose address is in the secret.
        extra_roots: PEM certificates trusted for these, besides the system's.
        timeout: seconds for one exchange.
    """

    credentials_dir: str = KMS_CREDENTIALS
    credentials: tuple[tuple[str, str], ...] = ()
    endpoints: tuple[str, ...] = ()
    extra_roots: str = ""
    timeout: float = limits.KMS_REQUEST


class Hub(msgspec.Struct, frozen=True):
    """The hub role.

    Attributes:
        socket: listen address, ``unix://<path>``.
        kbc: ``cc_kbc`` or ``offline_fs_kbc``; any other name fails at first use, as upstream.
        kbs: where to fetch resources (cdh.toml ``kbc.url``), possibly another broker than the attester's.
        aa_socket: the attester's address, when it runs in another process.
        offline_stores: JSON files of ``offline_fs_kbc``, later ones override.
        sealed: sealed secret rules.
        credentials: files to provision.
        cache: what is kept in memory.
        kms: key management services.
        grpc: address of the gRPC key provider, ``127.0.0.1:50000`` or ``unix://<path>``; empty: none.
    """

    socket: str = CDH_SOCKET
    kbc: str = "offline_fs_kbc"
    kbs: Kbs = msgspec.field(default_factory=Kbs)
    aa_socket: str = AA_SOCKET
    offline_stores: tuple[str, ...] = OFFLINE_STORES
    sealed: SealedSecrets = msgspec.field(default_factory=SealedSecrets)
    credentials: tuple[Credential, ...] = ()
    cache: Cache = msgspec.field(default_factory=Cache)
    kms: Kms = msgspec.field(default_factory=Kms)
    grpc: str = ""


class Gateway(msgspec.Struct, frozen=True):
    """The REST role.

    Attributes:
        bind: literal ``IP:port``; IPv6 in brackets.
        features: which routes exist.
        cdh_address: the hub's address, when it runs in another process.
        aa_address: the attester's address, when it runs in another process.
        compat_status: answer every backend failure with 500, as upstream.
        extra_hosts: Host names accepted besides loopback names.
        deadline: seconds for one request.
    """

    bind: str = REST_BIND
    features: Features = Features.RESOURCE
    cdh_address: str = CDH_SOCKET
    aa_address: str = AA_SOCKET
    compat_status: bool = False
    extra_hosts: tuple[str, ...] = ()
    deadline: float = limits.RPC_DEADLINE


class Control(msgspec.Struct, frozen=True):
    """The operator's own socket.

    Attributes:
        socket: listen address, ``unix://<path>``; empty: there is none.
        launchers: whether an attester serves the roles of launchers that are started after it.
    """

    socket: str = CONTROL_SOCKET
    launchers: bool = True


class Observe(msgspec.Struct, frozen=True):
    """Logs, metrics and audit.

    Attributes:
        log_level: ``trace``, ``debug``, ``info``, ``warn``, ``error`` or ``off``.
        log_format: ``json`` or ``text``.
        log_resource_names: write resource paths into logs and audit lines. Off: a short keyed digest,
            because the guest's console can reach the host.
        metrics: serve ``/metrics`` on the REST address.
    """

    log_level: str = "info"
    log_format: str = "json"
    log_resource_names: bool = False
    metrics: bool = True


class Config(msgspec.Struct, frozen=True):
    """Everything the daemon needs, and where it came from.

    Attributes:
        strict_origin: refuse trust settings from unmeasured places.
        origins: dotted field name to origin; fields that are missing are defaults.
        warnings: sentences for the operator found while reading (never secrets).
    """

    attester: Attester = msgspec.field(default_factory=Attester)
    hub: Hub = msgspec.field(default_factory=Hub)
    gateway: Gateway = msgspec.field(default_factory=Gateway)
    observe: Observe = msgspec.field(default_factory=Observe)
    control: Control = msgspec.field(default_factory=Control)
    strict_origin: bool = False
    origins: Mapping[str, Origin] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    warnings: tuple[str, ...] = ()
