"""What every backend keeps to, whatever service is behind it. The table: tests/integration/kms/backends/."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agent.errors import AgentError, ErrorCode
from agent.hub.kms.registry import BACKENDS
from tests.integration.kms.backends import every_fake
from tests.integration.kms.stand import PLAINTEXT, Mode, raw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.integration.kms.stand import Fake, Stand

pytestmark = pytest.mark.integration

FAKES = every_fake()


def over(wanted: Callable[[type[Fake]], bool] = lambda _: True) -> pytest.MarkDecorator:
    chosen = [fake for fake in FAKES if wanted(fake)]
    return pytest.mark.parametrize("stand", chosen, ids=lambda fake: fake.title, indirect=True)


def test_every_backend_is_in_the_table() -> None:
    assert {fake.provider for fake in FAKES} == set(BACKENDS)


@over(lambda fake: fake is FAKES[0])
async def test_the_stand_sees_a_secret_that_shows(stand: Stand) -> None:
    for shown in stand.fake.secrets():
        assert stand.leaks(f"WARNING {shown}") == [shown]
        stand.errors.append(AgentError(ErrorCode.KMS_DENIED, f"refused: {shown}"))
        assert stand.leaks("") == [shown]
        stand.errors.clear()


# --- what it is for -------------------------------------------------------------------------------
@over(lambda fake: fake.gets)
@pytest.mark.parametrize("through", ["files", "broker"])
async def test_a_secret_by_its_name(stand: Stand, through: str) -> None:
    if through == "broker":
        await stand.give_resources(stand.fake.credentials())
    assert await stand.get() == stand.fake.value()
    assert bool(stand.broker.asked) == (through == "broker" and stand.fake.needs_credentials)


@over(lambda fake: fake.decrypts)
@pytest.mark.parametrize("through", ["files", "broker"])
async def test_what_the_owner_encrypted_is_decrypted(stand: Stand, through: str) -> None:
    if through == "broker":
        await stand.give_resources(stand.fake.credentials())
    assert await stand.decrypt() == PLAINTEXT


@over(lambda fake: fake.encrypts)
async def test_what_we_encrypt_we_decrypt(stand: Stand) -> None:
    ciphertext, annotations = await stand.encrypt(b"a data key")
    assert b"a data key" not in ciphertext
    assert await stand.decrypt(ciphertext, annotations) == b"a data key"


@over()
async def test_the_providers_name_in_any_case(stand: Stand) -> None:
    able = stand.backends.getter if stand.fake.gets else stand.backends.decrypter
    assert able(stand.fake.provider.upper(), stand.raw_settings()) is not None


@over()
async def test_many_at_once(stand: Stand) -> None:
    first, *others = await asyncio.gather(*(stand.use() for _ in range(20)))
    assert set(others) == {first}


@over()
async def test_one_backend_for_the_same_settings(stand: Stand) -> None:
    able = stand.backends.getter if stand.fake.gets else stand.backends.decrypter
    assert able(stand.fake.provider, stand.raw_settings()) is able(stand.fake.provider, stand.raw_settings())


# --- what it says it cannot -----------------------------------------------------------------------
@over(lambda fake: not (fake.gets and fake.decrypts and fake.encrypts))
async def test_what_it_does_not_offer_is_said_before_anybody_is_asked(stand: Stand) -> None:
    fake, backends = stand.fake, stand.backends
    for offered, able in (
        (fake.gets, backends.getter),
        (fake.decrypts, backends.decrypter),
        (fake.encrypts, backends.encrypter),
    ):
        if not offered:
            with pytest.raises(AgentError) as caught:
                able(fake.provider, stand.raw_settings())
            assert caught.value.code is ErrorCode.KMS_UNKNOWN
            assert fake.provider in caught.value.detail
    assert stand.seen == []


@over()
async def test_settings_it_does_not_know_are_refused(stand: Stand) -> None:
    able = stand.backends.getter if stand.fake.gets else stand.backends.decrypter
    for settings in ({**stand.fake.settings(), "verify_tls": False}, {"region": 7, "endpoint": []}):
        with pytest.raises(AgentError) as caught:
            able(stand.fake.provider, raw(settings))
        assert caught.value.code is ErrorCode.KMS_SETTINGS_INVALID


# --- what services do -----------------------------------------------------------------------------
@over()
@pytest.mark.parametrize(
    ("mode", "code"),
    [
        (Mode.DENIED, ErrorCode.KMS_DENIED),
        (Mode.MISSING, ErrorCode.KMS_NOT_FOUND),
        (Mode.BUSY, ErrorCode.KMS_BUSY),
        (Mode.HUGE, ErrorCode.KMS_BAD_RESPONSE),
        (Mode.CUT, ErrorCode.KMS_BAD_RESPONSE),
        (Mode.REDIRECT, ErrorCode.KMS_BAD_RESPONSE),
    ],
    ids=lambda value: value.name.lower(),
)
async def test_an_answer_that_is_no_secret(stand: Stand, mode: Mode, code: ErrorCode) -> None:
    stand.mode = mode
    if stand.fake.gets:
        assert (await stand.fails(stand.get())).code is code
    if stand.fake.decrypts:
        assert (await stand.fails(stand.decrypt())).code is code
    assert not [line for line in stand.seen if line.endswith("/elsewhere")]


@over()
async def test_garbage_is_never_a_secret(stand: Stand) -> None:
    stand.mode = Mode.GARBAGE
    for body in stand.fake.garbage():
        stand.body = body
        if stand.fake.gets:
            assert (await stand.fails(stand.get())).code is ErrorCode.KMS_BAD_RESPONSE, body[:20]
        if stand.fake.decrypts:
            assert (await stand.fails(stand.decrypt())).code is ErrorCode.KMS_BAD_RESPONSE, body[:20]


@over(lambda fake: fake.decrypts)
async def test_a_changed_ciphertext_gives_nothing(stand: Stand) -> None:
    ciphertext, annotations = stand.fake.wrap(PLAINTEXT)
    # The fake refuses it with a code of its own; what the service says is not what matters here.
    changed = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    error = await stand.fails(stand.decrypt(changed, annotations))
    assert error.code in {ErrorCode.KMS_DENIED, ErrorCode.KMS_BAD_RESPONSE, ErrorCode.KMS_SETTINGS_INVALID}


@over()
async def test_well_again_after_trouble(stand: Stand) -> None:
    for mode in (Mode.BUSY, Mode.CUT, Mode.HUGE, Mode.DENIED):
        stand.mode = mode
        await stand.fails(stand.use())
        stand.mode = Mode.GOOD
        assert await stand.use()


# --- time and the network -------------------------------------------------------------------------
@over()
@pytest.mark.parametrize("mode", [Mode.SILENT, Mode.STALLED], ids=lambda value: value.name.lower())
async def test_silence_ends_with_the_callers_deadline(stand: Stand, mode: Mode) -> None:
    await stand.use()
    stand.mode = mode
    began = asyncio.get_running_loop().time()
    assert (await stand.fails(stand.use(seconds=0.4))).code is ErrorCode.KMS_TIMEOUT
    assert asyncio.get_running_loop().time() - began < 5


@over()
async def test_silence_ends_with_the_configured_time(stand: Stand) -> None:
    await stand.configure(timeout=0.4)
    stand.mode = Mode.SILENT
    assert (await stand.fails(stand.use())).code is ErrorCode.KMS_TIMEOUT


@over()
async def test_a_service_that_is_not_there(stand: Stand) -> None:
    await stand.stop_listening()
    assert (await stand.fails(stand.use())).code is ErrorCode.KMS_UNREACHABLE


@over(lambda fake: not fake.plain_hosts)
async def test_a_service_with_the_wrong_certificate_learns_nothing(stand: Stand) -> None:
    await stand.configure(extra_roots="")
    error = await stand.fails(stand.use())
    assert (error.code, stand.seen) == (ErrorCode.KMS_UNREACHABLE, [])
    assert "TLS" in error.detail


@over(lambda fake: not fake.hosts)
async def test_an_address_nobody_configured_learns_nothing(stand: Stand) -> None:
    await stand.configure(endpoints=("https://other.example:1",))
    assert (await stand.fails(stand.use())).code is ErrorCode.KMS_ENDPOINT_REFUSED
    assert stand.seen == []


# --- credentials ----------------------------------------------------------------------------------
@over(lambda fake: fake.needs_credentials)
@pytest.mark.parametrize("through", ["files", "broker"])
async def test_no_credentials(stand: Stand, through: str) -> None:
    if through == "broker":
        await stand.give_resources(stand.fake.credentials())
        stand.broker.held.clear()
    else:
        stand.give_files({})
    assert (await stand.fails(stand.use())).code is ErrorCode.KMS_CREDENTIALS_MISSING
    assert stand.seen == []


@over(lambda fake: fake.needs_credentials)
async def test_credentials_that_are_none(stand: Stand) -> None:
    for name, content in stand.fake.malformed().items():
        for wrong in (content, b""):
            stand.give_files({**stand.fake.credentials(), name: wrong})
            assert (await stand.fails(stand.use())).code is ErrorCode.KMS_CREDENTIALS_INVALID, name


@over(lambda fake: fake.needs_credentials)
@pytest.mark.parametrize("through", ["files", "broker"])
async def test_no_use_outlives_its_credentials(stand: Stand, through: str) -> None:
    async def give(files: Mapping[str, bytes]) -> None:
        if through == "files":
            stand.give_files(files)
        else:
            stand.broker.held = {f"kbs:///kms/{stand.fake.provider}/{name}": files[name] for name in files}

    good = stand.fake.credentials()
    if through == "broker":
        await stand.give_resources(good)
    await stand.use()
    for name, wrong in stand.fake.malformed().items():
        for content, code in (
            (wrong, ErrorCode.KMS_CREDENTIALS_INVALID),
            (b"", ErrorCode.KMS_CREDENTIALS_INVALID),
            (None, ErrorCode.KMS_CREDENTIALS_MISSING),
        ):
            others = {other: good[other] for other in good if other != name}
            await give(others if content is None else {**others, name: content})
            assert (await stand.fails(stand.use())).code is code, (name, content)
            await give(good)
            await stand.use()


@over(lambda fake: fake.needs_credentials)
async def test_credentials_that_others_may_write(stand: Stand) -> None:
    stand.give_files(stand.fake.credentials())
    for path in (stand.folder / "kms" / stand.fake.provider).iterdir():
        path.chmod(0o666)
    assert (await stand.fails(stand.use())).code is ErrorCode.FILE_UNSAFE
