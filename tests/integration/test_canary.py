"""SR-04: marked secrets through every API at every log level; they must turn up nowhere else."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING

import pytest

from agent.devkit import demo
from agent.devkit.kbs import DevKbs
from agent.hub.image_keys import wrap
from agent.hub.image_packets import build_protocol_input
from agent.hub.sealing import keygen, seal_vault
from agent.serve.ttrpc.remote import RemoteAttester, RemoteHub
from tests.integration.support import http, program, run, soon, visible
from tests.integration.test_programs import free_port, until_listening, write

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

MARK = "CANARY"
PLAIN = f"{MARK}-plaintext-5b1f0c"
LEVELS = ("trace", "debug", "info", "warn", "error", "off")


class Canaries:
    """Every secret of one run, in every form it could leak in."""

    def __init__(self) -> None:
        self.texts: set[str] = set()

    def add(self, secret: bytes) -> None:
        self.texts.add(secret.hex())
        for encoded in (base64.b64encode(secret), base64.urlsafe_b64encode(secret)):
            self.texts.add(encoded.decode().rstrip("="))
        try:
            self.texts.add(secret.decode())
        except UnicodeDecodeError:
            self.texts.add(repr(secret)[2:-1])

    def found_in(self, text: str) -> list[str]:
        return [canary for canary in self.texts if canary in text]


async def every_api(rest: str, folder: Path, kbs: DevKbs, canaries: Canaries, name: str) -> str:
    """Use everything, well and badly; what came back where no secret belongs.

    ``name`` is what somebody puts where a resource's name belongs.
    """
    material = demo.prepare(kbs)
    private, public = keygen("kbs:///default/signing-key/1")
    kek = f"{MARK}-kek-0123456789abcdef01234".encode()[:32]
    kbs.put("default/db/password", PLAIN.encode())
    kbs.put("default/signing-key/1", public)
    kbs.put("default/image-kek/1", kek)
    kbs.put("denied/db/password", PLAIN.encode())
    kbs.deny("denied/*")
    sealed = seal_vault("kbs:///default/db/password", "kbs:///default/signing-key/1", private.reveal())
    symkey = base64.b64encode(f"{MARK}-symkey-89abcdef01234567"[:32].encode()).decode()
    packet = wrap(json.dumps({"symkey": symkey}).encode(), kek, "kbs:///default/image-kek/1")
    for secret in (PLAIN.encode(), kek, symkey.encode(), private.reveal(), material.password):
        canaries.add(secret)
    canaries.add(json.loads(private.reveal())["d"].encode())

    shown: list[str] = []
    for _ in range(3):  # from the broker, from memory, and on the short way from memory
        assert (await http(f"{rest}/cdh/resource/default/db/password")).body.decode() == PLAIN
    token = json.loads((await http(f"{rest}/aa/token?token_type=kbs")).body)
    canaries.add(token["token"].encode())
    canaries.add(token["token"].split(".")[2].encode())
    canaries.texts |= set(token["tee_keypair"].splitlines()[1:-1])

    tampered = sealed[:-8] + "AAAAAAAA"
    hub, attester = RemoteHub(f"unix://{folder}/cdh.sock"), RemoteAttester(f"unix://{folder}/aa.sock")
    calls = [
        hub.get_resource("kbs:///denied/db/password", soon()),
        hub.get_resource(f"kbs:///{name}/../{name}", soon()),
        hub.get_resource(f"http://user:{PLAIN}@host/{name}", soon()),
        hub.unseal(tampered.encode(), soon()),
        hub.unseal(PLAIN.encode(), soon()),
        hub.unseal(f"sealed.{PLAIN}.{PLAIN}.{PLAIN}".encode(), soon()),
        hub.unwrap_key(build_protocol_input(packet.replace(b"A256GCM", b"A256CTR")), soon()),
        hub.unwrap_key(PLAIN.encode(), soon()),
        hub.unwrap_key(build_protocol_input(PLAIN.encode()), soon()),
        attester.token(PLAIN, soon()),
    ]
    shown += [repr(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]
    good = [
        await hub.unseal(sealed.encode(), soon()),
        await hub.unwrap_key(build_protocol_input(packet), soon()),
    ]
    assert good[0].reveal().decode() == PLAIN
    assert symkey.encode() in bytes(json.loads(good[1].reveal())["keyunwrapresults"]["optsdata"])
    shown += [repr(good), f"{good[0]} {good[0]!s}"]
    await hub.close()
    await attester.close()

    for path in (
        "/cdh/resource/denied/db/password",
        f"/cdh/resource/{name}",
        f"/cdh/resource/default/db/password/{name}",
        f"/aa/token?token_type={PLAIN}",
        f"/aa/evidence?runtime_data=x&encoding={PLAIN}",
        f"/{PLAIN}",
        "/metrics",
        "/readyz",
        "/healthz",
        "/info",
    ):
        for headers in ({}, {"Accept": "application/json"}, {"Authorization": f"Bearer {PLAIN}"}):
            answer = await http(f"{rest}{path}", headers=headers)
            shown.append(f"{answer.headers}{answer.body!r}")
    answer = await http(f"{rest}/aa/aael", method="POST", body=f'{{"domain": "{PLAIN}'.encode())
    shown.append(repr(answer.body))
    for body in (f'["{PLAIN}"', json.dumps([[PLAIN]]), json.dumps([tampered, PLAIN, f"sealed.{PLAIN}.x.y"])):
        shown.append(repr((await http(f"{rest}/cdh/unseal", method="POST", body=body.encode())).body))
    batch = await http(f"{rest}/cdh/unseal", method="POST", body=json.dumps([sealed, PLAIN]).encode())
    assert base64.b64decode(batch.json()[0]["value"]).decode() == PLAIN
    shown.append(f"{batch.headers}{batch.json()[1]}")
    kbs.rotate_signer()
    shown.append(str((await http(f"{rest}/cdh/resource/default/db/password")).headers))
    control = f"unix://{folder}/control.sock"
    for words in (("list",), ("list", "--json"), ("drop", f"kbs:///{PLAIN}"), ("drop", "--all")):
        shown.append(repr(await run("coco-agent", "cache", *words, "--socket", control)))
    assert "default/db/password" in shown[-4]
    return "\n".join(shown)


@pytest.mark.parametrize(("style", "names"), [("json", False), ("text", True)])
@pytest.mark.parametrize("level", LEVELS)
async def test_no_secret_turns_up_where_it_does_not_belong(
    level: str, style: str, names: bool, tmp_path: Path
) -> None:
    folder, port, canaries = tmp_path.resolve(), free_port(), Canaries()
    rest = f"http://127.0.0.1:{port}"
    async with DevKbs() as kbs:
        aa = write(folder, "aa.toml", f'[token_configs.kbs]\nurl = "{kbs.url}"\n[log]\nlevel = "{level}"\n')
        cdh = write(
            folder,
            "cdh.toml",
            f'socket = "unix://{folder}/cdh.sock"\n[kbc]\nname = "cc_kbc"\nurl = "{kbs.url}"\n',
        )
        own = write(
            folder,
            "agent.toml",
            f"[attester]\nallow_sample = true\n[observe]\nlog_resource_names = {str(names).lower()}\n"
            f'log_level = "{level}"\nlog_format = "{style}"\n[control]\nsocket = "unix://{folder}/control.sock"\n'
            '[cache]\nrules = [{ pattern = "default/*/*", ttl = 300, max_stale = 300 }]\n',
        )
        files = ("--aa-config", aa, "--cdh-config", cdh, "--agent-config", own)
        sockets = ("--attestation-sock", f"unix://{folder}/aa.sock", "--bind", f"127.0.0.1:{port}")
        async with program(folder, "coco-agent", "serve", *files, *sockets, "--features", "all") as agent:
            await visible(folder / "cdh.sock", agent)
            await until_listening(port)
            shown = await every_api(rest, folder, kbs, canaries, "a-name" if names else PLAIN)
            _, config, errors = await run("coco-agent", "config", "show", *files)
            await agent.stop()
    log = agent.logged()
    assert "coco.audit" in log  # the audit log is on at every level
    assert canaries.texts
    for place in (log, shown, config.decode(), errors):
        assert not canaries.found_in(place)
    assert ("db/password" in log) == names  # SR-27: the host's console shows names only if asked to
    # What a caller put into the wrong place is not echoed either, marked or not.
    assert MARK not in log
