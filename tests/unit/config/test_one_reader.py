"""What ``config check`` accepts, ``serve`` and the first use accept: each value has one reader."""

from __future__ import annotations

import base64
import contextlib
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import device_kinds, keys, urls
from agent.config.check import check
from agent.config.document import parse
from agent.config.load import load
from agent.config.model import Attester, Kbs, KbsServer
from agent.config.uri import parse_uri
from agent.devkit import pki
from agent.devkit.clock import FakeClock
from agent.errors import AgentError
from agent.http.tls import Trust
from agent.http.url import PORTS
from agent.kbs.endpoints import Breaker, Endpoint
from agent.kbs.transport import trust
from agent.serve.rest.address import parse_bind
from agent.serve.sockets import parse_address
from agent.tee import imds
from agent.tee.initdata import parse as parse_init_data

from .support import CDH
from .test_keys import document as document_with

if TYPE_CHECKING:
    from pathlib import Path

    from agent.config.findings import Finding
    from agent.config.model import Config

ROOT = pki.Authority().pem
DER = ssl.PEM_cert_to_DER_cert(ROOT)
NOW = 1_790_000_000.0
FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)

HOSTS = st.sampled_from(
    ["kbs", "_kbs", "a_b", "kbs.example.", "10.0.0.1", "[::1]", "[fe80::1%eth0]", "[fe80::1%25eth0]", "A.B",
     "[::ffff:1.2.3.4]", "[fe80::1%]", "[v1.x]", "xn--kln-sna", "a..b", "-a", "a-", "127.1", "[::", "%61", ""]
) | st.text("ab.-_%:[]1", max_size=12)  # fmt: skip
URLS = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["http://", "https://", "HTTPS://", "http:", "", "ftp://"]),
    st.sampled_from(["", "u@", "u:p@", ":@", "a b@"]),
    HOSTS,
    st.sampled_from(["", ":1", ":8080", ":0", ":65535", ":65536", ":", ":x", ":08080"]),
    st.sampled_from(["", "/", "/kbs", "//", "/a b", "/%41", "/%", "/..", "?q", "#f"]),
)


def endpoint(url: str) -> Endpoint:
    return Endpoint(0, Kbs(url=url), Breaker(FakeClock(), lambda: 0.5))


# --- the kinds ---------------------------------------------------------------------------------------------
@settings(max_examples=600, deadline=None)
@given(URLS)
def test_urls(url: str) -> None:
    """The client takes what the configuration takes, and nothing else."""
    if urls.problem(url):
        with pytest.raises(AgentError):
            endpoint(url).url("auth")
    else:
        base = url.rstrip("/")
        made, parts = endpoint(base).url("auth"), urlsplit(base)
        assert (made.scheme, made.host) == (parts.scheme, parts.hostname)
        assert made.port == (parts.port or PORTS[made.scheme])
        assert made.target == f"{parts.path}/kbs/v0/auth"
    if urls.plain_problem(url):
        with pytest.raises(AgentError):
            imds._Service(Attester(imds_url=url), None)  # type: ignore[arg-type]
    else:
        imds._Service(Attester(imds_url=url), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["[fe80::1%eth0]", "[fe80::1%25eth0]", "[fe80::1%]"])
def test_ipv6_zones_are_named(host: str) -> None:
    assert "zone" in urls.problem(f"https://{host}:8080")
    assert "zone" in urls.proxy_problem(f"http://{host}:3128")
    with pytest.raises(ValueError):
        urls.bind_address(f"{host}:8006")


@pytest.mark.parametrize(
    "proxy", ["http://proxy:3128/path", "http://a b@proxy", "http://@proxy", "http://u:p:q@proxy", "proxy:1"]
)
def test_proxies_that_cannot_work_are_refused(proxy: str) -> None:
    assert urls.proxy_problem(proxy)


@pytest.mark.parametrize(
    "proxy", ["http://proxy:3128/", "https://u:p%40@proxy", "http://[::1]:1", "http://u@p"]
)
def test_proxies_that_can_work_pass(proxy: str) -> None:
    assert not urls.proxy_problem(proxy)


@given(st.sampled_from(["127.0.0.1", "[::1]", "::1", "[127.0.0.1]", "[fe80::1%1]", "a", "0127.0.0.1", ""]),
       st.sampled_from(["", ":1", ":65535", ":65536", ":-1", ":٣", ":1 "]))  # fmt: skip
