"""Whom the client trusts, over loopback: CAs that are being replaced, pins, ends of TLS."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from typing import TYPE_CHECKING

import pytest

from agent.config import limits
from agent.devkit import pki
from agent.errors import AgentError, ErrorCode
from agent.http import tls
from agent.http.client.exchange import HttpError, Repeat, Trouble
from tests.integration.http.servers import OK, Seen, Talk, always, answering, client, get, server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agent.http.client.client import Client
    from tests.integration.http.servers import Server

pytestmark = pytest.mark.integration

NAME = "Acme Root CA"


def authority(name: str = NAME) -> pki.Authority:
    """One whose certificates do not say which key signed them, as `openssl req -x509` of old makes them."""
    return pki.Authority(name, key_ids=False)


@pytest.fixture
async def http() -> AsyncIterator[Client]:
    made = client()
    yield made
    await made.close()


async def good(http: Client, there: Server, trust: tls.Trust) -> None:
    assert (await http.send(get(there.url(), trust=trust))).body == b"ok"


async def refused(http: Client, there: Server, trust: tls.Trust) -> str:
    with pytest.raises(HttpError) as caught:
        await http.send(get(there.url(), trust=trust))
    assert caught.value.trouble is Trouble.TLS
    assert there.requests == []  # not one byte of a request
    return caught.value.detail


# --- CAs of one name ------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_each_of_several_cas_of_one_name_counts_in_any_order(http: Client, count: int) -> None:
    known = [authority() for _ in range(count)]
    for signer in known:
        with server(always(), tls=signer.issue().context()) as there:
            for order in itertools.permutations(known):
                await good(http, there, tls.Trust("\n".join(one.pem for one in order)))


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_ca_of_the_same_name_that_signed_nothing_opens_nothing(http: Client, count: int) -> None:
    trust = tls.Trust("\n".join(authority().pem for _ in range(count)))
    with server(always(), tls=authority().issue().context()) as there:
        assert "signature" in await refused(http, there, trust)


async def test_a_name_in_the_system_store_does_not_hide_a_configured_ca(
    http: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, ours = authority(), authority()
    bundle = tmp_path / "system.pem"
    bundle.write_text(system.pem)
    paths = ssl.get_default_verify_paths()._replace(openssl_cafile=str(bundle), openssl_capath="/nonexistent")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    trust = tls.Trust(ours.pem)
    for signer in (system, ours, system):
        with server(always(), tls=signer.issue().context()) as there:
            await good(http, there, trust)
    with server(always(), tls=authority().issue().context()) as there:
        await refused(http, there, trust)


async def test_the_one_that_worked_is_tried_first(http: Client) -> None:
    other, signer = authority(), authority()
    trust = tls.Trust(other.pem + signer.pem)
    with server(answering(OK), tls=signer.issue().context()) as there:
        await good(http, there, trust)
        tries = there.connections
        assert tries > 1
        for _ in range(3):
            await good(http, there, trust)
        assert there.connections == tries + 3


async def test_a_server_that_changes_to_the_new_ca_and_back(http: Client) -> None:
    old, new = authority(), authority()
    trust = tls.Trust(old.pem + new.pem)
    for signer in (old, new, old):
        with server(always(), tls=signer.issue().context()) as there:
            await good(http, there, trust)


async def test_of_many_anchors_the_one_with_the_name_counts(http: Client) -> None:
    many = [authority(f"CA {number}").pem for number in range(limits.TLS_VARIANTS + 2)]
    first, second, third = authority(), authority(), authority()
    trust = tls.Trust("\n".join((first.pem, *many, second.pem, third.pem)))
    for signer in (first, second, third):
        with server(always(), tls=signer.issue().context()) as there:
            await good(http, there, trust)
    with server(always(), tls=authority().issue().context()) as there:
        await refused(http, there, trust)
        assert there.connections <= limits.TLS_VARIANTS + 1


async def test_an_impostor_makes_the_guest_try_a_bounded_number_of_times(http: Client) -> None:
    trust = tls.Trust("\n".join(authority().pem for _ in range(limits.TLS_VARIANTS + 20)))
    with server(always(), tls=authority().issue().context()) as there:
        await refused(http, there, trust)
        assert there.connections <= limits.TLS_VARIANTS + 1


async def test_all_tries_are_within_the_time_for_connecting(http: Client) -> None:
    """The second try meets a server that no longer answers."""
    signer = authority()
    context = signer.issue().context()

    def once(talk: Talk) -> None:
        context.wrap_socket(talk.peer, server_side=True)

    trust = tls.Trust(authority().pem + signer.pem)
    with server(once, lambda talk: talk.until_closed()) as there:
        url = there.url()
        request = get(type(url)("https", url.host, url.port), trust=trust, connect=1)
        with pytest.raises(HttpError) as caught:
            await asyncio.wait_for(http.send(request), 20)
        assert caught.value.trouble is Trouble.TIME
        assert there.connections == 2


async def test_another_host_name_is_not_tried_again(http: Client) -> None:
    one, two = authority(), authority("another")
    trust = tls.Trust(one.pem + two.pem)
    with server(always(), tls=one.issue("other.example").context()) as there:
        assert "mismatch" in await refused(http, there, trust)
        assert there.connections == 1


# --- what an anchor may be --------------------------------------------------------------------------
@pytest.mark.parametrize("key_ids", [True, False])
async def test_an_intermediate_is_an_anchor_beside_others_of_its_name(http: Client, key_ids: bool) -> None:
    root = pki.Authority("root", key_ids=key_ids)
    signer = pki.Authority(NAME, key_ids=key_ids, parent=root)
    other = pki.Authority(NAME, key_ids=key_ids, parent=root)
    with server(always(), tls=signer.issue().context()) as there:
        for anchors in ((signer,), (other, signer), (signer, other), (root,), (other, root)):
            await good(http, there, tls.Trust("\n".join(one.pem for one in anchors)))
    stranger = pki.Authority(NAME, key_ids=key_ids)
    with server(always(), tls=signer.issue().context()) as there:
        await refused(http, there, tls.Trust(other.pem + stranger.pem))


async def test_the_servers_own_certificate_is_an_anchor_beside_others(http: Client) -> None:
    identity, other = pki.self_signed(), pki.self_signed()
    with server(always(), tls=identity.context()) as there:
        for anchors in ((identity, other), (other, identity)):
            await good(http, there, tls.Trust("\n".join(one.cert_pem for one in anchors)))
    with server(always(), tls=identity.context()) as there:
        await refused(http, there, tls.Trust(other.cert_pem))


@pytest.mark.parametrize("key_ids", [True, False])
async def test_an_expired_ca_beside_the_new_one_of_the_same_key(http: Client, key_ids: bool) -> None:
    root = pki.Authority(NAME, key_ids=key_ids)
    with server(always(), tls=root.issue().context()) as there:
        for anchors in ((root.expired(), root.pem), (root.pem, root.expired())):
            await good(http, there, tls.Trust("\n".join(anchors)))
    with server(always(), tls=root.issue().context()) as there:
        await refused(http, there, tls.Trust(root.expired()))
    with server(always(), tls=root.issue(expired=True).context()) as there:
        assert "expired" in await refused(http, there, tls.Trust(root.pem))


async def test_an_anchor_below_a_root_that_ended(http: Client) -> None:
    root = authority("root")
    signer = pki.Authority(NAME, key_ids=False, parent=root)
    with server(always(), tls=signer.issue().context()) as there:
        for anchors in ((root.expired(), signer.pem), (signer.pem, root.expired())):
            await good(http, there, tls.Trust("\n".join(anchors)))


async def test_anchors_that_are_none(http: Client) -> None:
    with server(always(), tls=authority().issue().context()) as there:
        with pytest.raises(AgentError) as caught:
            await http.send(get(there.url(), trust=tls.Trust("no PEM")))
        assert caught.value.code is ErrorCode.CONFIG_INVALID
        assert there.connections == 0


# --- TLS itself -----------------------------------------------------------------------------------
async def test_connections_of_one_trust_are_not_used_by_another(http: Client) -> None:
    root = authority()
    with server(always(), tls=root.issue().context()) as there:
        trust = tls.Trust(root.pem)
        await good(http, there, trust)
        await good(http, there, trust)
        assert there.connections == 1
        await good(http, there, tls.Trust(root.pem))
        assert there.connections == 2
        with pytest.raises(HttpError):
            await http.send(get(there.url(), trust=tls.Trust(authority("x").pem)))
        with pytest.raises(HttpError) as caught:
            await http.send(get(there.url()))
        assert caught.value.trouble is Trouble.REFUSED


async def test_the_steps_with_tls_and_what_is_agreed_on(http: Client) -> None:
    root, seen, told = authority(), Seen(), list[float]()
    identity = root.issue()
    context = identity.context()
    context.set_alpn_protocols(["h2", "http/1.1"])

    def script(talk: Talk) -> None:
        assert isinstance(talk.peer, ssl.SSLSocket)
        assert talk.peer.selected_alpn_protocol() == "http/1.1"
        always()(talk)

    with server(script, tls=context) as there:
        trust = tls.Trust(root.pem, shown=("localhost", told.append))
        for _ in range(2):
            await http.send(get(there.url(), trust=trust), seen)
        assert there.connections == 1
    assert seen.steps == ["connect", "name", "connect", "tls", "answer", "answer kept"]
    assert told == [identity.cert.not_valid_after_utc.timestamp()]


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 200 OK\r\n\r\nto the end"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("cleanly", [True, False])
async def test_an_answer_is_not_cut_by_who_cannot_speak_tls(
    http: Client, answer: bytes, version: ssl.TLSVersion, cleanly: bool
) -> None:
    root = authority()
    context = root.issue().context()
    context.maximum_version = version

    def script(talk: Talk) -> None:
        talk.read()
        talk.write(answer)
        assert isinstance(talk.peer, ssl.SSLSocket)
        if cleanly:
            talk.peer.setblocking(False)
            with contextlib.suppress(OSError, ValueError):
                talk.peer.unwrap()

    with server(script, tls=context) as there:
        request = get(there.url(), trust=tls.Trust(root.pem), repeat=Repeat.LOST)
        if cleanly or answer is OK:
            assert (await http.send(request)).status == 200
        else:
            with pytest.raises(HttpError) as caught:
                await http.send(request)
            assert caught.value.trouble is Trouble.BROKEN
            assert len(there.requests) == 1


async def test_what_a_server_says_in_tls_while_nobody_asks_closes_the_connection(http: Client) -> None:
    root = authority()
    with server(
        lambda talk: (talk.read(), talk.write(OK), talk.write(OK), talk.until_closed()),  # type: ignore[func-returns-value,arg-type]
        always(),
        tls=root.issue().context(),
    ) as there:
        trust = tls.Trust(root.pem)
        for number in (1, 2):
            await good(http, there, trust)
            assert there.connections == number
            await asyncio.sleep(0)


async def test_closing_does_not_wait_for_a_silent_server() -> None:
    root = authority()
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def script(talk: Talk) -> None:
        talk.read()
        talk.write(OK)
        talk.until_closed()
        loop.call_soon_threadsafe(closed.set)

    with server(script, tls=root.issue().context()) as there:
        http = client()
        await good(http, there, tls.Trust(root.pem))
        await http.close()
        await asyncio.wait_for(closed.wait(), 20)


async def test_a_request_cut_off_in_the_handshake_leaves_nothing(http: Client) -> None:
    with server(lambda talk: talk.until_closed()) as there:
        url = there.url()
        secure = type(url)("https", url.host, url.port)
        with pytest.raises(HttpError) as caught:
            await http.send(get(secure, trust=tls.Trust(), connect=0.2))
        assert caught.value.trouble is Trouble.TIME
        await asyncio.sleep(0)
    assert [each for each in asyncio.all_tasks() if each is not asyncio.current_task()] == []
