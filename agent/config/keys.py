"""Every key there is, once: the loader, the checker and docs/configuration.md all work from these tables.

Upstream's keys: cdh.md 3.2 and 3.3, kata_integration.md 9.4. Environment and kernel command line: cdh.md 3.4
and 3.5, kata_integration.md 1.4.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import cache_kinds, device_kinds, endpoint_kinds, kinds, kms_kinds

if TYPE_CHECKING:
    from agent.config.kinds import Kind

_KBS: Final = ("attester.kbs", "hub.kbs")


class File(enum.Enum):
    """The files; upstream's two and ours."""

    AA = "aa.toml"
    CDH = "cdh.toml"
    AGENT = "agent.toml"


class Key(msgspec.Struct, frozen=True):
    """One key of one file.

    Attributes:
        file: where it stands.
        name: dotted name.
        kind: how its value is read.
        example: a value in TOML.
        meaning: for the reference.
        sets: dotted fields of the model that take the value; empty when this release has no use for it.
        trust: whether it decides whom or what the guest trusts (``security.strict_origin``).
        fills: only sets fields that the role's own file leaves empty.
        contents: the value names a file whose content is the value.
        lenient: a wrong value is a warning, as upstream.
        required: upstream refuses a file without it.
        needed: upstream refuses its table without it.
        used: False for what is read into the model, or only checked, and has no effect yet.
    """

    file: File
    name: str
    kind: Kind
    example: str
    meaning: str
    sets: tuple[str, ...] = ()
    trust: bool = False
    fills: bool = False
    contents: bool = False
    lenient: bool = False
    required: bool = False
    needed: bool = False
    used: bool = True


class Place(msgspec.Struct, frozen=True):
    """An environment variable, kernel parameter or command line argument.

    Attributes:
        name: as it is written there.
        example: a value.
        meaning: for the reference.
        sets: dotted fields of the model it can set, within :mod:`agent.config.narrow`.
    """

    name: str
    example: str
    meaning: str
    sets: tuple[str, ...] = ()


def _both(field: str) -> tuple[str, ...]:
    return tuple(f"{role}.{field}" for role in _KBS)


def _aa(name: str, kind: Kind, example: str, meaning: str, field: str, **flags: bool) -> Key:
    return Key(File.AA, name, kind, example, meaning, (field,), **flags)


def _cdh(name: str, kind: Kind, example: str, meaning: str, field: str, **flags: bool) -> Key:
    return Key(File.CDH, name, kind, example, meaning, (field,), **flags)


def _image(name: str, kind: Kind, example: str, meaning: str) -> Key:
    return Key(File.CDH, f"image.{name}", kind, example, meaning, used=False)


def _ours(name: str, kind: Kind, example: str, meaning: str, *fields: str, **flags: bool) -> Key:
    return Key(File.AGENT, name, kind, example, meaning, fields, **flags)


_PEM_EXAMPLE: Final = '"""-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----\\n"""'
_PIN_EXAMPLE: Final = '["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]'
_ENDPOINTS_EXAMPLE: Final = (
    f'[{{ url = "https://kbs-1.example:8080", pins = {_PIN_EXAMPLE} }}, {{ url = "https://kbs-2.example" }}]'
)
_CREDENTIAL_EXAMPLE: Final = (
    '[{ path = "/run/confidential-containers/cdh/kbs/aws", resource_uri = "kbs:///default/aws/key" }]'
)
_RULES_EXAMPLE: Final = '[{ pattern = "default/*/*", ttl = 300, max_stale = 600 }]'
_KMS_CREDENTIALS_EXAMPLE: Final = '{ "aws/credential.json" = "kbs:///default/aws/credential" }'
_PROXY_EXAMPLE: Final = '"http://10.0.0.1:3128"'
_REGISTRIES: Final = '{ unqualified-search-registries = ["docker.io"] }'

