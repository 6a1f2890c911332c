"""Values that are refused, and what is said about them."""

from __future__ import annotations

import sys

import pytest

from agent.config import urls
from agent.config.document import parse
from agent.errors import AgentError, ErrorCode

from .support import AA, BELOW, CDH, PEM, PIN, config


def refusal(**files: str) -> str:
    with pytest.raises(AgentError) as caught:
        config(**files)  # type: ignore[arg-type]
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    return caught.value.detail


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http:10.0.0.1:8080", "'//'"),
        ("HTTP:/10.0.0.1", "'//'"),
        ("10.0.0.1:8080", "scheme"),
        ("kbs.example", "scheme"),
        ("ftp://kbs", "scheme"),
        ("http://", "no host"),
        ("https://kbs:80:80", "port"),
        ("https://kbs:", "port"),
        ("https://kbs:0", "port"),
        ("https://kbs:99999", "port"),
        ("https://kbs:8080,", "port"),
        ("https://kbs 8080", "white space"),
        ("https://kbs:8080\n", "white space"),
        ("https://k\N{LATIN SMALL LETTER O WITH DIAERESIS}ln", "xn--"),
        ("https://kbs?x=1", "query"),
        ("https://kbs#x", "query"),
        ("https://user:hunter2@kbs", "credentials"),
        ("https://kbs'", "host"),
        ("https://-kbs", "host"),
        ("https://kbs..example", "host"),
        ("https://10.0.0.256", "IPv4"),
        ("https://10.0.0", "IPv4"),
        ("https://fd00::1", "port"),
        ("https://[kbs]", "IPv6"),
        ("https://kbs/a\\b", "path"),
        ("https://" + "a" * 3000, "longer"),
    ],
)
def test_a_url_that_cannot_work_is_explained(url: str, says: str) -> None:
    assert says in urls.problem(url)
    quoted = url.replace("\\", "\\\\").replace("\n", "\\n")
    for text in (
        refusal(aa=f'[token_configs.kbs]\nurl = "{quoted}"\n'),
        refusal(cdh=f'[kbc]\nname = "cc_kbc"\nurl = "{quoted}"\n'),
        refusal(agent=f'[kbs]\nurl = "{quoted}"\n'),
    ):
        assert says in text
        assert "hunter2" not in text


@pytest.mark.parametrize(
    "url",
    ["http://10.0.0.1:8080", "https://kbs.coco.svc.cluster.local", "https://[fd00::1]:8080", "http://[::1]",
     "https://kbs/trustee/v1", "https://kbs.example.", "http://my_host:1", "https://xn--kln-sna.example"],
)  # fmt: skip
def test_a_url_that_can_work_passes(url: str) -> None:
    assert not urls.problem(url)
    assert config(aa=f'[token_configs.kbs]\nurl = "{url}///"\n').attester.kbs.url == url


