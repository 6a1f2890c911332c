"""Every limit in one place, each with its reason. Guards that use them: docs/threat-model.md."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- what callers make this process hold ------------------------------------------------------------
BUDGET: Final = 32 * MIB
"""Unfinished requests and unread answers of all connections together: the largest answer, the reserve, and
some more for everybody else."""

BUDGET_RESERVE: Final = 8 * MIB
"""Part of it for kata-agent's sockets, health and metrics: two of the largest ttrpc messages."""

HTTP_UNCOUNTED: Final = 1 * KIB
"""Bytes of each connection that are not counted: it costs several times that without any, and a small request
in two pieces is served when the account is full."""

HTTP_READ: Final = 64 * KIB
"""The buffer all connections of one HTTP server read into, and the most that one read brings."""

HTTP_PIECE: Final = 64 * KIB
"""Bytes of a large answer that are given to the kernel at a time; each is a look at who keeps reading."""

REST_TURN: Final = 1 * MIB
"""Bytes of one large resource that are made into answers in one turn of the loop: 1 to 3 ms."""

REST_TURN_WAITING: Final = 64
"""Requests that wait for such a turn: a tenth of a second of them."""

HTTP_SEND_BUFFER: Final = 64 * KIB
"""Bytes the kernel keeps for one connection's answers; it takes twice that for its own records too."""

HTTP_WAITING: Final = 128
"""Connections that wait for their client's first request, and as many for the rest of one. Each takes 3 to 9
KiB of small objects, and what thousands of them leave behind does not all go back to the guest."""

RELIEF_CONNECTIONS: Final = 128
"""Connections at a time from which memory is given back when most of them are gone; a pod has a few dozen."""

RELIEF_BYTES: Final = 4 * MIB
"""Held bytes from which it is; common answers leave at once."""

RELIEF_PAUSE: Final = 1.0
"""Seconds between the end of a rush and that: who comes back at once finds it as it was."""

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

REST_NAMES: Final = 64
"""Different resource names that are waited for. Each is work of its own, with 24 KiB of small objects, and
what thousands of them leave behind does not all go back to the guest; who wants the same name joins it."""

REST_SLOT: Final = 2.0
"""Seconds a request keeps its slot when all are taken and another comes; brokers answer much sooner."""

REST_SHARE: Final = 0.5
"""Share of the request slots that one user, or one resource name, may take: a pod whose programs start
together asks for one name many times."""

MAX_RUNTIME_DATA: Final = 4 * KIB
"""Runtime data for evidence: TEEs take 64 bytes, `sample` takes any length upstream."""

URI_MAX: Final = 4 * KIB
"""A resource URI. Trustee's own storage keys are file names."""

SEALED_MAX: Final = 256 * KIB
"""A sealed secret. A vault secret is below 1 KiB; envelopes carry data."""

UNSEAL_MAX_ITEMS: Final = 64
"""Sealed secrets in one request; a pod has a handful of files and variables."""

UNSEAL_MAX_BODY: Final = 1 * MIB
"""Sealed secrets in one request together, as JSON: 64 of 16 KiB, or four of the largest."""

UNSEAL_MAX_ANSWER: Final = 8 * MIB
"""Plaintext in one answer; a third more as base64."""

KEY_PROVIDER_MAX: Final = 256 * KIB
"""Key provider protocol JSON; a wrapped layer key is below 1 KiB."""

REST_MAX_HEAD: Final = 32 * KIB
"""Request line and header lines together. Agents and service meshes add a dozen lines, some with a token."""

REST_MAX_FIELD: Final = 8 * KIB - 2
"""One header line, as common servers take."""

REST_MAX_FIELDS: Final = 128
"""Header lines of one request; programs send about ten."""

REST_MAX_FRAMING: Final = 1 * MIB
"""What surrounds the chunks of one body: six bytes each, for the largest body in pieces of six bytes."""

HTTP_PER_TURN: Final = 16
"""Pipelined requests of one connection that are answered before others get their turn."""

HTTP_ACCEPTS: Final = 64
"""New connections that are taken before requests get their turn: about 6 ms."""

REST_SPARE_CONNECTIONS: Final = 64
"""Connections above REST_MAX_WAITING, so that the 429 can be said and health answers."""

REST_BACKLOG: Final = 512
"""Connections the kernel holds for us; a pod's containers start at once."""