_AA: Final = (
    _aa("token_configs.kbs.url", kinds.URL, '"https://kbs.example:8080"', "key broker to attest at",
        "attester.kbs.url", trust=True, needed=True),
    _aa("token_configs.kbs.cert", kinds.PEM, _PEM_EXAMPLE,
        "certificates trusted for the broker, besides the system's", "attester.kbs.extra_roots", trust=True),
    _aa("token_configs.kbs.tee_key_algorithm", kinds.KEY_ALGORITHM, '"RSA-OAEP-256"',
        "how the broker encrypts to this guest", "attester.key_algorithm"),
    _aa("token_configs.coco_as.url", kinds.TEXT, '"http://as.example:50004"', "attestation service",
        "attester.coco_as_url", trust=True, needed=True, used=False),
    _aa("eventlog_config.init_pcr", kinds.PCR, "16", "register for runtime measurements",
        "attester.init_pcr"),
    _aa("eventlog_config.enable_eventlog", kinds.FLAG, "true", "keep a log of runtime measurements",
        "attester.enable_eventlog"),
    _aa("eventlog_config.require_firmware_log", kinds.FLAG, "false",
        "answer NOT_SUPPORTED to measurements in TDX and CSV guests without a firmware log (CCEL)",
        "attester.require_firmware_log"),
    _aa("log.level", kinds.FILTER, '"debug"', "log level; of a filter, its first plain level",
        "observe.log_level", lenient=True),
)  # fmt: skip

_CDH: Final = (
    _cdh("socket", kinds.SOCKET, '"unix:///run/hub.sock"', "listen address", "hub.socket"),
    _cdh("skip_sealed_secret_verification", kinds.FLAG, "true",
         "accept sealed secrets without checking who signed them; for tests only",
         "hub.sealed.skip_verification", trust=True),
    _cdh("aa.aa_socket", kinds.SOCKET, '"unix:///run/aa.sock"', "the attester's address", "hub.aa_socket",
         trust=True),
    _cdh("kbc.name", kinds.NAME, '"cc_kbc"',
         "`cc_kbc`, or `offline_fs_kbc` without a broker; another name fails at first use",
         "hub.kbc", trust=True, required=True),
    _cdh("kbc.url", kinds.TEXT, '"https://kbs.example:8080"',
         "key broker to fetch from; without meaning for `offline_fs_kbc`", "hub.kbs.url", trust=True),
    _cdh("kbc.kbs_cert", kinds.PEM, _PEM_EXAMPLE,
         "certificates trusted for the broker, besides the system's", "hub.kbs.extra_roots", trust=True),
    _cdh("credentials", kinds.CREDENTIALS, _CREDENTIAL_EXAMPLE, "resources to fetch into files",
         "hub.credentials", trust=True),
    _cdh("log.level", kinds.FILTER, '"debug"', "log level; of a filter, its first plain level",
         "observe.log_level", lenient=True),
    _image("work_dir", kinds.TEXT, '"/run/kata-containers/image/"', "where images are unpacked"),
    _image("max_concurrent_layer_downloads_per_image", kinds.COUNT, "3", "layers fetched at the same time"),
    _image("image_security_policy_uri", kinds.TEXT, '"kbs:///default/security-policy/test"',
           "image policy; wins over `image_security_policy`"),
    _image("image_security_policy", kinds.TEXT, '"{}"', "image policy, JSON text"),
    _image("sigstore_config_uri", kinds.TEXT, '"kbs:///default/sigstore-config/test"',
           "where signatures are; wins over `sigstore_config`"),
    _image("sigstore_config", kinds.TEXT, '""', "where signatures are, YAML text"),
    _image("authenticated_registry_credentials_uri", kinds.TEXT, '"kbs:///default/credential/test"',
           "registry credentials"),
    _image("registry_configuration_uri", kinds.TEXT, '"kbs:///default/registry-configuration/test"',
           "registries and mirrors"),
    _image("registry_config", kinds.TABLE, _REGISTRIES,
           "registries and mirrors; wins over `registry_configuration_uri`"),
    _image("image_pull_proxy.https_proxy", kinds.TEXT, _PROXY_EXAMPLE, "proxy for https registries"),
    _image("image_pull_proxy.http_proxy", kinds.TEXT, _PROXY_EXAMPLE, "proxy for http registries"),
    _image("image_pull_proxy.no_proxy", kinds.TEXT, '"localhost"', "registries reached directly"),
    _image("extra_root_certificates", kinds.TEXTS, f"[{_PEM_EXAMPLE}]",
           "certificates trusted for registries"),
)  # fmt: skip

