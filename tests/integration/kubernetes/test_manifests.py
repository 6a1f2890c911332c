"""The manifests are what the API takes, and what the agent understands."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from agent.config.load import load as load_config
from agent.config.model import Features
from agent.devkit.playground import playground
from agent.tee.initdata_transport import unpack
from tests.integration.kubernetes.manifests import (
    CC_INIT_DATA,
    DOCUMENT,
    FOLDER,
    KERNEL_PARAMS,
    container,
    everything,
    load,
    one,
)
from tests.integration.support import http, run
from tests.unit.doctor.node.trees import plant, snp_files

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

ALL = everything()
CUSTOM = {"PrometheusRule"}
"""No part of the API: promtool judges its content (test_alerts.py)."""
PODS = [(name, each) for name, each in ALL if each["kind"] == "Pod"]
VERSIONS = ("1.30", "1.34", "1.37")
COMMAND = re.compile(r"^    (coco-agent initdata build .*)$", re.MULTILINE)


def names(objects: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [f"{file}:{each['kind']}/{each['metadata']['name']}" for file, each in objects]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("item", ALL, ids=names(ALL))
def test_the_api_takes_it(item: tuple[str, dict[str, Any]], version: str) -> None:
    _, manifest = item
    if manifest["kind"] in CUSTOM:
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schemas_do_find_mistakes() -> None:
    pod = one("pod-init-data.yaml", "Pod")
    pod["spec"]["containers"][0]["comand"] = pod["spec"]["containers"][0].pop("command")
    with pytest.raises(kubernetes_validate.ValidationError, match="comand"):
        kubernetes_validate.validate(pod, VERSIONS[0], strict=True)


def test_the_document_names_every_file_and_every_file_it_names_is_there() -> None:
    text = DOCUMENT.read_text()
    linked = set(re.findall(r"\]\(kubernetes/([^)#]+)\)", text))
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert linked == files


@pytest.mark.parametrize("item", PODS, ids=names(PODS))
def test_pods_are_confined_and_of_a_class_that_is_there(item: tuple[str, dict[str, Any]]) -> None:
    file, pod = item
    classes = {each["metadata"]["name"] for each in load("runtime-classes.yaml")}
    spec = pod["spec"]
    if file == "node-check.yaml":  # looks at the host, so it does not run in a guest; and only looks
        assert "runtimeClassName" not in spec
        assert all(mount["readOnly"] for mount in container(pod, "doctor")["volumeMounts"])
    else:
        assert spec["runtimeClassName"] in classes
    assert spec["automountServiceAccountToken"] is False
    for each in spec["containers"]:
        assert each["securityContext"]["allowPrivilegeEscalation"] is False
        assert set(each["resources"]["limits"]) == {"cpu", "memory"}
        assert re.search(r":v?\d+(\.\d+)+$", each["image"]), "an image without its version"


def test_the_kernel_parameter_names_the_broker() -> None:
    pod = one("pod-kernel-parameter.yaml", "Pod")
    cmdline = f"console=ttyS0 {pod['metadata']['annotations'][KERNEL_PARAMS]} quiet"
    config = load_config(
        aa=None,
        cdh=None,
        agent=None,
        environ={},
        cmdline=cmdline,
        arguments={},
        roles=frozenset({"attester", "hub"}),
    )
    assert config.attester.kbs.url == config.hub.kbs.url == "https://kbs.example:8080"
    assert config.hub.kbc == "cc_kbc"


async def test_the_annotation_is_what_the_documents_command_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = COMMAND.findall(DOCUMENT.read_text())
    monkeypatch.chdir(FOLDER)
    status, printed, errors = await run(*shlex.split(command))
    assert status == 0, errors
    annotated = [pod for _, pod in PODS if CC_INIT_DATA in pod["metadata"].get("annotations", {})]
    assert len(annotated) >= 3
    for pod in annotated:
        assert pod["metadata"]["annotations"][CC_INIT_DATA] == printed.decode().strip()


async def test_the_annotation_decodes_to_the_files(tmp_path: Path) -> None:
    value = one("pod-init-data.yaml", "Pod")["metadata"]["annotations"][CC_INIT_DATA]
    assert unpack(value.encode()).form == "annotation"
    status, output, _ = await run("coco-agent", "initdata", "inspect", "-", "--json", stdin=value.encode())
    found = json.loads(output)
    assert status == 0
    assert [(each["name"], each["good"]) for each in found["files"]] == [
        ("aa.toml", True),
        ("cdh.toml", True),
    ]
    assert all("https://kbs.example:8080" in each["about"] for each in found["files"])
    assert len(bytes.fromhex(found["digest"])) == 32  # fits a vTPM too


async def test_the_sealed_secret_opens_in_an_attested_guest() -> None:
    sealed = one("sealed-secret.yaml", "Secret")["stringData"]
    async with playground() as place:
        place.kbs.put(
            "default/signing-key/sealed-secret", (FOLDER / "sealed-signing-public.json").read_bytes()
        )
        place.kbs.put("default/db/password", b"a password")
        place.kbs.put("default/db/client-key", b"a key")
        body = json.dumps([sealed["password"], sealed["client.key"]]).encode()
        answer = await http(f"{place.rest}/cdh/unseal", "POST", body)
    assert [base64.b64decode(each["value"]) for each in answer.json()] == [b"a password", b"a key"]


def test_the_sealed_secrets_reach_the_container_as_environment_and_as_file() -> None:
    secret, pod = one("sealed-secret.yaml", "Secret"), one("sealed-secret.yaml", "Pod")
    main, name = container(pod, "main"), secret["metadata"]["name"]
    reference = main["env"][0]["valueFrom"]["secretKeyRef"]
    assert (reference["name"], reference["key"] in secret["stringData"]) == (name, True)
    (volume,) = pod["spec"]["volumes"]
    assert volume["secret"]["secretName"] == name
    assert {item["key"] for item in volume["secret"]["items"]} <= set(secret["stringData"])
    assert [mount["name"] for mount in main["volumeMounts"]] == [volume["name"]]


@pytest.mark.parametrize(("opened", "status"), [(True, 0), (False, 1)])
async def test_the_pod_notices_a_secret_that_was_not_opened(
    opened: bool, status: int, tmp_path: Path
) -> None:
    secret, main = one("sealed-secret.yaml", "Secret"), container(one("sealed-secret.yaml", "Pod"), "main")
    file = tmp_path / "client.key"
    file.write_text("a key" if opened else secret["stringData"]["client.key"])
    shell, option, script = main["command"]
    process = await asyncio.create_subprocess_exec(
        shell,
        option,
        script.replace("/sealed/client.key", str(file)),
        env={"PATH": "/usr/bin:/bin", "PASSWORD": "a password"},
        stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == status


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize("file", ["pod-kernel-parameter.yaml", "pod-init-data.yaml"])
async def test_the_pods_own_command_ends_well_when_the_secret_is_released(file: str, released: bool) -> None:
    busybox = shutil.which("busybox")  # what the pods' image is
    if busybox is None:
        assert not os.environ.get("CI"), "busybox is missing"
        pytest.skip("busybox is missing. Run: sudo apt-get install busybox-static")
    command = container(one(file, "Pod"), "main")["command"]
    async with playground(features=Features.RESOURCE) as place:
        place.kbs.put("default/key/1", b"a secret")
        if not released:
            place.kbs.deny("default/key/1")
        words = [word.replace("http://127.0.0.1:8006", place.rest) for word in command]
        assert words != command
        process = await asyncio.create_subprocess_exec(
            busybox, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode == 0) is released, output
    assert b"a secret" not in output  # the host reads what a pod prints


async def test_the_check_of_a_node_is_a_command_of_ours(tmp_path: Path) -> None:
    doctor = container(one("node-check.yaml", "Pod"), "doctor")
    root = {mount["mountPath"] for mount in doctor["volumeMounts"]}
    assert root == {doctor["command"][doctor["command"].index("--sysroot") + 1]}
    command = [str(plant(tmp_path, snp_files())) if word in root else word for word in doctor["command"]]
    status, output, _ = await run(*command)
    assert (status, b"can run them" in output) == (0, True)