TTRPC_MAX_CONNECTIONS: Final = 256
"""Connections to one socket; kata-agent, image-rs and a gateway keep one each, forever."""

TTRPC_KEPT_CONNECTIONS: Final = 8
"""Connections of one process that no newcomer's arrival closes; real programs keep one."""

TTRPC_MAX_CALLS: Final = 1024
"""Requests under way on all connections of one socket: two connections at TTRPC_MAX_STREAMS."""

TTRPC_MAX_ASKED: Final = 8 * MIB
"""Bytes of these requests: thirty of the largest that a method takes."""

TTRPC_OWN_CALLS: Final = 4
"""Requests under way that a connection may have whatever others do: an honest one has a handful."""

TTRPC_OWN_BYTES: Final = 8 * KIB
"""Bytes in each direction that a connection always may make us hold, and that are in no account: ordinary
requests have less than 4 KiB. All connections of one socket together: 4 MiB."""

TTRPC_READ_BUFFER: Final = 64 * KIB
"""What is read at once, into one buffer per socket: the largest frame takes 64 reads."""

TTRPC_SEND_BUFFER: Final = 64 * KIB
"""The kernel's buffer for unread answers of a connection, which it doubles: 32 MiB for all of one socket."""

GRPC_MAX_REQUEST: Final = 512 * KIB
"""A gRPC request. Methods take at most SEALED_MAX or KEY_PROVIDER_MAX; up to twice that hears our reason."""

GRPC_LARGE: Final = 16
"""gRPC requests that are read, or are larger than GRPC_SMALL, at a time; others wait in the kernel."""

GRPC_SMALL: Final = 8 * KIB
"""A gRPC request up to here lets others be read while it is worked on; a wrapped layer key is below 1 KiB."""

GRPC_STREAMS: Final = 100
"""gRPC requests under way on one connection: the least that HTTP/2 recommends, and clients count on it."""

GRPC_CALLS: Final = 128
"""gRPC requests under way on all connections; image tools ask for a few layers' keys at once."""

GRPC_CONNECTIONS: Final = 16
"""Connections to the gRPC address; an image tool keeps one, or one for each layer that it unpacks. A stream
that waits costs grpcio 16 KiB besides what it carries: 25 MiB for all streams of all connections."""

GRPC_UNREAD: Final = 8 * MIB
"""gRPC answers that are not read: two of the largest. They cannot be given up for others before
GRPC_CONNECTION_AGE ends their connection."""

GRPC_WINDOW: Final = 4 * KIB
"""What grpcio takes of a stream before anything asks for it; ordinary requests fit, the rest follows."""

GRPC_HEAD: Final = 2 * KIB
"""Metadata of a gRPC request; clients send half a dozen short lines."""

GRPC_SHARE: Final = (
    GRPC_LARGE * GRPC_MAX_REQUEST + GRPC_CALLS * GRPC_SMALL + GRPC_CONNECTIONS * GRPC_STREAMS * GRPC_WINDOW
)
"""What grpcio can hold of requests, uncounted: 15 MiB, set aside from BUDGET while gRPC is on."""

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

KBS_HANDSHAKES: Final = 2
"""Part of them that resources leave to handshakes: one is under way, and one of a token that is renewed."""

KBS_SLOW: Final = 22
"""Part of them that slow resources may hold: eight are left, each for KBS_SLOW_AFTER at most while others
wait, so that a crowd of unknown names moves on by eight a second."""

KBS_SLOW_NAMES: Final = 4096
"""Names that are remembered as slow, in 32 KiB: far more than can wait (REST_MAX_WAITING)."""

KBS_MAX_HEADERS: Final = 64
"""Head lines of one answer; Trustee sends five, proxies add a dozen."""

KBS_COOKIES: Final = 64
"""Cookies of balancers that one session keeps: as many as one answer has head lines; each sets one or two."""

KBS_COOKIES_SIZE: Final = 20 * KIB
"""Bytes of them together, as they go into a head: four of the largest that browsers take, 4 KiB."""

KBS_MAX_ENDPOINTS: Final = 16
"""Endpoints of one broker: replicas behind names of their own, a handful."""

TOKEN_HEADER: Final = 32 * KIB
"""Token up to which a request carries it. Common servers take heads of 8 to 64 KiB; an ordinary token has 2
to 6, one with much device evidence 170."""