_AGENT: Final = (
    _ours("kbs.url", kinds.URL, '"https://kbs.example:8080"',
          "key broker of both roles, where aa.toml or cdh.toml names none", *_both("url"),
          trust=True, fills=True),
    _ours("kbs.cert", kinds.PEM, _PEM_EXAMPLE,
          "certificates trusted for the broker, where aa.toml or cdh.toml has none",
          *_both("extra_roots"), trust=True, fills=True),
    _ours("kbs.cert_file", kinds.PATH, '"/etc/coco-agent/kbs.pem"', "the same, from a file",
          *_both("extra_roots"), trust=True, fills=True, contents=True),
    _ours("kbs.pins", kinds.PINS, _PIN_EXAMPLE,
          "SHA-256 of the broker's SubjectPublicKeyInfo; any one of them is accepted, and no certificate "
          "authority is asked", *_both("pins"), trust=True),
    _ours("kbs.proxy", kinds.PROXY, '"http://proxy.example:3128"',
          "proxy for the broker; the environment's proxies are never used", *_both("proxy"), trust=True),
    _ours("kbs.require_tls", kinds.FLAG, "true", "refuse http:// brokers", *_both("require_tls"), trust=True),
    _ours("kbs.connect_timeout", kinds.SECONDS, "5", "connection set-up", *_both("connect_timeout")),
    _ours("kbs.request_timeout", kinds.SECONDS, "20", "one exchange with the broker",
          *_both("request_timeout")),
    _ours("kbs.retry_for", kinds.SPAN, "30",
          "how long a request is tried again while the broker cannot be reached or is busy, at most until "
          "the caller's deadline; two fifths of it when the broker answered before and cannot be reached "
          "now; 0: not at all", *_both("retry_for")),
    _ours("kbs.endpoints", endpoint_kinds.ENDPOINTS, _ENDPOINTS_EXAMPLE,
          "all endpoints of the broker, in order of preference, each with pins or certificates of its own or "
          "with those of `kbs`; for a role whose broker is one of them, or that has no broker",
          *_both("endpoints"), trust=True),
    _ours("kbs.token_header_limit", kinds.COUNT, "8192",
          "bytes of a token above which the session cookie of the attestation is sent for it",
          *_both("token_header_limit")),
    _ours("attester.allow_sample", kinds.FLAG, "true",
          "without a TEE, make evidence that proves nothing; for laptops and tests only",
          "attester.allow_sample", trust=True),
    _ours("attester.sample_device", kinds.FLAG, "true",
          "also offer the sample device; needs `allow_sample`", "attester.sample_device", trust=True),
    _ours("attester.refresh_while_used", kinds.SPAN, "600",
          "how long after its last use the token is still renewed in the background; 0: never, so that "
          "the first request after its end waits for a new one", "attester.refresh_while_used"),
    _ours("attester.expected_devices", device_kinds.EXPECTED, '["nvidia:8"]',
          "devices without whose evidence there is no attestation, with a count where it matters; other "
          "devices that fail are left out with a warning", "attester.expected_devices", trust=True),
    _ours("attester.allow_unbound_init_data", kinds.FLAG, "true",
          "accept init-data on a platform that has no register to compare it with",
          "attester.allow_unbound_init_data", trust=True),
    _ours("attester.snp_vmpl", device_kinds.VMPL, "2",
          "privilege level asked for in an SNP report; below a paravisor the guest runs at 2",
          "attester.snp_vmpl"),
    _ours("attester.tdx_quote_vsock", device_kinds.VSOCK, '"2:4050"',
          "quote generation service to ask directly, without configfs-tsm", "attester.tdx_quote_vsock"),
    _ours("attester.tpm_device", kinds.TEXT, '"/dev/tpmrm0"',
          "TPM to use; empty: the first of /dev/tpmrm0 and /dev/tpm0", "attester.tpm_device"),
    _ours("attester.tpm_ak_handle", device_kinds.HANDLE, '"0x81010001"',
          "persistent handle of a plain TPM's attestation key", "attester.tpm_ak_handle"),
    _ours("attester.imds_url", device_kinds.SERVICE, '"http://127.0.0.1:8181"',
          "Azure's instance metadata service", "attester.imds_url"),
    _ours("hub.offline_stores", kinds.PATHS, '["/etc/store.json"]',
          "JSON stores of `offline_fs_kbc`; later ones override", "hub.offline_stores", trust=True),
    _ours("sealed_secret.trusted_kids", kinds.NAMES, '["kbs:///default/signing-key/"]',
          "signing keys sealed secrets may name: exact ids, or prefixes ending in `/` or `*`; empty: any",
          "hub.sealed.trusted_kids", trust=True),
    _ours("sealed_secret.key_dir", kinds.PATH, '"/etc/coco-agent/sealed-secret"',
          "folder of local public JWK files", "hub.sealed.key_dir", trust=True),
    _ours("kms.credentials", kms_kinds.CREDENTIALS, _KMS_CREDENTIALS_EXAMPLE,
          "resources to use as credentials of key management services, fetched after attestation, by "
          "provider and file name", "hub.kms.credentials", trust=True),
    _ours("kms.credentials_dir", kinds.PATH, '"/run/confidential-containers/kms"',
          "folder with a folder of credentials per provider", "hub.kms.credentials_dir", trust=True),
    _ours("kms.endpoints", kms_kinds.ENDPOINTS, '["https://vault.example:8200"]',
          "addresses that credentials may be sent to, for providers whose address is part of a secret",
          "hub.kms.endpoints", trust=True),
    _ours("kms.cert", kinds.PEM, _PEM_EXAMPLE,
          "roots of key management services, besides the system's", "hub.kms.extra_roots", trust=True),
    _ours("kms.timeout", kinds.SECONDS, "5", "one exchange with a key management service", "hub.kms.timeout"),
    _ours("hub.grpc", kms_kinds.GRPC, '"127.0.0.1:50000"',
          "address of the gRPC key provider, a loopback one or `unix://<path>`; empty: none. Needs grpcio",
          "hub.grpc"),
    _ours("cache.rules", cache_kinds.RULES, _RULES_EXAMPLE,
          "which resources are kept in memory, and how long: the first pattern that matches decides, `*` "
          "stays within its segment; for `max_stale` seconds longer while the broker cannot be reached",
          "hub.cache.rules", trust=True),
    _ours("cache.max_entries", kinds.COUNT, "100", "resources kept at most", "hub.cache.max_entries"),
    _ours("cache.max_bytes", kinds.COUNT, "1048576", "bytes of plaintext kept at most",
          "hub.cache.max_bytes"),
    _ours("cache.negative_ttl", cache_kinds.PAUSE, "3",
          "how long a \"not found\" or \"denied\" is remembered; 0: the broker is always asked",
          "hub.cache.negative_ttl"),
    _ours("control.socket", cache_kinds.CONTROL, '"unix:///run/control.sock"',
          "socket of `coco-agent cache`, for root; empty: none", "control.socket"),
    _ours("control.launchers", kinds.FLAG, "false",
          "one process: serve the roles of launchers that are started after the attester",
          "control.launchers"),
    _ours("gateway.bind", kinds.BIND, '"127.0.0.1:9000"',
          "REST address; IPv6 in brackets; one of localhost brings the other", "gateway.bind"),
    _ours("gateway.features", kinds.FEATURES, '"all"',
          "which REST routes exist; `attestation` gives evidence, and tokens with the TEE's private key",
          "gateway.features", trust=True),
    _ours("gateway.compat_status", kinds.FLAG, "true", "answer every backend failure with 500, as upstream",
          "gateway.compat_status"),
    _ours("gateway.extra_hosts", kinds.HOSTS, '["agent.internal"]',
          "Host names accepted besides loopback names", "gateway.extra_hosts"),
    _ours("gateway.deadline", kinds.SECONDS, "48", "one REST request", "gateway.deadline"),
    _ours("observe.log_level", kinds.LEVEL, '"warn"', "log level", "observe.log_level"),
    _ours("observe.log_format", kinds.FORMAT, '"text"', "log format", "observe.log_format"),
    _ours("observe.log_resource_names", kinds.FLAG, "true",
          "write resource paths into the logs, which may reach the host; off: a keyed digest",
          "observe.log_resource_names"),
    _ours("observe.metrics", kinds.FLAG, "false", "serve `/metrics` on the REST address", "observe.metrics"),
    _ours("security.strict_origin", kinds.FLAG, "true",
          "refuse to start when a trust setting comes from an unmeasured place",
          "strict_origin"),
)  # fmt: skip

