"""Which of the host's certificates a verifier gets, and in which order; the table itself: test_snp.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devkit.evidence_pki import authority
from agent.tee.evidence.snp import parse_report
from agent.tee.evidence.snp_table import Certificate, for_verifier
from tests.unit.tee.evidence.amd import raw_report, signer

if TYPE_CHECKING:
    from agent.devkit.evidence_pki.amd import AmdSigner

OTHER = "ecae0c0f-9502-43b1-afa2-0ae2e0d565b6"
DER = [authority.der(each) for vlek in (False, True) for each in signer(vlek=vlek).certificates.values()]


def der(vendor: AmdSigner, kind: str) -> Certificate:
    return Certificate(kind, authority.der(vendor.certificates[kind]))


@pytest.mark.parametrize("vlek", [False, True])
@pytest.mark.parametrize("ask_of_vlek", [False, True])
def test_one_table_for_both_keys_makes_a_chain_for_the_one_that_signed(
    *, vlek: bool, ask_of_vlek: bool
) -> None:
    vcek_vendor, vlek_vendor = signer(), signer(vlek=True)
    ask = der(vlek_vendor if ask_of_vlek else vcek_vendor, "ASK")
    table = (der(vlek_vendor, "VLEK"), der(vcek_vendor, "VCEK"), ask)
    sent = for_verifier(parse_report(raw_report(vlek=vlek)).signing_key, table)
    assert sent[0].kind == ("VLEK" if vlek else "VCEK")
    # An ASK of the other key would break the chain; without one the verifier takes its own.
    assert (ask in sent) == (vlek == ask_of_vlek)
    assert set(sent) <= set(table)


@settings(deadline=None)
@given(
    st.sampled_from(["VCEK", "VLEK", "none", "reserved 3"]),
    st.lists(
        st.builds(
            Certificate,
            st.sampled_from(["VCEK", "VLEK", "ASK", "ARK", "CRL", OTHER]),
            st.binary(max_size=12) | st.sampled_from(DER),
        ),
        max_size=6,
    ),
)
def test_a_chain_begins_with_its_key_or_is_none(key: str, table: list[Certificate]) -> None:
    sent = for_verifier(key, table)
    wanted = {key} & {"VCEK", "VLEK"} or {"VCEK", "VLEK"}
    assert bool(sent) == any(each.kind in wanted for each in table)
    assert not sent or sent[0].kind in wanted
    assert {id(each) for each in sent} <= {id(each) for each in table}
    left_out = [each for each in table if each not in sent]
    assert not sent or all(each.kind == "ASK" for each in left_out)