TOKEN_HEADER_SMALL: Final = 4 * KIB
"""Up to this, every server takes a token: a 400 or a reset has another reason than its size."""

# --- our HTTP client ---------------------------------------------------------------------------------
HTTP_INTERIM: Final = 8
"""Answers like ``100 Continue`` ahead of one: servers send one or none."""

HTTP_FRAMING: Final = 1 * MIB
"""Chunk sizes and trailers of one answer: chunks of 1 KiB make 150 KiB around the largest resource."""

HTTP_ADDRESSES: Final = 16
"""Addresses of one name that are tried."""

HTTP_ADDRESS_PAUSE: Final = 0.25
"""Seconds until the next address of a name is tried beside the first (RFC 8305 8)."""

HTTP_IDLE: Final = 15.0
"""Seconds an idle connection is kept: below what balancers (30 to 60) and servers (75) keep theirs."""

TLS_VARIANTS: Final = 8
"""Choices of configured anchors that are tried with a server that all of them together refuse."""

# --- what key management services send ---------------------------------------------------------------
KMS_MAX_ANSWER: Final = 1 * MIB
"""An answer: the largest secret of any of them has 64 KiB, in base64 and JSON."""

KMS_MAX_HEAD: Final = 16 * KIB
"""Response head of a service."""

KMS_MAX_HEADERS: Final = 100
"""Head lines of one answer; cloud services send two dozen."""

KMS_CONNECTIONS: Final = 16
"""Exchanges under way with all services together."""

KMS_MAX_CREDENTIALS: Final = 64 * KIB
"""A credentials file; a PKCS#12 in JSON has a few KiB."""

KMS_MAX_ENDPOINTS: Final = 16
"""Addresses in kms.endpoints: a service or two, with replicas."""

# --- OCI image layouts -------------------------------------------------------------------------------
IMAGE_DOCUMENT_MAX: Final = 4 * MIB
"""An index or a manifest: what registries take."""

IMAGE_DOCUMENTS_MAX: Final = 16 * MIB
"""Indexes and manifests of one layout together, as text; in memory they take several times that."""

IMAGE_MANIFESTS_MAX: Final = 512
"""Manifests and nested indexes one command works on; an image has one for each platform, and attestations."""

IMAGE_LAYERS_MAX: Final = 1024
"""Layers of one manifest; runtimes end at 127."""

IMAGE_NESTING: Final = 4
"""Indexes within indexes; builders make two levels."""

IMAGE_WRAPPINGS_MAX: Final = 16
"""Wrappings of one layer key that are tried, each one question to the broker."""

IMAGE_CHUNK: Final = 512 * KIB
"""Bytes of a layer that go from step to step: they fit the processor's cache, and calls cost nothing."""

IMAGE_CHUNKS: Final = 6
"""Chunks of one layer in memory, each before and after the cipher: what one step may be ahead of another."""

IMAGE_JOBS: Final = 4
"""Layers at a time, at most: 24 MiB of chunks."""

# --- processes that ask the hardware ---------------------------------------------------------------
COLLECT_JOB_MAX: Final = 512 * KIB
"""What a process is told; for IBM SE it holds the broker's challenge (KBS_MAX_CHALLENGE) in base64."""

COLLECT_ANSWER_MAX: Final = 8 * MIB
"""What it answers: an event log (EVENT_LOG_MAX) in base64 beside a quote; eight GPUs need 170 KiB."""

DEVICE_ANSWER_MAX: Final = 256 * KIB
"""Evidence of one device of a family: a GPU's report and chain have 13 KiB."""

DEVICES_MAX: Final = 64
"""Devices of one family; the largest machines have 16 GPUs."""

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

INSPECT_MAX: Final = 8 * MIB
"""A file for `coco-agent inspect`: a KBS attestation of eight GPUs has 200 KiB, a CCEL table up to 1 MiB."""

INSPECT_CHAIN_MAX: Final = 256 * KIB
"""Certificates for `coco-agent inspect`: a chain of sixteen."""

JWK_MAX: Final = 64 * KIB
"""A public key file or resource."""

# --- event logs ------------------------------------------------------------------------------------
EVENT_LOG_MAX: Final = 4 * MIB
"""A firmware event log with the table around it; recorded ones have 64 KiB to 1 MiB, most of it unused."""