KEYS: Final[tuple[Key, ...]] = (*_AA, *_CDH, *_AGENT)

TRUST: Final = frozenset(field for key in KEYS if key.trust for field in key.sets)
"""Model fields that only measured input should set."""

AA_KBC_PARAMS: Final = "AA_KBC_PARAMS"
AA_SOCKET: Final = "AA_SOCKET"
KBS_CERT: Final = "KBS_CERT"
OFFLINE_EXTRA: Final = "OFFLINE_FS_KBC_EXTRA_FILE_PATH"
RUST_LOG: Final = "RUST_LOG"
SKIP_VERIFICATION: Final = "SKIP_SEALED_SECRET_VERIFICATION"
REGISTRY_CREDENTIALS: Final = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS"

ENVIRONMENT: Final = (
    Place(AA_KBC_PARAMS, "cc_kbc::https://kbs.example:8080",
          "`<kbc name>::<URL>`, split at the first `::`, so that IPv6 addresses work (upstream refuses them)",
          ("attester.kbs.url", "hub.kbc", "hub.kbs.url")),
    Place(AA_SOCKET, "unix:///run/aa.sock", "the attester's address",
          ("hub.aa_socket",)),
    Place(KBS_CERT, "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
          "PEM certificates for the hub's broker, when no file has any", ("hub.kbs.extra_roots",)),
    Place(OFFLINE_EXTRA, "/etc/more.json", "comma-separated JSON stores, read after the default ones",
          ("hub.offline_stores",)),
    Place(RUST_LOG, "debug", "log level; wins over every file", ("observe.log_level",)),
    Place(SKIP_VERIFICATION, "true",
          "never obeyed: only `skip_sealed_secret_verification` in cdh.toml switches verification off"),
    Place(REGISTRY_CREDENTIALS, "file:///run/peerpod/auth.json",
          "accepted; this release does not pull images"),
)  # fmt: skip

