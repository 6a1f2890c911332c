"""Which place wins, and that every value knows where it came from."""

from __future__ import annotations

import pytest

from agent.config.model import AA_SOCKET, OFFLINE_STORES, Config, Credential, Features, Origin, Source
from agent.errors import AgentError, ErrorCode

from .support import AA, BELOW, CDH, OFFLINE, OTHER, PEM, PIN, URL, config

KERNEL = f"quiet agent.aa_kbc_params=cc_kbc::{OTHER}/ agent.log=debug"
ENVIRON = {"AA_KBC_PARAMS": f"cc_kbc::{OTHER}"}
FROM_KERNEL = Origin(Source.KERNEL, "agent.aa_kbc_params")
FROM_ENVIRON = Origin(Source.ENVIRONMENT, "AA_KBC_PARAMS")
AGENT_URL = f'[kbs]\nurl = "{URL}/"\n'


def test_nothing_at_all_is_upstreams_default() -> None:
    assert config() == Config()
    assert config().hub.kbc == "offline_fs_kbc"


# --- the attester's broker ---------------------------------------------------------------------------
def test_the_attesters_file_wins_outright() -> None:
    made = config(aa=AA, environ=ENVIRON, cmdline=KERNEL)
    assert made.attester.kbs.url == URL
    assert made.origins["attester.kbs.url"] == Origin(Source.FILE, "aa.toml")


def test_an_empty_attester_file_is_legal_and_still_wins_outright() -> None:
    made = config(aa="", environ=ENVIRON, cmdline=KERNEL)
    assert not made.attester.kbs.url


def test_without_a_file_the_environment_comes_before_the_kernel_command_line() -> None:
    environ = {"AA_KBC_PARAMS": f"cc_kbc::{URL}"}
    both, kernel = config(environ=environ, cmdline=KERNEL), config(cmdline=KERNEL)
    assert (both.attester.kbs.url, both.origins["attester.kbs.url"]) == (URL, FROM_ENVIRON)
    assert (kernel.attester.kbs.url, kernel.origins["attester.kbs.url"]) == (OTHER, FROM_KERNEL)


def test_only_cc_kbc_names_a_broker_for_the_attester() -> None:
    made = config(cmdline="agent.aa_kbc_params=offline_fs_kbc::null")
    assert not made.attester.kbs.url
    assert made.hub.kbc == "offline_fs_kbc"
    assert not made.hub.kbs.url
    assert not made.warnings


# --- the hub's broker --------------------------------------------------------------------------------
def test_the_environment_names_the_hubs_broker_where_the_file_does_not() -> None:
    cdh = '[kbc]\nname = "cc_kbc"\n'
    made = config(cdh=cdh, environ=ENVIRON, cmdline=f"agent.aa_kbc_params=cc_kbc::{URL}")
    assert made.hub.kbs.url == OTHER
    assert made.origins["hub.kbs.url"] == FROM_ENVIRON
    assert made.origins["hub.kbc"].source is Source.FILE


def test_the_hubs_file_beats_the_kernel_command_line() -> None:
    made = config(cdh=CDH, cmdline=KERNEL)
    assert (made.hub.kbc, made.hub.kbs.url) == ("cc_kbc", URL)
    assert config(cdh=OFFLINE, cmdline=KERNEL).hub.kbc == "offline_fs_kbc"


def test_without_a_file_the_hub_uses_the_kernel_command_line() -> None:
    made = config(cmdline=KERNEL)
    assert (made.hub.kbc, made.hub.kbs.url, made.origins["hub.kbc"]) == ("cc_kbc", OTHER, FROM_KERNEL)


def test_the_url_of_offline_fs_kbc_means_nothing() -> None:
    made = config(cdh=OFFLINE + 'url = "null"\n')
    assert not made.hub.kbs.url


def test_an_unknown_kbc_starts_and_says_so() -> None:
    made = config(cdh='[kbc]\nname = "online_sev_kbc"\nurl = "null"\n')
    assert made.hub.kbc == "online_sev_kbc"
    assert "online_sev_kbc" in made.warnings[0]
    assert "cc_kbc" in made.warnings[0]


@pytest.mark.parametrize("url", ["http://[fd00::1]:8080", "https://[::1]", "http://10.0.0.1:8080/kbs"])
def test_kbc_parameters_are_split_at_the_first_separator(url: str) -> None:
    made = config(cmdline=f"agent.aa_kbc_params=cc_kbc::{url}")
    assert made.hub.kbs.url == made.attester.kbs.url == url


@pytest.mark.parametrize("value", ["cc_kbc::http:10.0.0.1:8080", "cc_kbc", "::http://a", "cc_kbc::null"])
def test_unmeasured_nonsense_is_ignored_and_named(value: str) -> None:
    made = config(cdh=CDH, environ={"AA_KBC_PARAMS": value})
    assert made.hub.kbs.url == URL, "the file's broker stays"
    assert "AA_KBC_PARAMS" in made.warnings[0]
    assert not config(cmdline=f"agent.aa_kbc_params={value}").attester.kbs.url