def test_addresses_to_listen_at(host: str, port: str) -> None:
    with contextlib.suppress(ValueError):
        keys.ARGUMENTS["gateway.bind"].read(host + port)
        parse_bind(host + port)


@given(st.text("ab/.@\0é\ud800", max_size=12).map("unix://".__add__) | st.text(max_size=20))
def test_sockets(text: str) -> None:
    with contextlib.suppress(ValueError):
        keys.ARGUMENTS["attester.socket"].read(text)
        parse_address(text)


@given(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["kbs:///", "kbs://h/", "KBS:///", "kbs+p:///", "kbs+:///", "kbs:/", ""]),
        st.sampled_from(["a/b/c", "a/b", "a/b/c/d", "a//c", "../b/c", "a/b/c d", "a/b/%2e", "a/b/é"]),
        st.sampled_from(["", "?q=1", "?q=é", "#f"]),
    )
)
def test_resource_uris(uri: str) -> None:
    for key in ("credentials", "kms.credentials"):
        kind = next(one.kind for one in keys.KEYS if one.name == key)
        path = "/run/confidential-containers/cdh/kbs/x"
        value: object = [{"path": path, "resource_uri": uri}] if key == "credentials" else {"aws/x": uri}
        try:
            kind.read(value)
        except ValueError:
            continue
        parse_uri(uri)


# --- whole files ------------------------------------------------------------------------------------------
CUT = ssl.DER_cert_to_PEM_cert(DER[:-9])
ODD = ssl.DER_cert_to_PEM_cert(b"\x30\x03\x02\x01\x01")
CERTIFICATES = st.sampled_from(
    [ROOT, CUT, ODD, ROOT + ODD, f"# é\n{ROOT}", "cert", "", ROOT[:-30],
     *(ROOT.replace("\n", other) for other in ("\n\n", "\r", " ", "", "\n   "))]
)  # fmt: skip
PIN = "sha256/" + base64.b64encode(bytes(32)).decode()
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "string, PEM": CERTIFICATES,
    "string, http(s) URL": URLS,
    "string, http URL": URLS,
    "array of tables: `url`, `pins`, `cert`": st.lists(
        st.fixed_dictionaries({"url": URLS}, optional={"cert": CERTIFICATES, "pins": st.just([PIN])}),
        min_size=1, max_size=2,
    ),
}  # fmt: skip
INTERESTING = [key for key in keys.KEYS if key.kind.name in VALUES]


RAW = (
    *("true", "0", "-1", "1e3", "inf", "nan", '""', "[]", "{}", "07:32", '"/a"', '"unix:///x"', '"all"'),
    *('[""]', '"127.0.0.1:1"', '"::1"', '["a"]', '"0x81000001"'),
)


def toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {toml(inner)}' for name, inner in value.items())} }}"
    escaped = "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in str(value))
    return f'"{escaped}"'


