"""The checker finds on a laptop what would fail in a pod."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from agent.config.check import Severity, check, recognise
from agent.config.reading import one_edit
from agent.devkit.clock import FakeClock

from .support import AA, BELOW, CDH, OTHER, URL, found

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.findings import Finding

NOW = 1_790_000_000.0


def certificate(begins: float, ends: float) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kbs")])
    start = datetime.fromtimestamp(NOW, UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start + timedelta(days=begins))
        .not_valid_after(start + timedelta(days=ends))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


class Folder:
    """Files to check, and what the checker says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self, *names: str, **files: str) -> list[Finding]:
        paths = [str(self.path / name) for name in names]
        for name, text in files.items():
            path = self.path / f"{name}.toml"
            path.write_text(text)
            path.chmod(0o600)
            paths.append(str(path))
        return check(paths, clock=FakeClock(wall=NOW))

    def only(self, **files: str) -> Finding:
        (finding,) = self.check(**files)
        return finding


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_good_files_have_no_findings(folder: Folder) -> None:
    agent = "[kbs]\nrequire_tls = true\n"
    assert not folder.check(aa=AA, cdh=CDH, agent=agent)
    assert not folder.check(aa="")


@pytest.mark.parametrize("url", ["http:10.0.0.1", "kbs:8080", "https://kbs:8080,", "https://a:b@kbs"])
def test_bad_urls_are_errors(folder: Folder, url: str) -> None:
    for file, text in (("aa", AA), ("cdh", CDH)):
        finding = folder.only(**{file: text.replace(URL, url)})
        assert (finding.severity, finding.file) == (Severity.ERROR, str(folder.path / f"{file}.toml"))
        assert finding.next_step
        assert "a:b" not in finding.message


def test_plain_http_is_a_warning_except_on_this_machine(folder: Folder) -> None:
    assert folder.only(aa=AA.replace("https", "http")).severity is Severity.WARNING
    assert not folder.check(aa=AA.replace(URL, "http://127.0.0.1:8080"))
    agent = "[kbs]\nrequire_tls = true\n"
    assert folder.only(aa=AA.replace("https", "http"), agent=agent).severity is Severity.ERROR


def test_misspelt_keys_come_with_a_suggestion(folder: Folder) -> None:
    upstream = folder.only(cdh=CDH + 'kbscert = "x"\n')
    assert (upstream.severity, upstream.key) == (Severity.WARNING, "kbc.kbscert")
    assert "kbc.kbs_cert" in upstream.next_step
    ours = folder.only(agent="[kbs]\nrequire_tsl = true\n")
    assert ours.severity is Severity.ERROR
    assert "kbs.require_tls" in ours.next_step


@pytest.mark.parametrize(
    ("begins", "ends", "severity", "says"),
    [
        (-2, -1, "error", "expired on 2026-09-"),
        (-1, 10, "warning", "expires on"),
        (1, 99, "warning", "not valid"),
    ],
)
def test_certificates_are_read(folder: Folder, begins: int, ends: int, severity: str, says: str) -> None:
    finding = folder.only(cdh=f'{CDH}kbs_cert = """{certificate(begins, ends)}"""\n')
    assert (finding.severity, finding.key) == (severity, "kbc.kbs_cert")
    assert says in finding.message