def test_a_blank_variable_is_not_there() -> None:
    assert config(environ={"AA_KBC_PARAMS": " ", "RUST_LOG": "", "AA_SOCKET": ""}) == Config()


# --- agent.toml's [kbs] ------------------------------------------------------------------------------
def test_our_broker_serves_both_roles() -> None:
    made = config(agent=AGENT_URL)
    assert made.attester.kbs.url == made.hub.kbs.url == URL
    assert made.hub.kbc == "cc_kbc"
    assert made.origins["hub.kbc"] == made.origins["hub.kbs.url"] == Origin(Source.FILE, "agent.toml")


def test_our_broker_fills_only_what_is_empty() -> None:
    agent = f'[kbs]\nurl = "{OTHER}"\n'
    made = config(aa=AA, agent=agent)
    assert (made.attester.kbs.url, made.hub.kbs.url) == (URL, OTHER)
    made = config(aa="", cdh='[kbc]\nname = "cc_kbc"\n', agent=agent)
    assert (made.attester.kbs.url, made.hub.kbs.url) == (OTHER, OTHER)
    assert not config(cdh=OFFLINE, agent=agent).hub.kbs.url


def test_our_broker_is_measured_and_beats_the_kernel_command_line() -> None:
    made = config(agent=AGENT_URL, cmdline=KERNEL)
    assert made.attester.kbs.url == made.hub.kbs.url == URL


def test_connection_settings_are_for_both_roles() -> None:
    agent = (
        f'[kbs]\npins = ["{PIN}"]\nproxy = "http://u:p@proxy:3128"\nrequire_tls = true\n'
        "connect_timeout = 2\nrequest_timeout = 3.5\n"
    )
    made = config(aa=AA, cdh=CDH, agent=agent)
    assert made.attester.kbs == made.hub.kbs
    assert made.hub.kbs.pins == (bytes(range(32)),)
    assert (made.hub.kbs.connect_timeout, made.hub.kbs.request_timeout) == (2.0, 3.5)


def test_certificates_may_come_from_a_file() -> None:
    agent = '[kbs]\ncert_file = "/etc/kbs.pem"\n'
    made = config(aa=AA, cdh=CDH, agent=agent, contents={"/etc/kbs.pem": PEM})
    assert made.attester.kbs.extra_roots == made.hub.kbs.extra_roots == PEM


# --- the other variables and parameters ----------------------------------------------------------------
def test_kbs_cert_counts_only_without_certificates_in_a_file() -> None:
    environ = {"KBS_CERT": PEM}
    assert config(cdh=CDH, environ=environ).hub.kbs.extra_roots == PEM
    assert not config(cdh=CDH, environ=environ).attester.kbs.extra_roots
    mine = PEM.replace("MAA=", "MAEA")
    made = config(cdh=CDH + f'kbs_cert = """{mine}"""\n', environ=environ)
    assert made.hub.kbs.extra_roots == mine
    assert made.origins["hub.kbs.extra_roots"].source is Source.FILE


def test_aa_socket_counts_without_a_file() -> None:
    cdh = CDH + '[aa]\naa_socket = "unix:///run/file.sock"\n'
    assert config(cdh=cdh).hub.aa_socket == "unix:///run/file.sock"
    made = config(cdh=CDH, environ={"AA_SOCKET": "unix:///run/env.sock"})
    assert made.hub.aa_socket == "unix:///run/env.sock"
    assert config(environ={"AA_SOCKET": "/run/env.sock"}).hub.aa_socket == AA_SOCKET


def test_extra_stores_are_read_after_the_others() -> None:
    environ = {"OFFLINE_FS_KBC_EXTRA_FILE_PATH": "/a.json, /b.json,,relative"}
    made = config(environ=environ)
    assert made.hub.offline_stores == (*OFFLINE_STORES, "/a.json", "/b.json")
    assert len(made.warnings) == 1


def test_kernel_resources_count_where_the_file_has_none() -> None:
    uri = "kbs:///default/aws/credential"
    cmdline = f"cdh.kbs_resources={uri}::{BELOW}/b,nonsense,{uri}::/etc/passwd"
    made = config(cdh=CDH, cmdline=cmdline)
    assert made.hub.credentials == (Credential(f"{BELOW}/b", uri),)
    assert made.origins["hub.credentials"].source is Source.KERNEL
    about = [line for line in made.warnings if "cdh.kbs_resources" in line]
    assert len(about) == 2
    assert "entry 2" in about[0]
    assert "entry 3" in about[1]