EVENT_LOG_EVENTS: Final = 32 * KIB
"""Events of one log. Firmware writes about a hundred; RUNTIME_LOG_MAX holds 14,000 of ours."""

EVENT_DIGESTS: Final = 16
"""Digests of one event, one for each bank; a TPM has up to five."""

RUNTIME_LOG_MAX: Final = 1 * MIB
"""Our own event log: it travels in every piece of evidence, and brokers take requests of 2 MiB."""

RUNTIME_EVENT_MAX: Final = REST_MAX_BODY
"""Domain, operation and content of one event together, in bytes."""

# --- resource cache --------------------------------------------------------------------------------
CACHE_ENTRIES: Final = 1024
"""Resources kept, unless configured otherwise; a pod uses dozens."""

CACHE_BYTES: Final = 16 * MIB
"""Their plaintext together, unless configured otherwise: one resource of the largest size."""

CACHE_REFUSALS: Final = 512
"""Refusals remembered; a caller that tries names must not fill the memory."""

CACHE_SPELLINGS: Final = 1024
"""Spellings of resource names known without parsing them again."""

CACHE_PATTERN: Final = 1 * KIB
"""Characters of one pattern in a cache rule."""

CACHE_NEGATIVE: Final = 0.0
"""Seconds a refusal is remembered. As upstream not at all: a corrected policy is seen to work at once."""

CACHE_NEGATIVE_MAX: Final = 60.0
"""The longest time a refusal can be remembered, in seconds: a policy that was corrected works soon."""

CACHE_MAX_TTL: Final = 24 * 3600.0
"""The longest ``ttl`` and ``max_stale``, in seconds: a revoked resource is gone within two days."""

CACHE_STALE_PATIENCE: Final = 3.0
"""Seconds the broker has to answer when a kept copy may stand in for it."""

FETCH_MARGIN: Final = 1.0
"""Seconds a caller must have left to fetch again what somebody with less time could not."""

CONTROL_LIST: Final = 3 * MIB
"""Names in one list of kept resources; an answer ends at TTRPC_MAX_BODY."""

CREDENTIALS_AT_ONCE: Final = 4
"""Credentials fetched at the same time: workloads come first."""

# --- TPM and Azure's metadata service ---------------------------------------------------------------
TPM_MAX_REPLY: Final = 4 * KIB
"""A TPM's answer: what Linux's driver holds (TPM_BUFSIZE)."""

TPM_PROBE: Final = 2.0
"""Seconds a TPM has to answer at detection; one that needs longer does not keep the daemon from starting."""

TPM_PATIENCE: Final = 10.0
"""Seconds to read or extend a register, and to wait for another process that holds the TPM."""

HCL_MAX: Final = 16 * KIB
"""Azure's report in the vTPM; current images have 2600 bytes."""

HCL_WAIT: Final = 15.0
"""Seconds until Azure's report must carry new user data; the paravisor renews it every 2 s at most."""

IMDS_REQUEST: Final = 5.0
"""One question to Azure's metadata service, which is on the same host."""

IMDS_MAX_ANSWER: Final = 256 * KIB
"""Its answer: three certificates, or a quote."""

VTPM_EVIDENCE_MAX: Final = 256 * KIB
"""Evidence of a vTPM as JSON; the oldest form, numbers in decimal, has 36 KiB."""

TSM_MAX_BLOB: Final = 1 * MIB
"""A report or certificate table of configfs-tsm. Quotes have 5 to 128 KiB; the kernel's limit is 16 MiB."""

SNP_MAX_CERTS: Final = 16 * KIB
"""The host's certificate table for an SNP report: the driver's own limit (SEV_FW_BLOB_MAX_SIZE)."""

QGS_MAX_ANSWER: Final = 256 * KIB
"""A quote generation service's answer; QEMU's buffer for it has 128 KiB."""

# --- time, in seconds ------------------------------------------------------------------------------
RPC_DEADLINE: Final = 50.0
"""What kata-agent, image-rs and api-server-rest wait. Used when a caller names no deadline."""

KBS_CONNECT: Final = 10.0
"""Connection set-up with TLS; a broker that needs longer is as good as down."""

KBS_REQUEST: Final = 45.0
"""One HTTP exchange: below RPC_DEADLINE, so that the caller hears the reason."""