class Place:
    """A folder with the files of one try."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, files: dict[str, str]) -> dict[str, str | None]:
        paths: dict[str, str | None] = dict.fromkeys(("aa", "cdh", "agent"))
        for name, text in files.items():
            path = self.folder / f"{name}.toml"
            path.write_bytes(text.encode())
            path.chmod(0o600)
            paths[name] = str(path)
        return paths

    def errors(self, files: dict[str, str]) -> list[Finding]:
        paths = [path for path in self.write(files).values() if path]
        return [one for one in check(paths, clock=FakeClock(wall=NOW)) if one.severity == "error"]

    def serve(self, files: dict[str, str]) -> Config:
        paths = self.write(files)
        return load(aa=paths["aa"], cdh=paths["cdh"], agent=paths["agent"], environ={}, cmdline="")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def use(config: Config) -> None:
    """What happens at the first use of every value that is read again then."""
    for kbs in (config.attester.kbs, config.hub.kbs):
        for server in kbs.servers():
            _connect(kbs, server)
    Trust(config.hub.kms.extra_roots).context()
    imds._Service(config.attester, None)  # type: ignore[arg-type]
    parse_bind(config.gateway.bind)
    for address in (config.attester.socket, config.hub.socket, config.hub.aa_socket):
        parse_address(address)
    for credential in config.hub.credentials:
        parse_uri(credential.resource_uri)
    for device in config.attester.expected_devices:
        device_kinds.expected_device(device)


def _connect(kbs: Kbs, server: KbsServer) -> None:
    if server.url:
        endpoint(server.url).url("auth")
    made = trust(Kbs(url=server.url, extra_roots=server.extra_roots, pins=server.pins, proxy=kbs.proxy))
    if made is not None:
        made.context()


@pytest.mark.parametrize("key", INTERESTING, ids=lambda key: key.name)
@FILES
@given(data=st.data())
def test_what_check_accepts_is_served_and_used(place: Place, key: keys.Key, data: st.DataObject) -> None:
    files = document_with(key, toml(data.draw(VALUES[key.kind.name])))
    if place.errors(files):
        return
    use(place.serve(files))


# A file that a key names need not be on the laptop.
@pytest.mark.parametrize(
    "key", [key for key in keys.KEYS if not key.contents], ids=lambda key: f"{key.file.value}:{key.name}"
)
@FILES
@given(data=st.data())
def test_what_check_accepts_of_any_key_is_served(place: Place, key: keys.Key, data: st.DataObject) -> None:
    files = document_with(key, data.draw(st.sampled_from([key.example, *RAW])))
    if not place.errors(files):
        use(place.serve(files))


@pytest.mark.parametrize("text", [CUT, ODD, ROOT + ODD, ROOT[:-30], "cert"])
def test_a_bad_certificate_of_an_endpoint_is_an_error(place: Place, text: str) -> None:
    agent = f'[kbs]\nendpoints = [{{ url = "https://kbs.example", cert = {toml(text)} }}]\n'
    assert [one.key for one in place.errors({"agent": agent})] == ["kbs.endpoints"]


@pytest.mark.parametrize("text", [ROOT.replace("\n", " "), ROOT.replace("\n", "\r"), f"# é\n{ROOT}"])
def test_odd_but_good_certificates_are_used(place: Place, text: str) -> None:
    files = {
        "aa": f'[token_configs.kbs]\nurl = "https://kbs.example"\ncert = {toml(text)}\n',
        "cdh": f"{CDH}kbs_cert = {toml(text)}\n",
        "agent": f"[kms]\ncert = {toml(text)}\n",
    }
    assert not place.errors(files)
    config = place.serve(files)
    for roots in (config.attester.kbs, config.hub.kbs, config.hub.kms):
        assert DER in Trust(roots.extra_roots).context().get_ca_certs(binary_form=True)


def test_a_certificate_file_that_serve_would_refuse_is_named(place: Place, tmp_path: Path) -> None:
    bundle = tmp_path / "kbs.pem"
    bundle.write_bytes("# Zürich\n".encode() + ROOT.encode())
    bundle.chmod(0o666)
    agent = f'[kbs]\nurl = "https://kbs.example"\ncert_file = "{bundle}"\n'
    told = check([str(place.write({"agent": agent})["agent"])], clock=FakeClock(wall=NOW))
    assert any(one.file == str(bundle) and "stops the start" in one.message for one in told)
    with pytest.raises(AgentError):
        place.serve({"agent": agent})
    bundle.chmod(0o600)
    use(place.serve({"agent": agent}))


# --- init-data ---------------------------------------------------------------------------------------------
INIT_DATA = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = '''\n'''\n"


@pytest.mark.parametrize(
    "text",
    [
        INIT_DATA,
        INIT_DATA.replace("0.1.0", "0.1.1"),
        INIT_DATA.replace("sha256", "sm3"),
        INIT_DATA + "x = 1\n",
        INIT_DATA.replace("[data]", "[[data]]"),
        '{"version": "0.1.0", "algorithm": "sha256", "data": {"aa.toml": ""}}',
        "\ufeff" + INIT_DATA,
    ],
)
def test_init_data_that_check_accepts_is_read(place: Place, tmp_path: Path, text: str) -> None:
    for name in ("initdata.toml", "initdata.json", "initdata"):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        with contextlib.suppress(AgentError):
            parse(str(path), text.encode())
        if not [one for one in check([str(path)], clock=FakeClock(wall=NOW)) if one.severity == "error"]:
            assert parse_init_data(text.encode()).data == {"aa.toml": ""}
