"""Unmeasured places may narrow what measured configuration says, and never widen it (T-CONF-42)."""

from __future__ import annotations

from operator import attrgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import narrow
from agent.config.assemble import InitDataFile, Inputs, assemble, findings
from agent.config.document import parse
from agent.config.keys import ARGUMENTS, ENVIRONMENT, KERNEL, KEYS, TRUST, File
from agent.config.kinds import LEVELS
from agent.config.model import Config, Features, Origin, Source
from agent.config.narrow import RULES
from agent.errors import AgentError, ErrorCode

from .support import AA, BELOW, CDH, OTHER, PEM, URL, config, inputs
from .test_keys import CONTENTS, document

URI = "kbs:///default/aws/credential"
CREDENTIAL = f'credentials = [{{ path = "{BELOW}/a", resource_uri = "{URI}" }}]\n'
OTHER_PEM = PEM.replace("MAA=", "MAIBAQ==").replace("MAIBAQ==", "MAMCAQE=")
STORES = '[hub]\noffline_stores = ["/a.json", "/b.json"]\n'
GATEWAY = '[gateway]\nbind = "127.0.0.1:1"\nfeatures = "{}"\n'

# Field: what is measured, an unmeasured place that stays within it, one that does not.
CASES: dict[str, tuple[dict[str, str], dict[str, object], dict[str, object]]] = {
    "attester.kbs.url": (
        {"agent": f'[kbs]\nurl = "{URL}"\n'},
        {"environ": {"AA_KBC_PARAMS": f"cc_kbc::{URL}/"}},
        {"environ": {"AA_KBC_PARAMS": f"cc_kbc::{OTHER}"}},
    ),
    "hub.kbc": (
        {"cdh": CDH},
        {"environ": {"AA_KBC_PARAMS": f"cc_kbc::{URL}"}},
        {"environ": {"AA_KBC_PARAMS": "offline_fs_kbc::null"}},
    ),
    "hub.kbs.url": (
        {"cdh": CDH},
        {"environ": {"AA_KBC_PARAMS": f"cc_kbc::{URL}/"}},
        {"environ": {"AA_KBC_PARAMS": f"cc_kbc::{OTHER}"}},
    ),
    "hub.kbs.extra_roots": (
        {"cdh": f'{CDH}kbs_cert = """{PEM}"""\n'},
        {"environ": {"KBS_CERT": f"# the same\n{PEM}{PEM}"}},
        {"environ": {"KBS_CERT": PEM + OTHER_PEM}},
    ),
    "hub.aa_socket": (
        {"cdh": f'{CDH}[aa]\naa_socket = "unix:///run/a.sock"\n'},
        {"environ": {"AA_SOCKET": "unix:///run/a.sock"}},
        {"environ": {"AA_SOCKET": "unix:///run/b.sock"}},
    ),
    "hub.offline_stores": (
        {"agent": STORES},
        {"environ": {"OFFLINE_FS_KBC_EXTRA_FILE_PATH": "/b.json"}},
        {"environ": {"OFFLINE_FS_KBC_EXTRA_FILE_PATH": "/b.json,/c.json"}},
    ),
    "hub.credentials": (
        {"cdh": CREDENTIAL + CDH},
        {"cmdline": f"cdh.kbs_resources={URI}::{BELOW}/a"},
        {"cmdline": f"cdh.kbs_resources={URI}::{BELOW}/a,{URI}::{BELOW}/b"},
    ),
    "gateway.features": (
        {"agent": GATEWAY.format("resource")},
        {"arguments": {"gateway.features": "resource"}},
        {"arguments": {"gateway.features": "all"}},
    ),
    "gateway.bind": (
        {"agent": GATEWAY.format("all")},
        {"arguments": {"gateway.bind": "127.0.0.1:1"}},
        {"arguments": {"gateway.bind": "0.0.0.0:1"}},
    ),
}
# No file has a key for these, so nothing measured can speak.
ONLY_ARGUMENTS = {
    *("attester.socket", "attester.sysroot", "attester.eventlog_dir"),
    *("gateway.cdh_address", "gateway.aa_address"),
}
# Levels decide neither whom to trust nor what is released.
FREE = {"observe.log_level"}