@pytest.mark.parametrize(
    ("file", "text", "key", "says"),
    [
        ("aa", "token_configs = 1", "token_configs", "table"),
        ("aa", '[token_configs]\nkbs = "x"', "token_configs.kbs", "table"),
        ("aa", "[token_configs.kbs]\nurl = 1", "token_configs.kbs.url", "a string, found an integer"),
        ("aa", '[token_configs.kbs]\ntee_key_algorithm = "P-384"', "tee_key_algorithm", "RSA-OAEP-256"),
        ("aa", '[token_configs.kbs]\ncert = "/etc/kbs.pem"', "token_configs.kbs.cert", "PEM"),
        ("aa", '[eventlog_config]\ninit_pcr = "17"', "eventlog_config.init_pcr", "integer"),
        ("aa", "[eventlog_config]\ninit_pcr = 24", "eventlog_config.init_pcr", "register"),
        ("cdh", "", "kbc.name", "missing"),
        ("cdh", '[kbc]\nname = ""', "kbc.name", "empty"),
        ("cdh", f'socket = "/run/cdh.sock"\n{CDH}', "socket", "unix:///"),
        ("cdh", f'socket = "unix:/run/cdh.sock"\n{CDH}', "socket", "unix:///"),
        ("cdh", f'socket = "unix://run/cdh.sock"\n{CDH}', "socket", "three slashes"),
        ("cdh", f'socket = "unix:///run/"\n{CDH}', "socket", "no socket"),
        ("cdh", f'socket = "unix:///{"x" * 107}"\n{CDH}', "socket", "107"),
        (
            "cdh",
            f'skip_sealed_secret_verification = "true"\n{CDH}',
            "skip_sealed_secret_verification",
            "true or",
        ),
        ("cdh", f"credentials = [1]\n{CDH}", "credentials", "tables"),
        ("cdh", f'credentials = [{{ path = "{BELOW}/x" }}]\n{CDH}', "credentials", "resource_uri"),
        ("agent", '[kbs]\npins = ["AAAA"]', "kbs.pins", "sha256/"),
        ("agent", '[kbs]\npins = ["sha256/AAAA"]', "kbs.pins", "3 bytes"),
        ("agent", '[kbs]\npins = ["sha256/_-"]', "kbs.pins", "base64"),
        ("agent", f'[kbs]\npins = "{PIN}"', "kbs.pins", "array"),
        ("agent", "[kbs]\nrequest_timeout = 0", "kbs.request_timeout", "between"),
        ("agent", "[kbs]\nrequest_timeout = inf", "kbs.request_timeout", "between"),
        ("agent", "[kbs]\nrequest_timeout = nan", "kbs.request_timeout", "between"),
        ("agent", f"[kbs]\nrequest_timeout = 1{'0' * 400}", "kbs.request_timeout", "between"),
        ("agent", "[kbs]\nrequest_timeout = true", "kbs.request_timeout", "number"),
        ("agent", '[kbs]\nproxy = "proxy:3128"', "kbs.proxy", "scheme"),
        ("agent", f'[kbs]\ncert = """{PEM}"""\ncert_file = "/x"', "kbs.cert_file", "beside"),
        ("agent", '[kbs]\ncert_file = "kbs.pem"', "kbs.cert_file", "absolute"),
        ("agent", "[attester]\nsample_device = true", "attester.sample_device", "allow_sample"),
        ("agent", '[hub]\noffline_stores = ["/a/../b"]', "hub.offline_stores", "'..'"),
        ("agent", '[sealed_secret]\ntrusted_kids = [""]', "sealed_secret.trusted_kids", "empty"),
        ("agent", '[gateway]\nbind = "[127.0.0.1]:1"', "gateway.bind", "IP address"),
        ("agent", '[gateway]\nbind = "::1:8006"', "gateway.bind", "IP address"),
        ("agent", '[gateway]\nbind = "127.0.0.1:65536"', "gateway.bind", "IP address"),
        ("agent", '[gateway]\nfeatures = "none"', "gateway.features", "resource, attestation, all"),
        ("agent", '[gateway]\nextra_hosts = ["http://a"]', "gateway.extra_hosts", "host name"),
        ("agent", '[observe]\nlog_level = "verbose"', "observe.log_level", "trace"),
        ("agent", '[observe]\nlog_format = "xml"', "observe.log_format", "json, text"),
    ],
)
def test_a_wrong_value_is_refused_by_file_and_key(file: str, text: str, key: str, says: str) -> None:
    detail = refusal(**{file: text})
    assert f"{file}.toml: " in detail
    assert key in detail
    assert says in detail


@pytest.mark.parametrize(
    "path",
    ["/run/confidential-containers/cdh/kbsfoo/x", "/etc/passwd", f"{BELOW}/../x", f"{BELOW}/./x", BELOW,
     f"{BELOW}/", f"{BELOW}//x", "x", ""],
)  # fmt: skip
def test_credentials_stay_in_their_folder_by_whole_segments(path: str) -> None:
    entry = f'{{ path = "{path}", resource_uri = "kbs:///default/aws/credential" }}'
    assert "illegal path" in refusal(cdh=f"credentials = [{entry}]\n{CDH}")


def test_a_private_key_is_refused_and_not_repeated() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----"
    detail = refusal(cdh=f'{CDH}kbs_cert = """{key}"""\n')
    assert "private key" in detail
    assert "c2VjcmV0" not in detail


@pytest.mark.parametrize(
    "broken", [PEM.replace("END", "ENDE"), PEM.replace("MAA=", "M*A="), PEM.replace("MAA=", "AAAA")]
)
def test_damaged_certificates_are_refused(broken: str) -> None:
    assert "kbs_cert" in refusal(cdh=f'{CDH}kbs_cert = """{broken}"""\n')


