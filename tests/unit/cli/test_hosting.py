"""What the daemon makes of a launcher's command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from agent import handover
from agent.cli.hosting import Host
from agent.config.assemble import InitDataFile
from agent.config.document import parse
from agent.config.model import Source
from agent.roles import Role
from agent.serve.launchers import AloneError, RefusedError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agent.config.model import Config
    from agent.daemon import Daemon

HERE = handover.network_namespace()


class Opened:
    """In a daemon's place: remembers what it is asked to open."""

    def __init__(self) -> None:
        self.role: Role | None = None
        self.config: Config | None = None

    async def open(self, role: Role, config: Config, listeners: Sequence[socket.socket] = ()) -> None:
        self.role, self.config = role, config

    async def close(self, role: Role) -> None:
        self.role = None


def host(daemon: Opened, *own: Role) -> Host:
    return Host(cast("Daemon", daemon), frozenset(own or {Role.ATTESTER}))


def wanted(
    program: str,
    *arguments: str,
    folder: str = "/",
    network: str = HERE,
    environ: Mapping[str, str] | None = None,
) -> handover.Wanted:
    return handover.Wanted(program, folder, network, environ or {}, arguments)


async def test_a_role_is_opened_with_its_launchers_own_configuration(tmp_path: Path) -> None:
    """Files from its folder, variables from its environment; the daemon's mean nothing."""
    (tmp_path / "cdh.toml").write_text('socket = "unix:///run/mine.sock"\n[kbc]\nname = "cc_kbc"\n')
    (tmp_path / "cdh.toml").chmod(0o600)
    daemon = Opened()
    environ = {"AA_KBC_PARAMS": "cc_kbc::http://kbs.test:8080", "AA_SOCKET": "unix:///run/other.sock"}
    plan = host(daemon).plan(
        wanted("confidential-data-hub", "-c", "cdh.toml", folder=str(tmp_path), environ=environ)
    )
    assert plan.bind is None
    await plan.open([])
    assert daemon.role is Role.HUB
    assert daemon.config is not None
    assert daemon.config.hub.socket == "unix:///run/mine.sock"
    assert daemon.config.hub.kbs.url == "http://kbs.test:8080"
    assert daemon.config.hub.aa_socket == "unix:///run/other.sock"
    await plan.close()
    assert daemon.role is None


async def test_a_gateways_launcher_is_told_what_to_bind() -> None:
    daemon = Opened()
    # It may be in the pod's network: that is why it binds itself.
    plan = host(daemon).plan(wanted("api-server-rest", "-b", "[::1]:9000", "-f", "all", network="another"))
    assert plan.bind == ("::1", 9000)
    await plan.open([])
    assert daemon.config is not None
    assert daemon.config.gateway.features.value == "all"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (wanted("confidential-data-hub", network="another"), "network"),
        (wanted("attestation-agent"), "attester"),
        (wanted("sshd"), "attester"),
    ],
)
def test_what_cannot_be_served_from_here_is_left_to_its_launcher(asked: handover.Wanted, reason: str) -> None:
    with pytest.raises(AloneError, match=reason):
        host(Opened()).plan(asked)


@pytest.mark.parametrize("arguments", [("-hf", "all"), ("-hV",), ("--help",)])
def test_what_asks_for_help_does_not_end_the_daemon(arguments: tuple[str, ...]) -> None:
    with pytest.raises(AloneError, match="itself"):
        host(Opened()).plan(wanted("api-server-rest", *arguments))


def test_a_role_the_daemon_was_started_with_is_not_taken_over() -> None:
    with pytest.raises(AloneError, match="hub"):
        host(Opened(), *Role).plan(wanted("confidential-data-hub"))


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--nonsense",), 2, "--nonsense"),
        (("-c", "/nonexistent/cdh.toml"), 1, "/nonexistent/cdh.toml"),
    ],
)
def test_mistakes_are_the_launchers_to_print(arguments: tuple[str, ...], status: int, says: str) -> None:
    with pytest.raises(RefusedError) as refused:
        host(Opened()).plan(wanted("confidential-data-hub", *arguments))
    assert refused.value.status == status
    assert says in refused.value.text


async def test_the_roles_of_launchers_see_the_agent_toml_of_init_data() -> None:
    document = parse("initdata.toml[agent.toml]", b'[gateway]\nfeatures = "resource"\n', "agent.toml")
    daemon = Opened()
    made = Host(cast("Daemon", daemon), frozenset({Role.ATTESTER}), InitDataFile(document, bound=True))
    await made.plan(wanted("api-server-rest", "--features", "resource")).open(())
    assert daemon.config is not None
    assert daemon.config.origins["gateway.features"].source is Source.INIT_DATA
    with pytest.raises(RefusedError, match=r"gateway\.features"):
        made.plan(wanted("api-server-rest", "--features", "all"))
