"""Development KBS and agent in one process, on loopback, with sample evidence or in a simulated guest."""

from __future__ import annotations

import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from agent.config.model import (
    Attester,
    Cache,
    Config,
    Control,
    Features,
    Gateway,
    Hub,
    Kbs,
    Kms,
    SealedSecrets,
)
from agent.daemon import Daemon
from agent.devkit.kbs import DevKbs
from agent.devkit.kbs import Settings as KbsSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agent.devkit.guests import SimulatedGuest
    from agent.tee.base import EvidenceSource


class Playground(msgspec.Struct, frozen=True):
    """A running pair.

    Attributes:
        kbs: the development KBS.
        daemon: the agent.
        rest: base URL of the REST API.
        hub_socket: address of the hub's ttrpc socket.
        attester_socket: address of the attester's ttrpc socket.
        control_socket: address of the control socket.
    """

    kbs: DevKbs
    daemon: Daemon
    rest: str
    hub_socket: str
    attester_socket: str
    control_socket: str


@asynccontextmanager
async def playground(
    *,
    port: int = 0,
    kbs_port: int = 0,
    features: Features = Features.ALL,
    sealed: SealedSecrets | None = None,
    evidence: EvidenceSource | None = None,
    cache: Cache | None = None,
    kms: Kms | None = None,
    grpc: str = "",
    guest: SimulatedGuest | None = None,
    init_data: str | None = None,
) -> AsyncIterator[Playground]:
    """Start both, yield them, stop both. Sockets live in a private temporary folder.

    Args:
        port: REST port on 127.0.0.1; 0 for a free one.
        kbs_port: KBS port on 127.0.0.1; 0 for a free one.
        features: REST routes.
        sealed: sealed secret rules; upstream's by default.
        evidence: such as slow evidence (``SampleAttester(latency=3.0, blocking=True)``); sample by default.
        cache: resource cache; keeps nothing but refusals by default.
        kms: key management services; none that needs an address or credentials by default.
        grpc: address of the gRPC key provider, such as ``127.0.0.1:0``; none by default.
        guest: a simulated TEE; its attester runs as in a real guest, and the KBS believes its throw-away
            roots. Without one, sample evidence.
        init_data: TOML text the guest was bound to; sent with every attestation.
    """
    with tempfile.TemporaryDirectory(prefix="coco-dev-") as folder:
        real = Path(folder).resolve()
        # T-DEV-13: throw-away roots are believed by this broker alone, and only while it serves their guest.
        believed = KbsSettings() if guest is None else KbsSettings(roots=guest.roots)
        async with DevKbs(believed, port=kbs_port) as kbs:
            broker = Kbs(url=kbs.url)
            own = Attester(allow_sample=True) if guest is None else guest.settings
            config = Config(
                attester=replace(own, socket=f"unix://{real}/aa.sock", kbs=broker),
                hub=Hub(
                    socket=f"unix://{real}/cdh.sock",
                    kbc="cc_kbc",
                    kbs=broker,
                    sealed=sealed or SealedSecrets(key_dir=str(real)),
                    cache=cache or Cache(),
                    kms=kms or Kms(),
                    grpc=grpc,
                ),
                gateway=Gateway(bind=f"127.0.0.1:{port}", features=features),
                control=Control(f"unix://{real}/control.sock"),
            )
            daemon = Daemon(config, evidence=evidence, init_data=init_data)
            await daemon.start()
            try:
                yield Playground(
                    kbs,
                    daemon,
                    daemon.rest_url,
                    config.hub.socket,
                    config.attester.socket,
                    config.control.socket,
                )
            finally:
                await daemon.stop()