def settable() -> set[str]:
    return {name for place in (*ENVIRONMENT, *KERNEL) for name in place.sets} | ARGUMENTS.keys()


def test_every_field_that_unmeasured_places_can_set_has_a_rule_and_a_case() -> None:
    assert settable() == RULES.keys() == CASES.keys() | ONLY_ARGUMENTS | FREE
    assert not ONLY_ARGUMENTS & {name for key in KEYS for name in key.sets}


@pytest.mark.parametrize("field", CASES)
def test_a_value_within_the_measured_one_changes_nothing(field: str) -> None:
    files, same, _ = CASES[field]
    measured = config(**files)  # type: ignore[arg-type]
    made = config(**files, **same)  # type: ignore[arg-type]
    assert attrgetter(field)(made) == attrgetter(field)(measured)
    assert made.origins[field] == measured.origins[field]
    assert made.warnings == measured.warnings
    strict = dict(files, agent=files.get("agent", "") + "[security]\nstrict_origin = true\n")
    config(**strict, **same, roles=frozenset({field.partition(".")[0]}))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", CASES)
def test_a_wider_value_is_not_taken_and_named(field: str) -> None:
    files, _, wider = CASES[field]
    measured = config(**files)  # type: ignore[arg-type]
    told = [one for one in findings(inputs(**files, **wider)) if "widen" in one.message]  # type: ignore[arg-type]
    assert told
    assert all(narrow.rule(field).words in one.next_step for one in told)
    if "arguments" in wider:
        with pytest.raises(AgentError) as caught:
            config(**files, **wider)  # type: ignore[arg-type]
        assert caught.value.code is ErrorCode.CONFIG_INVALID
        assert field in caught.value.detail
    else:
        made = config(**files, **wider)  # type: ignore[arg-type]
        assert attrgetter(field)(made) == attrgetter(field)(measured)
        assert made.origins[field] == measured.origins[field]
        assert any("widen" in warning and "ignored" in warning for warning in made.warnings)


@pytest.mark.parametrize("field", CASES)
def test_where_nothing_measured_speaks_the_value_counts_with_its_origin(field: str) -> None:
    _, _, wider = CASES[field]
    made = config(**wider)  # type: ignore[arg-type]
    assert made.origins[field].source in narrow.UNMEASURED


@pytest.mark.parametrize("field", sorted(CASES.keys() & TRUST))
def test_strict_origin_lets_silence_stand_for_the_default(field: str) -> None:
    _, _, wider = CASES[field]
    if field == "hub.kbc":
        wider = {"environ": {"AA_KBC_PARAMS": f"cc_kbc::{URL}"}}
    with pytest.raises(AgentError) as caught:
        config(agent="[security]\nstrict_origin = true\n", **wider)  # type: ignore[arg-type]
    assert field in caught.value.detail
    assert "strict_origin" in caught.value.detail


@pytest.mark.parametrize(
    ("measured", "argument", "result"),
    [
        ("all", "resource", Features.RESOURCE),
        ("all", "attestation", Features.ATTESTATION),
        ("all", "all", Features.ALL),
        ("resource", "resource", Features.RESOURCE),
        ("resource", "attestation", None),
        ("resource", "all", None),
        ("attestation", "all", None),
        ("attestation", "resource", None),
    ],
)
@pytest.mark.parametrize("strict", ["", "[security]\nstrict_origin = true\n"])
def test_features_narrow_to_fewer_routes(
    measured: str, argument: str, result: Features | None, strict: str
) -> None:
    agent = GATEWAY.format(measured) + strict
    if result is None:
        with pytest.raises(AgentError, match=r"gateway\.features"):
            config(agent=agent, arguments={"gateway.features": argument})
    else:
        assert config(agent=agent, arguments={"gateway.features": argument}).gateway.features is result


