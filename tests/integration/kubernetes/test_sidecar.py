"""The metrics sidecar with the manifest's own arguments and configuration.

A real Prometheus agent beside a real agent, pushing to a real Prometheus that has the alerts.
"""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.request
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from agent.config.model import Features
from agent.devkit.playground import playground
from tests.integration.kubernetes.manifests import container, one, tool
from tests.integration.support import http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from agent.devkit.playground import Playground

pytestmark = pytest.mark.integration

FILE = "metrics-sidecar.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def prometheus(folder: Path, *arguments: str, **environment: str) -> AsyncIterator[None]:
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            tool("prometheus"),
            *arguments,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/bin:/bin", **environment},
        )
    try:
        yield
        assert process.returncode is None, (folder / "log").read_text()
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[str]:
    """Prometheus as in the cluster: takes what is pushed, and has the rules."""
    folder.mkdir()
    address = f"127.0.0.1:{free_port()}"
    (folder / "rules.json").write_text(json.dumps(one("alerts.yaml", "PrometheusRule")["spec"]))
    (folder / "server.yml").write_text("global: {evaluation_interval: 1s}\nrule_files: [rules.json]\n")
    async with prometheus(
        folder,
        f"--config.file={folder}/server.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
        "--web.enable-remote-write-receiver",
    ):
        yield f"http://{address}"


@asynccontextmanager
async def sidecar(folder: Path, place: Playground, receiver: str) -> AsyncIterator[None]:
    """The container of the manifest; only addresses, paths and the pace are other ones."""
    folder.mkdir()
    configuration = one(FILE, "ConfigMap")["data"]["prometheus.yml"]
    for here, there in (
        ("127.0.0.1:8006", place.rest.removeprefix("http://")),
        ("https://prometheus.monitoring.example", receiver),
        ("scrape_interval: 30s", "scrape_interval: 1s"),
    ):
        assert here in configuration
        configuration = configuration.replace(here, there)
    (folder / "prometheus.yml").write_text(configuration)
    described = container(one(FILE, "Pod"), "metrics")
    (mounted, data) = (mount["mountPath"] for mount in described["volumeMounts"])
    arguments = [
        word.replace(f"={mounted}/", f"={folder}/")
        .replace(f"={data}", f"={folder}/data")
        .replace("9090", str(free_port()))
        for word in described["args"]
    ]
    assert [each["name"] for each in described["env"]] == ["POD_NAMESPACE", "POD_NAME"]
    async with prometheus(folder, *arguments, POD_NAMESPACE="shop", POD_NAME="pay-1"):
        yield


async def asked(url: str) -> Any:
    def ask() -> bytes:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            return bytes(answer.read())

    try:
        return json.loads(await asyncio.to_thread(ask))["data"]
    except OSError:  # not yet
        return None


async def until(url: str, good: Callable[[Any], bool]) -> Any:
    for _ in range(300):
        found = await asked(url)
        if found is not None and good(found):
            return found
        await asyncio.sleep(0.2)
    raise AssertionError(f"not within a minute: {found}")


def value(name: str) -> str:
    return f"/api/v1/query?query={quote(name)}"


async def test_metrics_leave_the_guest_and_a_denied_secret_is_an_alert(tmp_path: Path) -> None:
    # What Kata asks for by default.
    async with playground(features=Features.RESOURCE) as place, server(tmp_path / "server") as central:
        place.kbs.put("default/key/1", b"a secret")
        place.kbs.deny("default/key/1")
        async with sidecar(tmp_path / "sidecar", place, central):
            found = await until(
                central + value('coco_build_info{job="coco-agent"}'), lambda data: data["result"]
            )
            labels = found["result"][0]["metric"]
            assert (labels["namespace"], labels["pod"]) == ("shop", "pay-1")
            assert (await asked(f"{central}/api/v1/alerts"))["alerts"] == []
            assert (await http(f"{place.rest}/cdh/resource/default/key/1")).status == 403
            found = await until(f"{central}/api/v1/alerts", lambda data: data["alerts"])
    (alert,) = found["alerts"]
    assert (alert["labels"]["alertname"], alert["state"]) == ("CocoSecretDenied", "firing")
    assert "shop/pay-1" in alert["annotations"]["description"]
    assert b"default/key/1" not in json.dumps(found).encode()


async def test_the_sidecar_opens_no_port_to_the_network() -> None:
    pod = one(FILE, "Pod")
    assert not any("ports" in each for each in pod["spec"]["containers"])
    (listens,) = [word for word in container(pod, "metrics")["args"] if "listen-address" in word]
    assert listens == "--web.listen-address=127.0.0.1:9090"
