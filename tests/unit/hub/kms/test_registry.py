"""Backends by name and settings; what a backend does is in tests/integration/kms/."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Kms
from agent.devkit.clock import FakeClock
from agent.errors import AgentError, ErrorCode
from agent.hub.kms import registry
from agent.hub.kms.base import Backend, Context, read_annotations
from agent.hub.kms.registry import Backends, plain
from agent.secret import Secret
from tests.unit.hub import support
from tests.unit.hub.support import KEY_URI, StoredGetter, failure, soon, unhurried

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    place: str
    size: int = 1


@dataclass
class Opened:
    settings: Settings
    context: Context
    closed: bool = False
    asked: list[str] = field(default_factory=list)

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        self.asked.append(name)
        return Secret(name.encode())

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> str:
    """A provider that only gets."""
    module = ModuleType("example_backend")
    module.BACKEND = Backend("example", Settings, Opened)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "example_backend", module)
    monkeypatch.setitem(registry.BACKENDS, "example", "example_backend")
    return "example"


def backends(getter: StoredGetter | None = None) -> Backends:
    return Backends(Kms(), support.resources(getter or StoredGetter()), FakeClock())


def raw(**members: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in members.items()}


async def test_the_key_broker_gets_and_does_nothing_else(getter: StoredGetter) -> None:
    ours = backends(getter)
    for name in ("kbs", "KBS"):
        found = ours.getter(name, raw(anything={"goes": 1}))
        assert (await found.get(KEY_URI, {}, soon())).reveal() == getter.held[KEY_URI]
        assert failure(lambda name=name: ours.decrypter(name, {})) is ErrorCode.KMS_UNKNOWN  # type: ignore[misc]
        assert failure(lambda name=name: ours.encrypter(name, {})) is ErrorCode.KMS_UNKNOWN  # type: ignore[misc]


@pytest.mark.parametrize(
    "provider", ["", "kb", "kbs ", "sample", "\u212abs", "aws\n", "../aws", "os", "agent.hub"]
)
def test_nobody_of_that_name(provider: str) -> None:
    for able in (backends().getter, backends().decrypter, backends().encrypter):
        with pytest.raises(AgentError) as caught:
            able(provider, {})
        assert caught.value.code is ErrorCode.KMS_UNKNOWN
        assert "kbs, aws" in caught.value.detail


def test_what_a_backend_lacks_is_said(example: str) -> None:
    with pytest.raises(AgentError) as caught:
        backends().decrypter(example, raw(place="x"))
    assert caught.value.code is ErrorCode.KMS_UNKNOWN
    assert caught.value.detail.startswith("provider example does not decrypt")


def test_an_image_without_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BACKENDS, "gone", "agent.hub.kms.gone")
    with pytest.raises(AgentError) as caught:
        backends().getter("gone", {})
    assert caught.value.code is ErrorCode.KMS_UNKNOWN
    assert "not part of this image" in caught.value.detail


def test_a_backend_that_cannot_be_loaded_is_our_defect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "broken_backend.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.BACKENDS, "broken", "broken_backend")
    with pytest.raises(ModuleNotFoundError):
        backends().getter("broken", {})


async def test_one_backend_per_settings_until_the_hub_closes(example: str) -> None:
    ours = backends()
    first = ours.getter(example, raw(place="x"))
    assert ours.getter("Example", raw(size=1, place="x")) is first
    assert ours.getter(example, raw(place="y")) is not first
    assert isinstance(first, Opened)
    assert first.settings == Settings("x")
    await ours.close()
    await ours.close()
    assert first.closed


def test_settings_of_strangers_do_not_pile_up(example: str) -> None:
    ours = backends()
    first = ours.getter(example, raw(place="first"))
    for number in range(200):
        ours.getter(example, raw(place=str(number)))
        assert ours.getter(example, raw(place="first")) is first  # in use: kept
    assert ours.getter(example, raw(place="0")) is not None
    assert len(ours._opened) <= 64


@pytest.mark.parametrize(
    "settings",
    [{}, {"place": 1}, {"place": "x", "size": "c4n4ry"}, {"place": "x", "verify": False}, {"place": None}],
)
def test_settings_that_are_not_the_backends(example: str, settings: dict[str, Any]) -> None:
    with pytest.raises(AgentError) as caught:
        backends().getter(example, raw(**settings))
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID
    assert "example" in caught.value.detail
    assert "c4n4ry" not in caught.value.detail


# --- annotations --------------------------------------------------------------------------------------
class Told(msgspec.Struct, frozen=True):
    version: str = ""


def test_annotations() -> None:
    assert plain(raw(a=[1, {"b": None}], version="7")) == {"a": [1, {"b": None}], "version": "7"}
    assert read_annotations({"version": "7", "more": 1}, Told, "example") == Told("7")
    with pytest.raises(AgentError) as caught:
        read_annotations({"version": ["c4n4ry"]}, Told, "example")
    assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID
    assert "c4n4ry" not in caught.value.detail


@unhurried
@given(st.dictionaries(st.text(max_size=3), st.binary(max_size=20).map(msgspec.Raw), max_size=3))
def test_only_typed_errors_leave_annotations_and_settings(members: dict[str, msgspec.Raw]) -> None:
    assert failure(lambda: plain(members)) in {None, ErrorCode.KMS_SETTINGS_INVALID}
    assert failure(lambda: backends().getter("aws", members)) in {None, ErrorCode.KMS_SETTINGS_INVALID}
