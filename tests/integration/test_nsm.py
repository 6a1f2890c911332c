from __future__ import annotations

import msgspec
import pytest

from agent.cli import main as cli
from agent.tee import nitro

pytestmark = pytest.mark.integration


def test_the_nitro_document_is_printed_and_marked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[bytes | None] = []

    def document(sysroot: str, *, user_data: bytes | None = None) -> bytes:
        asked.append(user_data)
        return b"\x84doc"

    monkeypatch.setattr(nitro, "attestation_document", document)
    assert cli.main(["evidence", "--nsm", "--hex", "0102"]) == 0
    assert asked == [b"\x01\x02"]
    found = msgspec.json.decode(capsys.readouterr().out)
    assert found == {"format": "aws-nitro-attestation-document", "document": "hGRvYw=="}


def test_without_the_device_the_reason_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evidence", "--nsm"]) != 0
    assert "QUOTE_PATH_MISSING" in capsys.readouterr().err