def test_a_good_certificate_is_fine_and_a_bad_one_is_counted(folder: Folder) -> None:
    good = certificate(-1, 300)
    assert not folder.check(cdh=f'{CDH}kbs_cert = """{good}"""\n')
    bad = good + "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    assert "certificate 2" in folder.only(cdh=f'{CDH}kbs_cert = """{bad}"""\n').message
    assert "PEM" in folder.only(cdh=f'{CDH}kbs_cert = "kbs.pem"\n').message


def test_the_certificate_file_is_read_if_it_is_here(folder: Folder) -> None:
    path = folder.path / "kbs.pem"
    agent = f'[kbs]\ncert_file = "{path}"\n'
    assert "cannot be read here" in folder.only(agent=agent).message
    path.write_text(certificate(-2, -1))
    assert "expired" in folder.only(agent=agent).message


def test_certificates_missing_in_one_of_two_files_are_noticed(folder: Folder) -> None:
    cdh = f'{CDH}kbs_cert = """{certificate(-1, 300)}"""\n'
    finding = folder.only(aa=AA, cdh=cdh)
    assert "token_configs.kbs.cert" in finding.next_step


def test_two_brokers_are_noticed(folder: Folder) -> None:
    assert "another broker" in folder.only(aa=AA, cdh=CDH.replace(URL, OTHER)).message


@pytest.mark.parametrize(
    ("agent", "key"),
    [
        ("[gateway]\ndeadline = 30\n", "gateway.deadline"),
        ("[kbs]\nrequest_timeout = 60\n", "kbs.request_timeout"),
        ("[kbs]\nconnect_timeout = 46\n", "kbs.connect_timeout"),
    ],
)
def test_outer_deadlines_below_inner_ones_are_noticed(folder: Folder, agent: str, key: str) -> None:
    findings = folder.check(agent=agent)
    assert {finding.severity for finding in findings} == {Severity.WARNING}
    assert key in {finding.key for finding in findings}


def test_kata_agents_limit_is_compared() -> None:
    (finding,) = found(cmdline="agent.cdh_api_timeout=20")
    assert finding.key == "agent.cdh_api_timeout"
    assert not found(cmdline="agent.cdh_api_timeout=50 agent.aa_kbc_params=offline_fs_kbc::null")


@pytest.mark.parametrize(
    ("file", "text", "severity", "key"),
    [
        ("cdh", CDH.replace("cc_kbc", "eaa_kbc"), "error", "kbc.name"),
        ("cdh", '[kbc]\nname = "cc_kbc"\n', "error", "kbc.name"),
        ("cdh", f"skip_sealed_secret_verification = true\n{CDH}", "warning",
         "skip_sealed_secret_verification"),
        ("cdh", f'socket = "/run/cdh.sock"\n{CDH}', "error", "socket"),
        ("cdh", f'credentials = [{{path = "{BELOW}foo/x", resource_uri = "kbs:///a/b/c"}}]\n{CDH}', "error",
         "credentials"),
        ("cdh", f'credentials = [{{path = "{BELOW}/x", resource_uri = "http://a/b/c"}}]\n{CDH}', "error",
         "credentials"),
        ("aa", f'{AA}tee_key_algorithm = "RSA1_5"\n', "error",
         "token_configs.kbs.tee_key_algorithm"),
        ("aa", f'[token_configs.kbs]\nurl = "{URL}/kbs/v0"\n', "warning", "token_configs.kbs.url"),
        ("agent", "[attester]\nallow_sample = true\n", "warning", "attester.allow_sample"),
        ("agent", '[kbs]\npins = ["sha256/AAAA"]\n', "error", "kbs.pins"),
        ("agent", '[gateway]\nbind = "0.0.0.0:8006"\n', "warning", "gateway.bind"),
        ("agent", '[sealed_secret]\ntrusted_kids = ["*"]\n', "warning", "sealed_secret.trusted_kids"),
    ],
)  # fmt: skip
def test_mistakes_are_found(folder: Folder, file: str, text: str, severity: str, key: str) -> None:
    finding = folder.only(**{file: text})
    assert (finding.severity, finding.key) == (severity, key)


def test_pins_need_tls_and_decide_alone(folder: Folder) -> None:
    pins = 'pins = ["sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]\n'
    http = folder.check(agent=f'[kbs]\nurl = "http://kbs"\n{pins}')
    assert "cannot protect" in http[0].message
    both = folder.check(agent=f'[kbs]\ncert = """{certificate(-1, 300)}"""\n{pins}')
    assert "no effect" in both[0].message


def test_files_of_one_kind_are_checked_one_by_one(folder: Folder) -> None:
    bad = CDH.replace(URL, "kbs")
    findings = folder.check(cdh=CDH, cdh_two=bad, aa=AA, agent="[kbs]\nx = 1\n")
    assert {finding.file.rpartition("/")[2] for finding in findings} == {"cdh_two.toml", "agent.toml"}


# --- init-data -----------------------------------------------------------------------------------------
INIT = """
version = "0.1.0"
algorithm = "sha384"
[data]
"aa.toml" = '''
{aa}'''
"cdh.toml" = '''
{cdh}'''
"policy.rego" = "package agent_policy"
"""


def test_the_files_inside_init_data_are_checked(folder: Folder) -> None:
    assert not folder.check(initdata=INIT.format(aa=AA, cdh=CDH))
    finding = folder.only(anything=INIT.format(aa=AA, cdh=CDH.replace(URL, "http:kbs")))
    assert finding.file.endswith("anything.toml[cdh.toml]")
    assert finding.key == "kbc.url"
    finding = folder.only(initdata=INIT.format(aa="[", cdh=CDH))
    assert finding.file.endswith("initdata.toml[aa.toml]")
    assert "TOML" in finding.message


def test_init_data_itself_is_checked(folder: Folder) -> None:
    text = 'version = "1"\nalgorithm = "md5"\n[data]\n"aa.toml" = 1\n"other.toml" = ""\n'
    keys = [finding.key for finding in folder.check(x=text)]
    assert keys == ["version", "algorithm", "data.aa.toml", "data.other.toml"]
    assert [finding.key for finding in folder.check(initdata="")] == ["version", "algorithm", "data"]


# --- which file is it ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "tree", "kind"),
    [
        ("x.toml", {"token_configs": {}}, "aa.toml"),
        ("x.toml", {"kbc": {}, "log": {}}, "cdh.toml"),
        ("aa.toml", {"kbc": {}}, "cdh.toml"),
        ("x.toml", {"kbs": {}}, "agent.toml"),
        ("/etc/attestation-agent.toml", {"log": {}}, "aa.toml"),
        ("my-cdh.json", {"log": {}}, "cdh.toml"),
        ("agent.toml", {}, "agent.toml"),
        ("init-data.toml", {}, "init-data"),
        ("x.toml", {"data": {}, "version": "0.1.0"}, "init-data"),
    ],
)
def test_a_file_is_recognised_by_content_or_else_by_name(
    name: str, tree: dict[str, object], kind: str
) -> None:
    recognised = recognise(name, tree)
    assert recognised is not None
    assert recognised.value == kind


def test_a_file_nobody_knows_is_an_error_with_a_guess(folder: Folder) -> None:
    assert "token_configs" in folder.only(x="[token_config.kbs]\n").next_step
    assert "aa.toml" in folder.only(x="").next_step


# --- files that cannot be used ---------------------------------------------------------------------------
def test_owner_and_mode_are_warnings_here(folder: Folder) -> None:
    path = folder.path / "aa.toml"
    path.write_text(AA)
    path.chmod(0o666)
    (finding,) = folder.check("aa.toml")
    assert finding.severity is Severity.WARNING
    assert "others may write" in finding.message
    (folder.path / "link.toml").symlink_to(path)
    assert {f.severity for f in folder.check("link.toml")} == {Severity.WARNING}


def test_what_is_no_file_is_an_error(folder: Folder) -> None:
    assert folder.check("none.toml")[0].message == "there is no such file"
    assert folder.check(".")[0].severity is Severity.ERROR
    (folder.path / "aa.ini").write_text("")
    assert any(".toml" in finding.message for finding in folder.check("aa.ini"))


# --- names that are nearly right ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("file", "text", "meant"),
    [
        ("aa", "[token_confgs.kbs]", "token_configs"),
        ("aa", "[token-configs.kbs]", "token_configs"),
        ("aa", "[Token_Configs.kbs]", "token_configs"),
        ("aa", "[token_configs.kb]", "token_configs.kbs"),
        ("aa", '["token_configs.kbs"]', "token_configs.kbs"),
        ("aa", "[token_configs]\nksb = {", "token_configs.kbs"),
        ("aa", "[[eventlog_configs]]", "eventlog_config"),
        ("cdh", "[kcb]", "kbc"),
        ("cdh", "[[credential]]", "credentials"),
        ("cdh", "[image.image_pul_proxy]", "image.image_pull_proxy"),
    ],
)
def test_a_table_one_edit_away_is_an_error(folder: Folder, file: str, text: str, meant: str) -> None:
    text += ' url = "x" }\n' if text.endswith("{") else '\nurl = "x"\n'
    files = {file: text + (CDH if file == "cdh" else "")}
    (finding,) = (one for one in folder.check(**files) if "ignored" in one.message)
    assert (finding.severity, finding.next_step) == (Severity.ERROR, f"did you mean {meant}?")
    assert not finding.blocking, "upstream starts with it"


@pytest.mark.parametrize("text", ["[tken_confgs.kbs]", "[other]"])
def test_a_table_further_away_is_a_warning(folder: Folder, text: str) -> None:
    assert folder.only(aa=f'{text}\nurl = "x"\n').severity is Severity.WARNING


@pytest.mark.parametrize(
    ("name", "severity"), [("aa.tom", "error"), ("AA.toml", "error"), ("readme", "warning")]
)
def test_a_part_of_init_data_one_edit_away_is_an_error(folder: Folder, name: str, severity: str) -> None:
    finding = folder.only(initdata=f'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"{name}" = ""\n')
    assert (finding.severity, "nobody" in finding.message) == (severity, True)


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_one_edit_is_what_it_says(left: str, right: str) -> None:
    edits = {left}
    for at in range(len(left) + 1):
        edits |= {left[:at] + left[at + 1 :], left[:at] + left[at : at + 2][::-1] + left[at + 2 :]}
        edits |= {left[:at] + char + left[at + more :] for char in "abc" for more in (0, 1)}
    assert one_edit(left, right) is one_edit(right, left) is (right in edits)


@pytest.mark.parametrize(
    "table", ["[token_configs.kbs]", "[token_configs.coco_as]", "[token_configs]\nkbs = {}"]
)
def test_a_broker_without_a_url_stops_the_start(folder: Folder, table: str) -> None:
    finding = next(one for one in folder.check(aa=f"{table}\n") if one.key.endswith(".url"))
    assert finding.blocking
    assert "missing" in finding.message
    # As upstream, whatever agent.toml says.
    agent = f'[kbs]\nurl = "{URL}"\n'
    assert any(one.blocking for one in folder.check(aa=f"{table}\n", agent=agent))


def test_an_empty_url_is_an_error_that_starts(folder: Folder) -> None:
    finding = folder.only(aa=AA.replace(URL, ""))
    assert (finding.severity, finding.blocking) == (Severity.ERROR, False)
    assert not folder.check(aa=AA.replace(URL, ""), agent=f'[kbs]\nurl = "{URL}"\n')


def test_upstreams_placeholder_is_refused_by_field_and_expectation(folder: Folder) -> None:
    finding = folder.only(aa=f'{AA}cert = "cert"\n')
    assert (finding.key, finding.blocking) == ("token_configs.kbs.cert", True)
    assert "BEGIN CERTIFICATE" in finding.message
    assert "triple quotes" in finding.next_step