def test_kata_may_say_the_default_under_strict_origin() -> None:
    strict = "[security]\nstrict_origin = true\n"
    arguments = {"attester.socket": "unix:///run/x.sock", "gateway.features": "resource"}
    assert config(aa=AA, cdh=CDH, agent=strict, arguments=arguments).gateway.features is Features.RESOURCE
    with pytest.raises(AgentError, match=r"gateway\.features"):
        config(agent=strict, arguments={"gateway.features": "all"})


def test_an_empty_value_is_silence() -> None:
    made = config(cdh=CDH.replace(URL, ""), environ={"AA_KBC_PARAMS": f"cc_kbc::{OTHER}"})
    assert made.hub.kbs.url == OTHER


def test_a_broker_is_taken_as_a_whole_or_not_at_all() -> None:
    cdh = '[kbc]\nname = "offline_fs_kbc"\n'
    made = config(cdh=cdh, environ={"AA_KBC_PARAMS": f"cc_kbc::{OTHER}"})
    assert (made.hub.kbc, made.hub.kbs.url) == ("offline_fs_kbc", "")


@given(st.sampled_from(LEVELS), st.sampled_from(LEVELS))
def test_log_levels_are_free(measured: str, other: str) -> None:
    agent = f'[observe]\nlog_level = "{measured}"\n'
    assert config(agent=agent, environ={"RUST_LOG": other}).observe.log_level == other


# --- agent.toml of init-data -----------------------------------------------------------------------------
def pod(text: str, *, bound: bool = True, image: str | None = None, **more: str) -> Inputs:
    documents = {name: parse(f"{name}.toml", content.encode()) for name, content in more.items()}
    return Inputs(
        agent=None if image is None else parse("agent.toml", image.encode()),
        init_data=InitDataFile(parse("initdata.toml[agent.toml]", text.encode(), "agent.toml"), bound),
        contents=CONTENTS,
        **documents,  # type: ignore[arg-type]
    )


ALLOWED = [
    key
    for key in KEYS
    if key.file is File.AGENT and key.name not in {"attester.allow_unbound_init_data", "control.launchers"}
]


@pytest.mark.parametrize("key", ALLOWED, ids=lambda key: key.name)
@pytest.mark.parametrize("bound", [True, False])
def test_every_key_is_read_from_init_data(key: object, bound: bool) -> None:
    text = document(key, key.example)["agent"]  # type: ignore[arg-type, attr-defined]
    made = assemble(pod(text, bound=bound))
    for name in key.sets:  # type: ignore[attr-defined]
        assert attrgetter(name)(made) != attrgetter(name)(Config())
        source = Source.INIT_DATA if bound else Source.UNBOUND
        assert made.origins[name] == Origin(source, "initdata.toml[agent.toml]")


@pytest.mark.parametrize("key", [key for key in ALLOWED if not key.fills], ids=lambda key: key.name)
def test_bound_init_data_wins_over_the_image_and_unbound_init_data_does_not(key: object) -> None:
    own = document(key, key.example)["agent"]  # type: ignore[arg-type, attr-defined]
    other = (
        '[observe]\nlog_level = "error"\n' if "observe" not in own else "[gateway]\ncompat_status = true\n"
    )
    for name in key.sets:  # type: ignore[attr-defined]
        made = assemble(pod(own, image=other))
        assert made.origins[name].source is Source.INIT_DATA
        made = assemble(pod(other, image=own))
        assert made.origins[name].source is Source.FILE
        made = assemble(pod(own, image=own, bound=False))
        assert made.origins[name].source is (Source.UNBOUND if name in FREE else Source.FILE)


def test_layers_are_taken_key_by_key() -> None:
    image = "[kbs]\nrequire_tls = true\nconnect_timeout = 3\n[gateway]\ndeadline = 40\n"
    made = assemble(pod('[kbs]\nconnect_timeout = 7\n[gateway]\nbind = "127.0.0.1:9"\n', image=image))
    assert (made.hub.kbs.require_tls, made.hub.kbs.connect_timeout) == (True, 7.0)
    assert (made.gateway.deadline, made.gateway.bind) == (40.0, "127.0.0.1:9")