@pytest.mark.parametrize(
    ("text", "level"),
    [("debug", "debug"), ("TRACE", "trace"), ("info,hyper=warn", "info"), ("aa=debug", "debug"),
     ("hyper=warn,error", "error"), ("warning", "warn"), ("off", "off")],
)  # fmt: skip
def test_rust_log_beats_every_file(text: str, level: str) -> None:
    aa, agent = '[log]\nlevel = "error"\n', '[observe]\nlog_level = "warn"\n'
    made = config(aa=aa, agent=agent, environ={"RUST_LOG": text})
    assert made.observe.log_level == level
    assert made.origins["observe.log_level"] == Origin(Source.ENVIRONMENT, "RUST_LOG")


def test_of_the_files_ours_sets_the_level() -> None:
    aa, cdh = '[log]\nlevel = "error"\n', CDH + '[log]\nlevel = "debug,h=warn"\n'
    assert config(aa=aa, cdh=cdh).observe.log_level == "debug"
    assert config(aa=aa, cdh=cdh, agent='[observe]\nlog_level = "off"\n').observe.log_level == "off"


def test_a_level_nobody_knows_keeps_the_default() -> None:
    made = config(aa='[log]\nlevel = "loud"\n', environ={"RUST_LOG": "louder"})
    assert made.observe.log_level == "info"
    assert len(made.warnings) == 2


def test_the_environment_never_switches_verification_off() -> None:
    made = config(cdh=CDH, environ={"SKIP_SEALED_SECRET_VERIFICATION": "true"})
    assert not made.hub.sealed.skip_verification
    assert "skip_sealed_secret_verification" in made.warnings[0]
    made = config(cdh="skip_sealed_secret_verification = true\n" + CDH)
    assert made.hub.sealed.skip_verification
    assert "skip_sealed_secret_verification" in made.warnings[0]


def test_image_settings_are_accepted_and_said_to_be_unused() -> None:
    made = config(
        cdh=CDH + '[image]\nwork_dir = "/x"\n[image.image_pull_proxy]\nno_proxy = "a"\n',
        environ={"CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS": "file:///run/peerpod/auth.json"},
    )
    assert len(made.warnings) == 2
    assert not config(cdh=CDH + "[image]\n").warnings


# --- the command line ----------------------------------------------------------------------------------
def test_arguments_count_where_files_are_silent() -> None:
    made = config(
        arguments={
            "attester.socket": "unix:///run/a.sock",
            "attester.sysroot": "/sysroot",
            "gateway.bind": "[::1]:8006",
            "gateway.features": "all",
            "gateway.cdh_address": "unix://@hub",
            "gateway.aa_address": "unix:///run/b.sock",
        },
    )
    assert made.attester.socket == "unix:///run/a.sock"
    assert made.attester.sysroot == "/sysroot"
    assert (made.gateway.bind, made.gateway.features) == ("[::1]:8006", Features.ALL)
    assert (made.gateway.cdh_address, made.gateway.aa_address) == ("unix://@hub", "unix:///run/b.sock")
    assert made.origins["gateway.bind"] == Origin(Source.COMMAND_LINE, "gateway.bind")


@pytest.mark.parametrize(
    ("name", "value"),
    [("gateway.features", "none"), ("gateway.bind", "localhost:8006"), ("attester.socket", "/run/a.sock"),
     ("attester.allow_sample", "true")],
)  # fmt: skip
def test_bad_arguments_stop_the_start(name: str, value: str) -> None:
    with pytest.raises(AgentError) as caught:
        config(arguments={name: value})
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert name in caught.value.detail


# --- strict_origin ---------------------------------------------------------------------------------------
STRICT = "[security]\nstrict_origin = true\n"


@pytest.mark.parametrize(
    ("environ", "cmdline", "named"),
    [
        (ENVIRON, "", "hub.kbs.url"),
        ({}, KERNEL, "attester.kbs.url"),
        ({"AA_SOCKET": "unix:///x"}, "", "hub.aa_socket"),
        ({"KBS_CERT": PEM}, "", "hub.kbs.extra_roots"),
        ({"OFFLINE_FS_KBC_EXTRA_FILE_PATH": "/x"}, "", "hub.offline_stores"),
        ({}, f"cdh.kbs_resources=kbs:///a/b/c::{BELOW}/x", "hub.credentials"),
    ],
)
def test_strict_origin_refuses_unmeasured_trust(environ: dict[str, str], cmdline: str, named: str) -> None:
    with pytest.raises(AgentError) as caught:
        config(agent=STRICT, environ=environ, cmdline=cmdline)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert named in caught.value.detail


def test_strict_origin_accepts_measured_trust_and_unmeasured_trifles() -> None:
    made = config(aa=AA, cdh=CDH, agent=STRICT, environ={"RUST_LOG": "debug"}, cmdline=KERNEL)
    assert made.strict_origin
    assert made.observe.log_level == "debug"


def test_a_process_is_not_judged_by_the_settings_of_roles_it_does_not_serve() -> None:
    made = config(aa=AA, agent=STRICT, cmdline=KERNEL, roles=frozenset({"attester"}))
    assert made.attester.kbs.url == URL
    assert made.hub == Config().hub
