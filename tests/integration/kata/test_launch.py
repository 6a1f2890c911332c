"""The built programs under kata-agent's own rules: one daemon, in time, without a network, and after it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from agent.hub.sealing import keygen, seal_vault
from rootfs import bundle, extension, layout
from tests.integration.kata import wire
from tests.integration.kata.guest import Kata, add_base, kata
from tests.integration.test_boot import namespaces_work
from tests.kata import AA_SOCKET, CDH_SOCKET

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.integration,
    # In CI nothing is skipped: what is missing there fails.
    pytest.mark.skipif(
        "CI" not in os.environ and not namespaces_work(), reason="needs root, to make namespaces"
    ),
]

URL = "http://kbs.test:8080"
AA_TOML = f'[token_configs.kbs]\nurl = "{URL}"\n'
CDH_TOML = f'[kbc]\nname = "cc_kbc"\nurl = "{URL}"\n'
KID = "kbs:///default/signing-key/sealed-secret"
HANDED_OVER_MB = 12.0
AA, CDH, ASR = "attestation-agent", "confidential-data-hub", "api-server-rest"


def initdata(**files: str) -> str:
    data = "".join(f"\"{name}\" = '''\n{content}'''\n" for name, content in files.items())
    return f'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n{data}'


DOCUMENT = initdata(**{"aa.toml": AA_TOML, "cdh.toml": CDH_TOML})
FILES = {"initdata.toml": DOCUMENT, "aa.toml": AA_TOML, "cdh.toml": CDH_TOML}


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of this checkout, built; shared by all guests of this file."""
    into = tmp_path_factory.mktemp("kata") / "root"
    bundle.build(bundle.Options(into=into, prefix=""))
    add_base(into)
    return into


@pytest.fixture(scope="module")
def secret() -> tuple[bytes, dict[str, str]]:
    """A sealed secret for ``default/key/1``, and what the broker has to have for it."""
    private, public = keygen(KID)
    sealed = seal_vault("kbs:///default/key/1", KID, private.reveal())
    return sealed.encode(), {KID.removeprefix("kbs:///"): public.decode()}


async def serves_after_the_network_came(there: Kata, sealed: bytes) -> None:
    """What all ways of starting lead to."""
    # kata-agent has connected already; that connection is the only one it will ever have.
    before = await there.say(wire.Unseal(sealed))
    assert before.code != 0
    assert before.error.startswith("[CDH] [ERROR]: ")
    assert "KBS_DNS_FAILED" in before.error
    await there.say(wire.Network())
    assert (await there.say(wire.Unseal(sealed))).body == b"late secret"
    answer = await there.say(wire.Get("/cdh/resource/default/key/1"))
    assert (answer.code, answer.body) == (200, b"late secret")
    assert (await there.say(wire.Look())).attestations == 1


@pytest.mark.parametrize("systemd", [True, False], ids=["systemd", "agent as init"])
async def test_three_programs_become_one_daemon(
    systemd: bool, tmp_path: Path, root: Path, secret: tuple[bytes, dict[str, str]]
) -> None:
    sealed, resources = secret
    async with kata(tmp_path, root, init_data=DOCUMENT, resources=resources) as there:
        told = await there.say(wire.Boot(files=FILES, features="all", systemd=systemd))
        assert told.error == ""
        # Sockets appear when they are asked for, and not before.
        assert told.sockets == {AA: [AA_SOCKET], CDH: [AA_SOCKET, CDH_SOCKET]}
        assert max(told.seconds.values()) < 7
        await serves_after_the_network_came(there, sealed)
        now = await there.say(wire.Look())
        assert set(now.running) == {AA, CDH, ASR}
        assert now.running[CDH] < HANDED_OVER_MB
        assert now.running[ASR] < HANDED_OVER_MB
        assert "init-data is bound" in now.log
        assert now.mounts
        assert not [path for path in now.files if path.startswith("/run/kata-containers")]
        assert json.loads((await there.say(wire.Get("/info"))).body)["tee"] == "snp"
        for name in (ASR, CDH, AA):
            assert (await there.say(wire.Signal(name, signal.SIGTERM))).code == 0
        left = await there.say(wire.Look())
        assert not [path for path in left.files if path.endswith(".sock")]


async def test_the_extensions_manifest_leads_to_the_same(
    tmp_path: Path, secret: tuple[bytes, dict[str, str]]
) -> None:
    """A base image without any of our files, and the built extension where Kata mounts it."""
    sealed, resources = secret
    extension.PRODUCT.current(extension.OUTPUT) or extension.build(extension.OUTPUT, bundle.CACHE)
    bare = tmp_path / "base"
    bare.mkdir()
    add_base(bare)
    image, where = extension.OUTPUT / extension.PRODUCT.erofs, layout.EXTENSION_ROOT
    async with kata(tmp_path, bare, init_data=DOCUMENT, resources=resources, extension=image) as there:
        told = await there.say(wire.Boot(files=FILES, features="all", systemd=False, extension=where))
        assert told.error == ""
        assert told.sockets == {AA: [AA_SOCKET], CDH: [AA_SOCKET, CDH_SOCKET]}
        await serves_after_the_network_came(there, sealed)
        now = await there.say(wire.Look())
        assert set(now.running) == {AA, CDH, ASR}
        assert max(now.running[CDH], now.running[ASR]) < HANDED_OVER_MB