ATTEST_DEADLINE: Final = 45.0
"""One handshake, evidence included. It runs for all waiting callers, so it has its own limit."""

KMS_REQUEST: Final = 10.0
"""One exchange with a key management service; they answer in milliseconds."""

EVIDENCE_DEADLINE: Final = 30.0
"""Evidence of all devices; eight GPUs take several seconds."""

DEVICES_SHARE: Final = 0.5
"""Share of the time for evidence that devices may use: one that hangs leaves the rest to the CPU."""

TOKEN_MARGIN: Final = 30.0
"""A token is renewed this long before it expires: the broker's clock and the way there."""

TOKEN_DEFAULT_LIFE: Final = 300.0
"""Life assumed for a token that names no expiry: Trustee's default."""

TOKEN_MAX_LIFE: Final = 24 * 3600.0
"""A token is never held longer, whatever it says."""

SKEW_LARGE: Final = 60.0
"""Seconds between guest's and broker's clock from which the clock is blamed: the leeway Trustee grants."""

SKEW_SAMPLES: Final = 5
"""Answers whose dates are remembered."""

RELEASED: Final = 1_788_220_800.0
"""2026-09-01: this release was not there before, so a clock that shows less is wrong."""

BREAKER_FIRST_PAUSE: Final = 2.0
"""Longest first pause of an endpoint that fails, when there is another to ask; doubled each time."""

BREAKER_LONGEST_PAUSE: Final = 30.0
"""Longest pause between probes of an endpoint that fails."""

BREAKER_PATIENCE: Final = 1.0
"""An exchange that had less time than this says nothing about an endpoint that is slow."""

KBS_SLOW_AFTER: Final = 1.0
"""A resource that takes longer is slow; brokers answer in milliseconds, or wait for something themselves."""

KBS_CONNECT_FIRST: Final = 3.0
"""Connection set-up while there is another endpoint to try."""

SESSION_MARGIN: Final = 2.0
"""A session of the broker is not used in its last seconds: the way there takes time."""

SESSION_MAX_LIFE: Final = 24 * 3600.0
"""A session is never taken for longer-lived, whatever its cookie says."""

SESSION_LIFE: Final = 300.0
"""Life of the broker's session when its cookie names none: Trustee's default, counted from /auth."""

LAUNCHERS_MAX: Final = 8
"""Launchers connected at once; there are two programs that hand over, and each may be restarted."""

LAUNCH_DEADLINE: Final = 10.0
"""Opening a launcher's role; it gives up after 5 s of silence itself."""

STOP_GRACE: Final = 3.0
"""Time for requests under way when the daemon stops."""

NOTIFY_TIMEOUT: Final = 0.5
"""Time a busy service manager has to take a datagram; the event loop waits for it."""

REST_KEEP_ALIVE: Final = 75.0
"""Seconds an idle connection is kept, also one that never sent a request."""

REST_HEAD: Final = 5.0
"""Seconds from the first byte of a head to its last; a program writes it at once."""

REST_BODY_GRACE: Final = 5.0
"""Seconds a body has besides its rate: a program may make it while it sends."""

REST_BODY_RATE: Final = 1.0 * KIB
"""Bytes per second a body has to bring on average after that; they come from the same guest."""

REST_WRITE_GRACE: Final = 20.0
"""Seconds an answer has besides its rate: a reader may be stopped for a moment."""

REST_WRITE_RATE: Final = 4.0 * KIB
"""Bytes per second a reader has to take on average after that; it is in the same guest."""

REST_LINGER: Final = 1.0
"""Seconds given to a body that nobody reads before its connection ends."""

REST_PLACE: Final = 0.5
"""Seconds for which a connection that waits for a request cannot lose its place: it was opened, or answered,
only a moment ago. Nobody opens connections so fast that all are younger."""

LOSSES_PAUSE: Final = 10.0
"""Seconds whose ended and refused connections make one line in the log."""

REST_PACE: Final = 0.25
"""Least seconds between two looks at the time limits of all connections; a look takes less than 1 ms."""

TTRPC_BACKSTOP: Final = 2.0
"""Seconds after the caller's timeout until the server cancels the work by itself. Handlers keep a deadline of
their own and say which phase used the time; a loop that was held up must not take that from them."""

