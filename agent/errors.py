"""The closed error taxonomy.

Every failure a caller can see is one :class:`AgentError` with one :class:`ErrorCode`. A code fixes the
REST status, the RPC status, a sentence that is safe to show to any caller (the text can reach the
untrusted host console, so it names no resource, address or value) and a hint for the operator.

Errors are born where they are understood and are never re-wrapped into something vaguer.
``docs/errors.md`` is generated from this file (``make generate``).
"""

from __future__ import annotations

import enum

import msgspec


class Fault(enum.Enum):
    """Who has to act on an error."""

    CALLER = "caller"
    GUEST = "guest"
    BROKER = "broker"
    KEY_SERVICE = "key management service"
    HARDWARE = "hardware"


class RpcCode(enum.IntEnum):
    """Status codes shared by ttrpc and gRPC (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class Meaning(msgspec.Struct, frozen=True):
    """What one error code says to each audience.

    Attributes:
        fault: who has to act.
        rest: HTTP status of the REST answer.
        rpc: ttrpc and gRPC status.
        message: one sentence, safe for any caller and for the host console.
        hint: cause and next step for the operator.
        retry: whether the same request can succeed later without anyone changing anything.
    """

    fault: Fault
    rest: int
    rpc: RpcCode
    message: str
    hint: str
    retry: bool = False


def _caller(rest: int, rpc: RpcCode, message: str, hint: str) -> Meaning:
    return Meaning(Fault.CALLER, rest, rpc, message, hint)


def _guest(rest: int, rpc: RpcCode, message: str, hint: str, *, retry: bool = False) -> Meaning:
    return Meaning(Fault.GUEST, rest, rpc, message, hint, retry)


def _broker(rest: int, rpc: RpcCode, message: str, hint: str, *, retry: bool = False) -> Meaning:
    return Meaning(Fault.BROKER, rest, rpc, message, hint, retry)


def _service(rest: int, rpc: RpcCode, message: str, hint: str, *, retry: bool = False) -> Meaning:
    return Meaning(Fault.KEY_SERVICE, rest, rpc, message, hint, retry)


def _hardware(rpc: RpcCode, message: str, hint: str, *, rest: int = 503, retry: bool = False) -> Meaning:
    return Meaning(Fault.HARDWARE, rest, rpc, message, hint, retry)


_R = RpcCode


class ErrorCode(enum.Enum):
    """Every code there is; the name is stable and part of the interface."""

    # --- caller -------------------------------------------------------------------------------
    INVALID_REQUEST = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "The request is malformed.",
        "The cause names the field or the file; over REST and ttrpc it is in the log. docs/api.md has the "
        "routes and their parameters.",
    )
    INVALID_URI = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "The resource URI is malformed.",
        "Write kbs:///<repository>/<type>/<tag>, each part of letters, digits, '_', '-' and '.', "
        "with three slashes after 'kbs:'.",
    )
    UNKNOWN_ROUTE = _caller(
        404,
        _R.UNIMPLEMENTED,
        "There is nothing at this address.",
        "Resources are below /cdh/resource/, evidence and tokens below /aa/; see docs/api.md.",
    )
    METHOD_NOT_ALLOWED = _caller(
        405,
        _R.UNIMPLEMENTED,
        "This method is not allowed here.",
        "The Allow header of the answer lists the methods of this route.",
    )
    FEATURE_DISABLED = _caller(
        404,
        _R.UNIMPLEMENTED,
        "This API is switched off in this guest.",
        "Kata passes agent.guest_components_rest_api (resource, attestation or all) as --features; "
        "choose one that includes this route.",
    )
    PEER_REFUSED = _caller(
        403,
        _R.PERMISSION_DENIED,
        "Only callers inside this guest are served.",
        "The REST API answers loopback peers with a loopback Host header and without forwarding "
        "headers. A proxy in the pod, or a browser page, cannot use it.",
    )
    PAYLOAD_TOO_LARGE = _caller(
        413,
        _R.INVALID_ARGUMENT,
        "The request is larger than this API accepts.",
        "Limits and their reasons are listed in agent/config/limits.py; ttrpc frames end at 4 MiB.",
    )
    TOO_MANY_REQUESTS = _caller(
        429,
        _R.RESOURCE_EXHAUSTED,
        "Too many requests are waiting; try again.",
        "A caller keeps more requests open than one guest can need. Retry with a pause.",
    )
    CANCELLED = _caller(
        503,
        _R.CANCELLED,
        "The request was cancelled before it finished.",
        "The caller closed its connection, or the agent is stopping.",
    )
    UNKNOWN_TOKEN_TYPE = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "This token type does not exist or is not configured.",
        "Ask for 'kbs' and set [token_configs.kbs] url in aa.toml.",
    )

    # --- sealed secrets -----------------------------------------------------------------------
    SEALED_MALFORMED = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "The sealed secret is malformed.",
        "A sealed secret is 'sealed.' and three base64url parts without padding. Make a new one with "
        "'coco-agent seal'. Unsigned secrets of older releases need a signature.",
    )
    SEALED_UNSUPPORTED = _caller(
        400,
        _R.UNIMPLEMENTED,
        "This kind of sealed secret is not supported.",
        "Version 0.1.0, type 'vault' or 'envelope' (A256GCM; A256CTR only with a verified signature), signed "
        "with ES256, ES384 or EdDSA; see docs/sealed-secrets.md.",
    )
    SEALED_KEY_UNTRUSTED = _caller(
        403,
        _R.PERMISSION_DENIED,
        "The sealed secret names a signing key that this guest does not trust.",
        "Add the exact key id to sealed_secret.trusted_kids in agent.toml, or sign with a listed key.",
    )
    SEALED_KEY_UNKNOWN = _broker(
        404,
        _R.NOT_FOUND,
        "The sealed secret names a signing key that is not there.",
        "Upload the public key to the broker at the URI that is the key id, or put its file below "
        "/run/confidential-containers/cdh/sealed-secret.",
    )
    SEALED_KEY_INVALID = _caller(
        409,
        _R.FAILED_PRECONDITION,
        "The signing key of the sealed secret cannot be used.",
        "The key id must lead to a public JWK (EC P-256 or P-384, or OKP Ed25519) for the algorithm of the "
        "signature: a kbs:/// URI, or a file below /run/confidential-containers/cdh/sealed-secret.",
    )
    SEALED_SIGNATURE_INVALID = _caller(
        403,
        _R.PERMISSION_DENIED,
        "The signature of the sealed secret does not verify.",
        "The secret was changed, or it was signed with another key than its key id says. Seal it again.",
    )
    SEALED_DECRYPT_FAILED = _caller(
        409,
        _R.FAILED_PRECONDITION,
        "The data of the sealed secret does not decrypt.",
        "The key management service gave a key that is not the one it was sealed with. Seal it again.",
    )

    # --- image keys ---------------------------------------------------------------------------
    IMAGE_KEY_MALFORMED = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "The key provider request or its annotation packet is malformed.",
        "The annotation must hold kid, wrapped_data, iv and wrap_type (A256GCM or A256CTR) with a "
        "kbs:/// key id.",
    )
    IMAGE_KEY_UNSUPPORTED = _caller(
        400,
        _R.UNIMPLEMENTED,
        "This kind of wrapped image key is not supported.",
        "Supported are packet version 0.1.0 of provider 'kbs', and the services of docs/backends.md. "
        "'coco-agent image inspect' says for whom a layer's key is wrapped.",
    )
    IMAGE_KEY_UNWRAP_FAILED = _caller(
        409,
        _R.FAILED_PRECONDITION,
        "The image layer key cannot be unwrapped with the key that was released.",
        "The key at the packet's kid must be the 32 raw bytes the image was encrypted with.",
    )

    # --- guest --------------------------------------------------------------------------------
    CONFIG_INVALID = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "The agent's configuration is not valid.",
        "Run 'coco-agent config check FILE...'; it names the key and the file.",
    )
    KBS_NOT_CONFIGURED = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "No key broker is configured in this guest.",
        "Set [token_configs.kbs] url in aa.toml and [kbc] name = 'cc_kbc' with url in cdh.toml, or the "
        "kernel parameter agent.aa_kbc_params.",
    )
    KBC_UNKNOWN = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "The configured key broker client does not exist.",
        "kbc.name is 'cc_kbc' or 'offline_fs_kbc'.",
    )
    OFFLINE_STORE_INVALID = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "The offline resource store cannot be read.",
        "The store is a JSON object of '<repository>/<type>/<tag>' to standard base64; the log names the "
        "file.",
    )
    FILE_UNSAFE = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "A file the agent needs is not safe to open.",
        "The path leads through a symbolic link, is not a regular file, or others may write to it. The "
        "log names it.",
    )
    ROLE_UNREACHABLE = _guest(
        503,
        _R.UNAVAILABLE,
        "Another part of the guest agent does not answer.",
        "A role that runs alone reaches the others by their sockets; check that attestation-agent and "
        "confidential-data-hub run and that the socket paths agree.",
        retry=True,
    )
    ROLE_FAILED = _guest(
        502,
        _R.INTERNAL,
        "Another part of the guest agent failed and does not say why.",
        "It is another program than this one (its errors carry no code). Its own log has the cause.",
    )
    NOT_SUPPORTED = _guest(
        409,
        _R.UNIMPLEMENTED,
        "This operation is not supported here.",
        "docs/api.md lists the calls, docs/platforms.md what each platform can do.",
    )
    INIT_DATA_MISMATCH = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "The init-data does not match this guest's measurement.",
        "The host handed over other init-data than the hardware was started with, or a vTPM's PCR 8 was "
        "extended before. Compare with 'coco-agent initdata digest FILE'; the log has both digests.",
    )
    EVENT_LOG_CORRUPT = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "The runtime event log and the measurement register disagree.",
        "Something else extended the register, or the log was changed. The guest must be started anew; the "
        "log names file and register.",
    )
    DEADLINE_EXCEEDED = _guest(
        504,
        _R.DEADLINE_EXCEEDED,
        "The request took longer than its deadline.",
        "The log names the phase that used the time. Raise the caller's deadline or look at that phase.",
        retry=True,
    )
    GUEST_EXHAUSTED = _guest(
        503,
        _R.RESOURCE_EXHAUSTED,
        "This guest has no file descriptors or memory left for the request.",
        "Too many connections are open, or the guest is too small. Look for callers that keep connections; "
        "raise the limit of open files (ulimit -n) or the guest's memory.",
        retry=True,
    )
    INTERNAL = _guest(
        500,
        _R.INTERNAL,
        "The agent failed internally.",
        "This is a defect. Report the request id and the log lines that carry it.",
    )

    # --- broker -------------------------------------------------------------------------------
    RESOURCE_NOT_FOUND = _broker(
        404,
        _R.NOT_FOUND,
        "The key broker has no such resource, or cannot read it.",
        "Trustee answers PluginInternalError for a missing resource and for a broken storage backend "
        "alike. Check the path, then the broker's log.",
    )
    RESOURCE_DENIED = _broker(
        403,
        _R.PERMISSION_DENIED,
        "The key broker's policy denies this resource to this guest.",
        "Compare the token's claims with the resource policy; the default one denies sample evidence. New "
        "reference values count from the guest's next attestation: coco_token_seconds_left tells when.",
    )
    PLUGIN_NOT_FOUND = _broker(
        404,
        _R.NOT_FOUND,
        "The key broker does not offer this kind of resource.",
        "Enable the plugin in the broker's [[plugins]], or correct the scheme kbs+<plugin>.",
    )
    KBS_ADMIN_REQUIRED = _broker(
        403,
        _R.PERMISSION_DENIED,
        "The key broker gives this only to administrators.",
        "Guests cannot use this plugin or endpoint; fetch it with the administrator's client.",
    )
    KBS_POLICY_BROKEN = _broker(
        502,
        _R.FAILED_PRECONDITION,
        "The key broker's policy failed to run.",
        "The Rego policy at the broker has an error; see the broker's log and fix the policy.",
    )
    ATTESTATION_REJECTED = _broker(
        401,
        _R.UNAUTHENTICATED,
        "The key broker refused this guest's evidence.",
        "The broker logs why and does not say it to guests. Usual causes: reference values, missing "
        "collateral, an init-data mismatch, a verifier without this TEE.",
    )
    MEASUREMENT_REJECTED = _broker(
        401,
        _R.UNAUTHENTICATED,
        "The key broker says that this guest's measurement or init-data does not fit its policy.",
        "The log has its words. Compare the broker's reference values and attestation policy with what "
        "'coco-agent inspect' and 'coco-agent initdata digest' show of this guest.",
    )
    TOKEN_REJECTED = _broker(
        401,
        _R.UNAUTHENTICATED,
        "The key broker does not accept the attestation token.",
        "After a fresh attestation this is the broker's configuration: its token signer is not trusted "
        "([attestation_token]), or clocks differ by more than 60 s.",
    )
    TEE_KEY_REFUSED = _broker(
        502,
        _R.FAILED_PRECONDITION,
        "The key broker cannot encrypt to this guest's key type.",
        "Set token_configs.kbs.tee_key_algorithm to ECDH-ES+A256KW-P256.",
    )
    PROTOCOL_MISMATCH = _broker(
        502,
        _R.FAILED_PRECONDITION,
        "The key broker speaks another protocol version.",
        "This agent speaks KBS protocol 0.4.0; run a Trustee release that does, or a matching agent.",
    )
    KBS_BAD_RESPONSE = _broker(
        502,
        _R.UNAVAILABLE,
        "The key broker's answer cannot be understood.",
        "Something between guest and broker may answer in its place (proxy, wrong port, another "
        "service). The log has status and content type.",
    )
    KBS_RESPONSE_TOO_LARGE = _broker(
        502,
        _R.RESOURCE_EXHAUSTED,
        "The key broker's answer is larger than this agent accepts.",
        "Limits are in agent/config/limits.py; a resource served over ttrpc ends at 4 MiB.",
    )
    KBS_REDIRECT_REFUSED = _broker(
        502,
        _R.UNAVAILABLE,
        "The key broker's address redirects to another host or another resource, which is refused.",
        "Configure the broker's final URL; tokens are never sent to a host that the configuration does "
        "not name, and one resource is never taken for another.",
    )
    JWE_INVALID = _broker(
        502,
        _R.UNAVAILABLE,
        "The key broker's encrypted answer cannot be decrypted.",
        "The answer is not for this guest's key, uses a refused algorithm, or was changed on the way.",
    )
    KBS_UNREACHABLE = _broker(
        503,
        _R.UNAVAILABLE,
        "The key broker cannot be reached.",
        "Connection refused, reset or no route. Check the URL, the network policy and that the broker runs.",
        retry=True,
    )
    KBS_DNS_FAILED = _broker(
        503,
        _R.UNAVAILABLE,
        "The key broker's name cannot be resolved.",
        "Check the host name in the URL and the guest's DNS; early at boot there is no network yet.",
        retry=True,
    )
    KBS_TLS_FAILED = _broker(
        502,
        _R.UNAVAILABLE,
        "The key broker's TLS identity cannot be verified.",
        "Put the broker's CA into token_configs.kbs.cert and kbc.kbs_cert, or its key's pin into "
        "kbs.pins. The log names the TLS error.",
    )
    KBS_NOT_TLS = _broker(
        502,
        _R.UNAVAILABLE,
        "The key broker's URL is https, but its port does not speak TLS.",
        "Look at the port in the broker's URL. If the broker speaks plain http there, write http://, or put "
        "TLS in front of it; its CA has nothing to do with this.",
    )
    KBS_TLS_REQUIRED = _broker(
        503,
        _R.FAILED_PRECONDITION,
        "The key broker's URL is not https, and this guest requires it.",
        "Use an https:// URL, or remove kbs.require_tls from agent.toml.",
    )
    KBS_BUSY = _broker(
        503,
        _R.UNAVAILABLE,
        "The key broker is overloaded or failing; try again.",
        "The broker answered 429 or 5xx. See its log.",
        retry=True,
    )

    KBS_TIMEOUT = _broker(
        504,
        _R.DEADLINE_EXCEEDED,
        "The key broker took the connection and did not answer in time.",
        "The broker is overloaded or hangs; see its log. Raise the caller's deadline if it is only slow.",
        retry=True,
    )
    KBS_TLS_TIMEOUT = _broker(
        504,
        _R.DEADLINE_EXCEEDED,
        "The TLS handshake with the key broker did not end in time.",
        "Something takes connections and speaks no TLS: a wrong port, a proxy, an overloaded broker.",
        retry=True,
    )
    APPRAISAL_TIMEOUT = _broker(
        504,
        _R.DEADLINE_EXCEEDED,
        "The key broker did not finish judging this guest's evidence in time.",
        "Appraisal fetches vendor collateral, which can be slow or rate limited; see the broker's log.",
        retry=True,
    )
    CLOCK_SKEW = _broker(
        502,
        _R.FAILED_PRECONDITION,
        "The clocks of this guest and of the key broker differ too much.",
        "The log has the offset in seconds. Set the guest's clock, or the broker's.",
    )

    # --- key management services --------------------------------------------------------------
    KMS_UNREACHABLE = _service(
        503,
        _R.UNAVAILABLE,
        "The key management service cannot be reached.",
        "Check its address in the settings, the guest's network and the service; the log has the cause.",
        retry=True,
    )
    KMS_TIMEOUT = _service(
        504,
        _R.DEADLINE_EXCEEDED,
        "The key management service did not answer in time.",
        "The service is overloaded, or far away. Raise the caller's deadline if it is only slow.",
        retry=True,
    )
    KMS_BUSY = _service(
        503,
        _R.UNAVAILABLE,
        "The key management service is busy or down for a moment.",
        "It passes; the log has the status.",
        retry=True,
    )
    KMS_DENIED = _service(
        403,
        _R.PERMISSION_DENIED,
        "The key management service refuses these credentials, or this use of the key.",
        "Compare the policy of the service with the credentials that the key broker hands to this guest.",
    )
    KMS_NOT_FOUND = _service(
        404,
        _R.NOT_FOUND,
        "The key management service has no such key or secret.",
        "Compare name, version and region with what is stored there.",
    )
    KMS_BAD_RESPONSE = _service(
        502,
        _R.UNAVAILABLE,
        "The key management service answered something unexpected.",
        "Something that is not the service may answer at its address; the log says what was wrong.",
    )
    KMS_CREDENTIALS_MISSING = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "There are no credentials for the key management service.",
        "Name them in agent.toml (kms.credentials), or provision the file with [[credentials]] in cdh.toml.",
    )
    KMS_CREDENTIALS_INVALID = _guest(
        503,
        _R.FAILED_PRECONDITION,
        "The credentials for the key management service cannot be read.",
        "Compare the file with docs/backends.md; the log names the member.",
    )
    KMS_UNKNOWN = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "No backend of this release has the provider's name.",
        "docs/backends.md lists the names and what each can do.",
    )
    KMS_SETTINGS_INVALID = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "The provider settings or annotations are not those of this backend.",
        "Compare them with docs/backends.md; the log names the member.",
    )
    KMS_ENDPOINT_REFUSED = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "The secret names a service that this guest may not send credentials to.",
        "List the service's URL in agent.toml (kms.endpoints). Whoever makes secrets must not choose it.",
    )

    # --- images -------------------------------------------------------------------------------
    IMAGE_LAYER_CORRUPT = _caller(
        400,
        _R.FAILED_PRECONDITION,
        "An encrypted image layer was changed, or its key is another one's.",
        "The HMAC or a digest does not match; nothing was released. Fetch the image again.",
    )
    IMAGE_LAYOUT_INVALID = _caller(
        400,
        _R.INVALID_ARGUMENT,
        "The image layout cannot be read.",
        "It must be an OCI image layout; the log names file and member.",
    )

    # --- hardware -----------------------------------------------------------------------------
    NO_TEE = _hardware(
        _R.FAILED_PRECONDITION,
        "This guest has no TEE, so it can prove nothing.",
        "Run 'coco-agent info' for the detection trail. On a laptop set attester.allow_sample = true in "
        "agent.toml; never do that in production.",
    )
    TEE_NOT_SUPPORTED = _hardware(
        _R.UNIMPLEMENTED,
        "This release cannot collect evidence from this guest's TEE.",
        "The platform was recognised, but there is no attester for it; see docs/platforms.md.",
    )
    SAMPLE_REFUSED = _hardware(
        _R.FAILED_PRECONDITION,
        "Sample evidence is refused in this guest.",
        "Sample evidence proves nothing, and a sample key protects nothing. An image without the development "
        "kit makes no sample evidence, whatever agent.toml says: start that guest with a TEE.",
    )
    EVIDENCE_TIMEOUT = _hardware(
        _R.DEADLINE_EXCEEDED,
        "The TEE did not produce evidence in time.",
        "The log names the device. A quoting service that hangs, or a vendor library, is the usual cause.",
        rest=504,
        retry=True,
    )
    EVIDENCE_FAILED = _hardware(
        _R.UNAVAILABLE,
        "The TEE did not produce evidence.",
        "The log names the device and its answer.",
        retry=True,
    )

    EVIDENCE_MALFORMED = _hardware(
        _R.FAILED_PRECONDITION,
        "Evidence, or a part of it, cannot be parsed.",
        "The log names the structure, the field and its offset. 'coco-agent inspect FILE' shows the rest.",
    )
    DEVICE_MISSING = _hardware(
        _R.FAILED_PRECONDITION,
        "A device that this guest must have is missing or gives no evidence.",
        "attester.expected_devices in agent.toml names it. The log says what it answered.",
    )
    DEVICE_FORBIDDEN = _hardware(
        _R.FAILED_PRECONDITION,
        "The agent may not open the TEE's device.",
        "Run the agent as root, or give it the device; the log names the path and its mode.",
    )
    DEVICE_BUSY = _hardware(
        _R.UNAVAILABLE,
        "The TEE's device is busy or throttled by the host.",
        "Too many requests reach the security processor, mostly from other guests. It passes.",
        retry=True,
    )
    QUOTE_PATH_MISSING = _hardware(
        _R.FAILED_PRECONDITION,
        "The kernel of this guest offers no way to get a quote.",
        "The TEE was recognised, but its driver or configfs-tsm is missing: mount configfs, load the driver, "
        "or use a newer kernel. 'coco-agent doctor' says which.",
    )
    QUOTE_SERVICE_UNREACHABLE = _hardware(
        _R.UNAVAILABLE,
        "The service on the host that signs quotes does not answer.",
        "For TDX this is the quote generation service (QGS) on the host, on Azure the metadata service. The "
        "log names the address.",
        retry=True,
    )
    DEVICE_KEY_WIPED = _hardware(
        _R.FAILED_PRECONDITION,
        "The guest's key to the security processor is gone until the guest is started anew.",
        "The SEV guest driver wiped the VMPCK after an earlier failure. Restart the guest; if it comes back, "
        "set attester.snp_vmpl to the level this kernel runs at.",
    )

    @property
    def meaning(self) -> Meaning:
        """The fixed texts and statuses of this code."""
        value: Meaning = self.value
        return value


class AgentError(Exception):
    """The only exception that crosses a room's border.

    Attributes:
        code: the closed code.
        detail: operator-only cause, for the guest's log. Never holds a secret, token, key or body.
        problem: last part of the KBS problem ``type``, when the broker sent one.
        retry_after: seconds the broker asked us to wait, when it did (429, 503).
    """

    def __init__(
        self,
        code: ErrorCode,
        detail: str = "",
        *,
        problem: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.problem = problem
        self.retry_after = retry_after

    @property
    def message(self) -> str:
        """The caller-safe sentence."""
        return self.code.meaning.message

    @property
    def hint(self) -> str:
        """Cause and next step for the operator."""
        return self.code.meaning.hint

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.code.name}{detail}"