async def test_without_init_data_the_kernel_names_the_broker(
    tmp_path: Path, root: Path, secret: tuple[bytes, dict[str, str]]
) -> None:
    sealed, resources = secret
    cmdline = f"console=ttyS0 agent.aa_kbc_params=cc_kbc::{URL} agent.unknown=1"
    async with kata(tmp_path, root, resources=resources) as there:
        assert (await there.say(wire.Boot(cmdline=cmdline))).error == ""
        await serves_after_the_network_came(there, sealed)
        # Only "resource" was asked for.
        assert (await there.say(wire.Get("/aa/token?token_type=kbs"))).code == 404


async def test_a_policy_alone_needs_no_broker(tmp_path: Path, root: Path) -> None:
    """Many test pods of Kata have nothing but policy.rego in their init-data."""
    document = initdata(**{"policy.rego": "package agent_policy\n"})
    async with kata(tmp_path, root, init_data=document) as there:
        assert (await there.say(wire.Boot(files={"initdata.toml": document}))).error == ""
        refused = await there.say(wire.Get("/cdh/resource/default/key/1"))
        assert refused.code not in {200, -1}
        assert "init-data is bound" in (await there.say(wire.Look())).log


async def test_a_pods_own_agent_toml_counts_for_all_roles(
    tmp_path: Path, root: Path, secret: tuple[bytes, dict[str, str]]
) -> None:
    """Nothing but agent.toml in init-data: kata-agent writes it nowhere, and names another broker."""
    sealed, resources = secret
    document = initdata(**{"agent.toml": f'[kbs]\nurl = "{URL}"\n[gateway]\nfeatures = "all"\n'})
    cmdline = "agent.aa_kbc_params=cc_kbc::http://evil.test:8080"
    async with kata(tmp_path, root, init_data=document, resources=resources) as there:
        told = await there.say(wire.Boot(files={"initdata.toml": document}, cmdline=cmdline))
        assert told.error == ""
        await serves_after_the_network_came(there, sealed)
        # The host asked for fewer routes than the pod allows.
        assert (await there.say(wire.Get("/aa/token?token_type=kbs"))).code == 404


async def test_the_host_cannot_widen_a_pods_own_agent_toml(tmp_path: Path, root: Path) -> None:
    document = initdata(**{"agent.toml": f'[kbs]\nurl = "{URL}"\n[gateway]\nfeatures = "resource"\n'})
    async with kata(tmp_path, root, init_data=document) as there:
        told = await there.say(wire.Boot(files={"initdata.toml": document}, features="all"))
        assert told.error == "", "nobody waits for the gateway"
        async with asyncio.timeout(
            20
        ):  # kata-agent does not wait for the gateway, so the refusal comes later
            while "would widen gateway.features" not in (now := await there.say(wire.Look())).log:
                pass
        assert (await there.say(wire.Get("/aa/token?token_type=kbs"))).code == -1
        assert {AA, CDH} <= now.running.keys()


async def test_init_data_that_the_host_did_not_measure_ends_the_machine(tmp_path: Path, root: Path) -> None:
    """SR-02: the attester exits without a socket, so kata-agent gives up and the machine powers off."""
    other = initdata(**{"aa.toml": AA_TOML.replace("kbs.test", "evil.test")})
    async with kata(tmp_path, root, init_data=DOCUMENT) as there:
        told = await there.say(wire.Boot(files={**FILES, "initdata.toml": other}, timeout=3))
        assert told.error == f"{AA}: no socket"
        after = await there.say(wire.Look())
        assert after.running == {}
        assert "INIT_DATA_MISMATCH" in after.log
        assert not [path for path in after.files if path.endswith(".sock")]


@pytest.mark.parametrize(
    ("procs", "sockets", "rest"),
    [
        ("none", [], False),
        (AA, [AA_SOCKET], False),
        (CDH, [AA_SOCKET, CDH_SOCKET], False),
    ],
)
async def test_only_what_was_asked_for_is_there(
    procs: str, sockets: list[str], rest: bool, tmp_path: Path, root: Path
) -> None:
    async with kata(tmp_path, root) as there:
        assert (await there.say(wire.Boot(procs=procs))).error == ""
        found = (await there.say(wire.Look())).files
        assert [path for path in (AA_SOCKET, CDH_SOCKET) if path in found] == sockets
        assert ((await there.say(wire.Get("/info"))).code == 200) is rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda one: one.name)
