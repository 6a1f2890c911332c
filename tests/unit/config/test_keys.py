"""The table of keys is the truth: everything in it is read, and the reference says the same."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest

from agent.config import model
from agent.config.assemble import assemble, findings
from agent.config.keys import ARGUMENTS, ENVIRONMENT, KERNEL, KEYS, TRUST, File, Key, Place
from agent.config.model import Config, Source
from agent.config.reference import render

from .support import CDH, PEM, config, inputs

ROOT = Path(__file__).resolve().parents[3]
CONTENTS = {"/etc/coco-agent/kbs.pem": PEM}


def document(key: Key, value: str) -> dict[str, str]:
    """A file with one key, and what its neighbours need."""
    table, _, last = key.name.rpartition(".")
    text = f"[{table}]\n{last} = {value}\n" if table else f"{last} = {value}\n"
    if key.file is File.CDH and table != "kbc":
        text += CDH
    if key.file is File.CDH and table == "kbc" and last != "name":
        text += 'name = "cc_kbc"\n'
    if table == "token_configs.kbs" and last != "url":
        text += 'url = "https://kbs.example"\n'
    if key.name == "attester.sample_device":
        text += "allow_sample = true\n"
    return {key.file.value.partition(".")[0]: text}


def look(root: object, name: str) -> object:
    for part in name.split("."):
        root = getattr(root, part)
    return root


def declared(name: str) -> object:
    """The annotation of a dotted field of the model."""
    kind: type = Config
    for part in name.split("."):
        kind = typing.get_type_hints(kind, vars(model) | {"Mapping": typing.Mapping})[part]
    return kind


def fits(value: object, annotation: object) -> bool:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
    if arguments:
        return any(fits(value, one) for one in arguments)
    return type(value) is annotation


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.file.value}:{key.name}")
def test_every_key_is_read_into_the_fields_it_names(key: Key) -> None:
    made = assemble(inputs(**document(key, key.example), contents=CONTENTS))  # type: ignore[arg-type]
    for name in key.sets:
        value = look(made, name)
        assert value != look(Config(), name), "the example shows another value than the default"
        assert fits(value, declared(name)), f"{value!r} is no {declared(name)}"
        assert made.origins[name].source is Source.FILE
        assert made.origins[name].where == key.file.value
    if not key.sets:
        assert not key.used


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.file.value}:{key.name}")
def test_every_key_is_checked_for_its_type(key: Key) -> None:
    wrong = "1979-05-27"
    told = findings(inputs(**document(key, wrong), contents=CONTENTS))  # type: ignore[arg-type]
    assert [f for f in told if f.key == key.name and "expected" in f.message]
    assert key.lenient or any(f.blocking for f in told)


@pytest.mark.parametrize("place", [*ENVIRONMENT, *KERNEL], ids=lambda place: place.name)
def test_every_place_is_read(place: Place) -> None:
    environ = {place.name: place.example} if place in ENVIRONMENT else {}
    cmdline = "" if place in ENVIRONMENT else f"{place.name}={place.example}"
    made = config(environ=environ, cmdline=cmdline)
    given = {name for name, origin in made.origins.items() if origin.where == place.name}
    assert given == set(place.sets)
    assert made.origins or any(place.name in warning for warning in made.warnings)


def test_every_field_of_the_model_can_be_set() -> None:
    def names(part: msgspec.Struct, prefix: str = "") -> list[str]:
        found = []
        for member in part.__struct_fields__:
            value = getattr(part, member)
            name = f"{prefix}{member}"
            found += names(value, f"{name}.") if isinstance(value, msgspec.Struct) else [name]
        return found

    settable = {name for key in KEYS for name in key.sets} | ARGUMENTS.keys()
    assert set(names(Config())) - {"origins", "warnings"} == settable


def test_names_are_unique_and_only_agent_toml_fills() -> None:
    assert len({(key.file, key.name) for key in KEYS}) == len(KEYS)
    assert all(key.file is File.AGENT for key in KEYS if key.fills)


def test_sample_and_signature_switches_are_trust_settings_of_files() -> None:
    assert {"attester.allow_sample", "hub.sealed.skip_verification", "hub.kbs.url", "hub.kbs.pins"} <= TRUST
    reachable = {name for place in (*ENVIRONMENT, *KERNEL) for name in place.sets}
    assert not {"attester.allow_sample", "hub.sealed.skip_verification", "strict_origin"} & reachable


def test_the_reference_is_current_and_names_everything() -> None:
    text = render()
    assert (ROOT / "docs" / "configuration.md").read_text() == text, "run: make generate"
    for name in [*(key.name for key in KEYS), *(place.name for place in (*ENVIRONMENT, *KERNEL))]:
        assert f"`{name}`" in text