def test_an_empty_certificate_is_none() -> None:
    assert not config(aa=f'{AA}cert = ""\n').attester.kbs.extra_roots


def test_unknown_keys_of_upstreams_files_are_warnings_with_a_suggestion() -> None:
    made = config(aa=AA + 'certt = "x"\n', cdh=CDH + "[imagee]\n")
    assert "token_configs.kbs.certt" in made.warnings[0]
    assert "did you mean token_configs.kbs.cert?" in made.warnings[0]
    assert "did you mean image?" in made.warnings[1]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[kbs]\nulr = 1\n", "kbs.url"),
        ("[gatway]\n", "gateway"),
        ("[sealed_secrets]\n", "sealed_secret"),
        ("allow_sample = true\n", "attester.allow_sample"),
        ('[kbc]\nname = "cc_kbc"\n', "kbc of cdh.toml"),
        ("skip_sealed_secret_verification = true\n", "of cdh.toml"),
        ('"kbs.url" = "x"\n', "kbs.url"),
    ],
)
def test_unknown_keys_of_our_file_stop_the_start_with_a_suggestion(text: str, meant: str) -> None:
    detail = refusal(agent=text)
    assert "is not a key" in detail
    assert meant in detail


def test_only_our_file_can_allow_sample_evidence() -> None:
    sample = "[attester]\nallow_sample = true\n"
    assert not config(aa=sample).attester.allow_sample
    assert not config(cdh=CDH + sample).attester.allow_sample
    made = config(agent=sample)
    assert made.attester.allow_sample
    assert "proves nothing" in made.warnings[0]


def test_without_the_development_kit_samples_are_said_to_have_no_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "agent.devkit.sample", None)
    (warning,) = config(agent="[attester]\nallow_sample = true\n").warnings
    assert "has no effect: the development kit is not in this image" in warning
    assert "proves nothing" not in warning
    monkeypatch.setitem(sys.modules, "agent.devkit", None)
    assert config(agent="[attester]\nallow_sample = true\n").warnings == (warning,)


def test_many_mistakes_are_all_counted_and_a_few_told() -> None:
    detail = refusal(agent="".join(f"wrong{n} = 1\n" for n in range(500)))
    assert len(detail) < 1000
    assert "more" in detail


def test_a_flood_of_unknown_keys_hides_nothing() -> None:
    flood = "".join(f"wrong{n} = 1\n" for n in range(3000))
    assert "token_configs: expected a table" in refusal(aa=flood + "token_configs = 1\n")
    assert len(config(aa=flood).warnings) < 100


def test_names_from_files_cannot_forge_lines() -> None:
    detail = refusal(agent='"a\\nFAKE\\u001b[31m" = 1\n')
    assert "\n" not in detail
    assert "\x1b" not in detail


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("aa.yaml", b"", ".toml and .json"),
        ("aa.conf", b"", ".toml and .json"),
        ("aa.json", b"", "JSON"),
        ("aa.json", b"[]", "object"),
        ("aa.json", b'{"a": "\xff"}', "aa.json"),
        ("aa.toml", b"a = ", "TOML"),
        ("aa.toml", b"\xff", "UTF-8"),
        ("aa.toml", b"a = " + b"[" * 5000, "deep"),
        ("aa.toml", b"a = " + b"9" * 5000, "range"),
        ("aa.json", b"[" * 200_000, "deep"),
        ("aa.toml", b"#" * (2 * 1024 * 1024 + 1), "larger"),
    ],
)
def test_a_file_that_cannot_be_parsed_is_named(name: str, content: bytes, says: str) -> None:
    with pytest.raises(AgentError) as caught:
        parse(name, content)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    assert caught.value.detail.startswith(f"{name}: ")
    assert says in caught.value.detail


def test_without_an_extension_toml_comes_first_then_json() -> None:
    assert parse("/run/aa", b"a = 1").tree == {"a": 1}
    assert parse("/run/aa", b'{"a": 1}').tree == {"a": 1}
    with pytest.raises(AgentError, match="TOML"):
        parse("/run/aa", b"???")


def test_json_null_is_not_there() -> None:
    assert parse("cdh.json", b'{"kbc": {"name": "cc_kbc", "kbs_cert": null}}').tree