async def test_a_program_ends_with_its_role_and_the_others_go_on(
    number: signal.Signals, tmp_path: Path, root: Path
) -> None:
    async with kata(tmp_path, root) as there:
        await there.say(wire.Boot())
        assert (await there.say(wire.Signal(CDH, number))).code == 0
        now = await there.say(wire.Look())
        assert CDH_SOCKET not in now.files
        assert set(now.running) == {AA, ASR}
        assert (await there.say(wire.Get("/info"))).code == 200
        assert (await there.say(wire.Relaunch(CDH))).error == ""
        assert CDH_SOCKET in (await there.say(wire.Look())).files
        assert (await there.say(wire.Signal(AA, number))).code == 0
        assert (await there.say(wire.Look())).running == {}


async def test_a_hub_whose_daemon_died_says_so(tmp_path: Path, root: Path) -> None:
    async with kata(tmp_path, root) as there:
        await there.say(wire.Boot())
        await there.say(wire.Signal(AA, signal.SIGKILL))
        assert (await there.say(wire.Signal(CDH, 0))).code == 1
        assert f"{CDH}: the daemon that served this role is gone" in (await there.say(wire.Look())).log
        # Who starts it again gets the role: alone, since no daemon answers.
        assert (await there.say(wire.Relaunch(CDH))).error == ""
        assert (await there.say(wire.Look())).running[CDH] > HANDED_OVER_MB


@pytest.mark.parametrize(("name", "role"), [(CDH, "hub"), (ASR, "gateway")])
async def test_what_a_dead_launcher_leaves(name: str, role: str, tmp_path: Path, root: Path) -> None:
    async with kata(tmp_path, root) as there:
        await there.say(wire.Boot(features="all"))
        assert (await there.say(wire.Get("/info"))).code == 200
        await there.say(wire.Signal(name, signal.SIGKILL))
        rest = await there.say(wire.Get("/cdh/resource/default/key/1"))
        now = await there.say(wire.Look())
        assert set(now.running) == {AA, CDH, ASR} - {name}
        assert re.search(rf'"role closed".*"role":\s*"{role}"', now.log)
        assert (CDH_SOCKET in now.files) is (name == ASR)
        assert rest.code == (-1 if name == ASR else 503)
        if name == CDH:
            assert b"ROLE_UNREACHABLE" in rest.body


async def test_a_second_kata_agent_leaves_rest_with_the_first_daemon(tmp_path: Path, root: Path) -> None:
    async with kata(tmp_path, root) as there:
        assert (await there.say(wire.Boot(features="attestation"))).error == ""
        assert (await there.say(wire.Get("/info"))).code == 200
        assert (await there.say(wire.Boot(features="all"))).error == ""
        assert (await there.say(wire.Signal(ASR, 0))).code == 1
        now = await there.say(wire.Look())
        assert set(now.running) == {AA, CDH}
        assert {AA_SOCKET, CDH_SOCKET} <= set(now.files)
        assert "the REST address cannot be bound: 127.0.0.1:8006 or [::1]:8006: Address already" in now.log
        assert "not understood" not in now.log
        # The first one's features: resources are not among them.
        refused = await there.say(wire.Get("/cdh/resource/default/key/1"))
        assert b"FEATURE_DISABLED" in refused.body


@pytest.mark.parametrize(
    ("name", "content", "program"),
    [("aa.toml", "[token_configs.kbs\n", AA), ("cdh.toml", '[kbc]\nurl = "http://kbs.test"\n', CDH)],
)
async def test_a_broken_file_ends_with_a_reason_and_without_a_socket(
    name: str, content: str, program: str, tmp_path: Path, root: Path
) -> None:
    async with kata(tmp_path, root) as there:
        told = await there.say(wire.Boot(files={name: content}, timeout=2))
        assert told.error == f"{program}: no socket"
        assert (await there.say(wire.Signal(program, 0))).code == 1
        after = await there.say(wire.Look())
        assert "CONFIG_INVALID" in after.log
        assert name in after.log
        assert CDH_SOCKET not in after.files


def test_every_program_says_what_it_is(root: Path) -> None:
    """With nothing but /proc: no environment, no /run, no /tmp, no home."""
    enter = 'mount -t proc proc "$0/proc" && exec env -i "$(command -v chroot)" "$0" "$@"'
    inside = ("unshare", "--mount", "sh", "-c", enter)

    def said(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*inside, str(root), *words], capture_output=True, text=True, check=False)

    for name in (AA, CDH, ASR):
        program = f"/usr/local/bin/{name}"
        assert said(program, "--version").stdout.startswith("Guest Components Version: ")
        assert name in said(program, "--help").stdout
        wrong = said(program, "--nonsense")
        assert wrong.returncode == 2
        assert "--nonsense" in wrong.stderr