KERNEL_KBC: Final = "agent.aa_kbc_params"
KERNEL_RESOURCES: Final = "cdh.kbs_resources"
KERNEL_TIMEOUT: Final = "agent.cdh_api_timeout"

KERNEL: Final = (
    Place(KERNEL_KBC, "cc_kbc::https://kbs.example:8080", "as `AA_KBC_PARAMS`",
          ("attester.kbs.url", "hub.kbc", "hub.kbs.url")),
    Place(KERNEL_RESOURCES, "kbs:///default/aws/credential::/run/confidential-containers/cdh/kbs/aws.json",
          "`<URI>::<path>`, comma-separated; when no file has `credentials`",
          ("hub.credentials",)),
    Place(KERNEL_TIMEOUT, "20", "kata-agent's time limit in seconds; compared with ours, nothing is set"),
)  # fmt: skip

ARGUMENTS: Final = {
    "attester.socket": kinds.SOCKET,
    "attester.sysroot": kinds.PATH,
    "attester.eventlog_dir": kinds.PATH,
    "gateway.bind": kinds.BIND,
    "gateway.features": kinds.FEATURES,
    "gateway.cdh_address": kinds.SOCKET,
    "gateway.aa_address": kinds.SOCKET,
}
"""Model fields a command line can set."""


def keys_of(file: File) -> tuple[Key, ...]:
    """The keys of one file, in the order of the reference."""
    return tuple(key for key in KEYS if key.file is file)