TTRPC_PATIENCE: Final = 15.0
"""Seconds in which an unfinished frame, or an unread answer, ends or goes on by TTRPC_LEAST bytes. Peers are
in this guest and need milliseconds; a machine that is busy needs seconds."""

TTRPC_LEAST: Final = 64 * KIB
"""Bytes of progress in TTRPC_PATIENCE: a third of what the kernel's own buffer holds."""

TTRPC_STALLED: Final = 2.0
"""Seconds without a byte read after which unread answers are given up for somebody else's."""

GRPC_PATIENCE: Final = 5.0
"""Seconds a gRPC caller may take to send its request: milliseconds within a guest."""

GRPC_CONNECTION_AGE: Final = 30
"""Seconds after which a gRPC connection takes no new calls; image tools need it for a few seconds."""

GRPC_CONNECTION_GRACE: Final = 60
"""Seconds that its calls then have: more than RPC_DEADLINE."""

TTRPC_LOOK: Final = 1.0
"""Seconds between looks whether a peer that sends no more still waits for its answers."""

BIND_DEADLINE: Final = 30.0
"""Seconds to bind init-data at start: one report or a few TPM commands; kata-agent waits for the socket."""

EXTEND_DEADLINE: Final = 10.0
"""Seconds for a measurement, as upstream's hub waits (kata_integration.md 2.1)."""

# --- tries -----------------------------------------------------------------------------------------
BREAKER_FAILURES: Final = 3
"""Failures in a row after which another endpoint is asked first: one or two are a restart."""

RESOURCE_ATTESTATIONS: Final = 1
"""Fresh attestations one resource request may cause after a refused token."""

TOKEN_REFRESH_AT: Final = 0.8
"""Share of a token's life after which it is renewed in the background (user_pains.md row 3)."""

TOKEN_REFRESH_SPREAD: Final = 0.1
"""That share varies by this much either way, at random: guests that boot together do not renew together."""

TOKEN_REFRESH_WHILE_USED: Final = 300.0
"""Seconds after its last use a token is still renewed in the background: an idle guest makes no quotes."""

TOKEN_REFRESH_PAUSE: Final = 15.0
"""Seconds between background renewals that fail."""

RETRY_FOR: Final = 10.0
"""Seconds a failed request is tried again by default: a broker's restart, not a pod's patience."""

RETRY_FIRST_PAUSE: Final = 1.0
"""Upper bound of the first pause between tries, in seconds; doubled each time. With a quarter of it, guests
that meet a full broker send a fifth more requests and are served no sooner (docs/scale.md)."""

RETRY_REMEMBERED: Final = 6
"""Failures that count on from request to request: the pause they lead to is the longest one."""

RETRY_LONGEST_PAUSE: Final = 15.0
"""Upper bound of any pause between tries, in seconds: a broker that is back is found soon."""

RETRY_JOINED: Final = 0.5
"""Longest rest of a pause that a new caller joins, in seconds: the broker may be back since it began."""

RETRY_CUTS: Final = 3
"""Pauses of one request that others may cut short: enough for a network that comes up in pieces."""

OUTAGE_SHARE: Final = 0.4
"""Share of ``kbs.retry_for`` for a broker that answered before and cannot be reached now: 4 s by default, as
upstream waits (docs/adr/0006)."""

OUTAGE_KNOWN: Final = 10.0
"""Seconds after a request used up its patience in which the next ones get one try each: the rest of a
container's sealed values. The kubelet's first back-off is as long; a container that starts anew waits."""

OUTAGE_TRY: Final = 1.0
"""Seconds of that try when silence is to be expected; halved by each that was silent, since a container's
values are opened one after another."""

OUTAGE_TRY_LEAST: Final = 0.4
"""The least of it: a connection with TLS and an answer at 100 ms there and back."""

CREDENTIALS_FIRST_PAUSE: Final = 2.0
"""Pause after a credential's first failure; doubled each time. Each try has RETRY_FOR of its own."""

CREDENTIALS_LONGEST_PAUSE: Final = 60.0
"""Longest pause: a corrected policy is seen to work within a minute."""

RETRY_LEAST: Final = 0.25
"""Seconds a caller must have left for another try."""

RETRY_AFTER_MAX: Final = 60.0
"""Longest ``Retry-After`` that is believed, in seconds."""