def test_the_pods_broker_wins_over_the_images_and_upstreams_files_over_both() -> None:
    image = f'[kbs]\nurl = "{OTHER}"\n'
    made = assemble(pod(f'[kbs]\nurl = "{URL}"\n', image=image))
    assert made.attester.kbs.url == made.hub.kbs.url == URL
    made = assemble(pod(f'[kbs]\nendpoints = [{{ url = "{URL}" }}]\n', image=image))
    assert made.hub.kbs.url == URL
    made = assemble(pod(f'[kbs]\nurl = "{OTHER}"\n', aa=AA, cdh=CDH))
    assert made.attester.kbs.url == made.hub.kbs.url == URL


def test_a_certificate_and_a_certificate_file_are_one_setting() -> None:
    image = f'[kbs]\nurl = "{URL}"\ncert = """{OTHER_PEM}"""\n'
    made = assemble(pod('[kbs]\ncert_file = "/etc/coco-agent/kbs.pem"\n', image=image))
    assert made.hub.kbs.extra_roots == PEM


@pytest.mark.parametrize(
    "text",
    [
        "[attester]\nallow_unbound_init_data = true\n",
        "[control]\nlaunchers = true\n",
        "[control]\nlaunchers = false\n",
    ],
)
@pytest.mark.parametrize("bound", [True, False])
def test_what_decides_about_init_data_is_not_said_in_it(text: str, bound: bool) -> None:
    with pytest.raises(AgentError, match="cannot be set in init-data"):
        assemble(pod(text, bound=bound))


def test_roles_that_would_not_see_it_stop_the_start() -> None:
    made = pod("[gateway]\ncompat_status = true\n", image="[control]\nlaunchers = false\n")
    alone = Inputs(agent=made.agent, init_data=made.init_data, roles=frozenset({"attester"}))
    with pytest.raises(AgentError, match=r"control\.launchers"):
        assemble(alone)
    assert assemble(made).gateway.compat_status, "all roles in one process see it"


def test_unbound_init_data_may_not_widen_the_image() -> None:
    image = '[kbs]\nrequire_tls = true\n[gateway]\nfeatures = "all"\n'
    made = assemble(
        pod('[kbs]\nrequire_tls = false\n[gateway]\nfeatures = "resource"\n', image=image, bound=False)
    )
    assert made.hub.kbs.require_tls
    assert made.gateway.features is Features.RESOURCE
    assert any("require_tls" in warning and "widen" in warning for warning in made.warnings)


def test_strict_origin_refuses_trust_from_unbound_init_data_by_name() -> None:
    strict = "[security]\nstrict_origin = true\n"
    with pytest.raises(AgentError) as caught:
        assemble(pod("[attester]\nallow_sample = true\n", image=strict, bound=False))
    assert "attester.allow_sample" in caught.value.detail
    assert "init-data, not bound" in caught.value.detail
    assert assemble(pod("[attester]\nallow_sample = true\n", image=strict)).attester.allow_sample
    assert assemble(pod("[gateway]\ndeadline = 40\n", image=strict, bound=False)).gateway.deadline == 40


def test_arguments_may_not_widen_init_data() -> None:
    made = pod('[gateway]\nfeatures = "resource"\n')
    wider = Inputs(init_data=made.init_data, arguments={"gateway.features": "all"})
    with pytest.raises(AgentError, match=r"gateway\.features"):
        assemble(wider)


def test_unknown_keys_stop_the_start_there_too() -> None:
    with pytest.raises(AgentError, match=r"initdata\.toml\[agent\.toml\]: kbs\.ulr"):
        assemble(pod("[kbs]\nulr = 1\n"))


def test_several_unmeasured_places_stay_within_the_same_measured_value() -> None:
    made = pod('[gateway]\nfeatures = "resource"\n', image='[gateway]\nfeatures = "all"\n', bound=False)
    for argument, result in (("attestation", Features.ATTESTATION), ("all", Features.RESOURCE)):
        both = Inputs(agent=made.agent, init_data=made.init_data, arguments={"gateway.features": argument})
        assert assemble(both).gateway.features is result
