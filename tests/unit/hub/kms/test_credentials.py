"""Credentials by name: a resource where one is configured, else a file, never anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.config.model import Cache, CacheRule, Kms
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.cache import ResourceCache
from agent.hub.kms.credentials import Credentials, Hidden, parse_credentials
from agent.hub.resources import Resources
from agent.observe.metrics import Metrics
from agent.secret import Secret
from tests.unit.hub import support
from tests.unit.hub.support import StoredGetter, failure, soon, unhurried

if TYPE_CHECKING:
    from pathlib import Path

URI = "kbs:///default/aws/credential"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "aws").mkdir()
    support.write(tmp_path / "aws" / "credential.json", b"from a file")
    return tmp_path


async def refusal(credentials: Credentials, provider: str, name: str) -> AgentError:
    with pytest.raises(AgentError) as caught:
        await credentials.read(provider, name, soon())
    return caught.value


async def test_a_file(folder: Path) -> None:
    getter = StoredGetter({URI: b"from the broker"})
    credentials = Credentials(Kms(credentials_dir=str(folder)), support.resources(getter))
    first = await credentials.read("aws", "credential.json", soon())
    assert first.reveal() == b"from a file"
    first.wipe()
    support.write(folder / "aws" / "credential.json", b"rotated")
    assert (await credentials.read("aws", "credential.json", soon())).reveal() == b"rotated"
    assert getter.asked == []


async def test_a_resource_instead_of_the_file(folder: Path) -> None:
    getter = StoredGetter({URI: b"from the broker"})
    settings = Kms(credentials_dir=str(folder), credentials=(("aws/credential.json", URI),))
    credentials = Credentials(settings, support.resources(getter))
    assert (await credentials.read("aws", "credential.json", soon())).reveal() == b"from the broker"
    getter.held.clear()
    error = await refusal(credentials, "aws", "credential.json")
    assert error.code is ErrorCode.KMS_CREDENTIALS_MISSING  # the file is no second choice
    assert URI in error.detail


@pytest.mark.parametrize("code", [ErrorCode.RESOURCE_DENIED, ErrorCode.KBS_UNREACHABLE])
async def test_why_the_broker_has_none(code: ErrorCode) -> None:
    class Refusing(StoredGetter):
        async def get(self, *_: object) -> Secret:
            raise AgentError(code, "because", retry_after=3.0)

    settings = Kms(credentials=(("aws/credential.json", URI),))
    error = await refusal(Credentials(settings, support.resources(Refusing())), "aws", "credential.json")
    assert (error.code, error.retry_after) == (code, 3.0)
    assert error.detail == f"aws/credential.json ({URI}): because"


async def test_a_copy_past_its_time_is_no_credential() -> None:
    clock, getter = FakeClock(), StoredGetter({URI: b"from the broker"})
    rule = CacheRule(pattern="default/aws/*", ttl=10.0, max_stale=1000.0)
    cache = ResourceCache(Cache(rules=(rule,)), clock, lambda: "")
    resources = Resources(lambda: getter, Metrics(), cache)
    credentials = Credentials(Kms(credentials=(("aws/credential.json", URI),)), resources)
    for _ in range(3):
        await credentials.read("aws", "credential.json", soon())
    assert getter.asked == [URI]  # the rule keeps it

    getter.fault = ErrorCode.KBS_UNREACHABLE
    clock.advance(11.0)
    assert (await resources.get(URI, soon())).reveal() == b"from the broker"  # others may have it
    assert (await refusal(credentials, "aws", "credential.json")).code is ErrorCode.KBS_UNREACHABLE
    resources.close()


async def test_files_that_will_not_do(folder: Path) -> None:
    credentials = Credentials(Kms(credentials_dir=str(folder)), support.resources(StoredGetter()))
    path = folder / "aws" / "credential.json"
    missing = await refusal(credentials, "aws", "other.json")
    assert missing.code is ErrorCode.KMS_CREDENTIALS_MISSING
    assert f"{folder}/aws/other.json" in missing.detail
    path.chmod(0o620)
    assert (await refusal(credentials, "aws", "credential.json")).code is ErrorCode.FILE_UNSAFE
    support.write(path, b"")
    assert (await refusal(credentials, "aws", "credential.json")).code is ErrorCode.KMS_CREDENTIALS_INVALID
    support.write(path, bytes(limits.KMS_MAX_CREDENTIALS + 1))
    assert (await refusal(credentials, "aws", "credential.json")).code is ErrorCode.FILE_UNSAFE
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert (await refusal(credentials, "aws", "credential.json")).code is ErrorCode.FILE_UNSAFE


async def test_a_resource_of_another_size() -> None:
    getter = StoredGetter({URI: bytes(limits.KMS_MAX_CREDENTIALS + 1)})
    credentials = Credentials(Kms(credentials=(("aws/x", URI),)), support.resources(getter))
    assert (await refusal(credentials, "aws", "x")).code is ErrorCode.KMS_CREDENTIALS_INVALID


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../aws/credential.json",
        "/etc/hostname",
        "a/b",
        "a\0",
        "a\n",
        ".hidden",
        "a" * 129,
        "\u00e4",
    ],
)
async def test_a_setting_that_makes_no_name_of_a_file(folder: Path, name: str) -> None:
    credentials = Credentials(Kms(credentials_dir=str(folder)), support.resources(StoredGetter()))
    error = await refusal(credentials, "aws", name)
    assert error.code is ErrorCode.KMS_SETTINGS_INVALID
    assert len(name) < 2 or name not in error.detail


class _Example(Hidden, frozen=True):
    password: str


@unhurried
@given(
    st.binary(max_size=60)
    | st.dictionaries(st.sampled_from(["password", "x"]), st.integers() | st.text()).map(msgspec.json.encode)
)
def test_only_typed_errors_leave_the_parser(data: bytes) -> None:
    told = failure(lambda: parse_credentials(Secret(data), _Example, "x/y"))
    assert told in {None, ErrorCode.KMS_CREDENTIALS_INVALID}


def test_parsed_credentials_do_not_print() -> None:
    found = parse_credentials(Secret(b'{"password":"c4n4ry","more":1}'), _Example, "x/y")
    assert found.password == "c4n4ry"
    assert "c4n4ry" not in f"{found!r} {found}"
    with pytest.raises(AgentError) as caught:
        parse_credentials(Secret(b'{"password":["c4n4ry"]}'), _Example, "x/y")
    assert "c4n4ry" not in str(caught.value)
