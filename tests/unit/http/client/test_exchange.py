from __future__ import annotations

import pytest

from agent.http.client.exchange import Repeat, Trouble, again

K, N = True, False
"""A connection that was kept, or a new one."""


@pytest.mark.parametrize(
    ("repeat", "end", "kept", "expected"),
    [
        # Nothing of it left us.
        *((repeat, Trouble.UNSENT, kept, True) for repeat in Repeat for kept in (K, N)),
        # The connection ended without a byte of an answer.
        (Repeat.NEVER, Trouble.SILENT, K, False),
        (Repeat.NEVER, Trouble.SILENT, N, False),
        (Repeat.KEPT, Trouble.SILENT, K, True),
        (Repeat.KEPT, Trouble.SILENT, N, False),
        (Repeat.LOST, Trouble.SILENT, K, True),
        (Repeat.LOST, Trouble.SILENT, N, True),
        # 408 on a kept connection was said before ours arrived; on a new one it is the answer to ours.
        (Repeat.NEVER, 408, K, False),
        (Repeat.KEPT, 408, K, True),
        (Repeat.KEPT, 408, N, False),
        (Repeat.LOST, 408, N, False),
        *((Repeat.KEPT, status, kept, True) for status in (421, 425) for kept in (K, N)),
        *((Repeat.NEVER, status, kept, False) for status in (421, 425) for kept in (K, N)),
    ],
)
def test_what_goes_out_again(repeat: Repeat, end: Trouble | int, kept: bool, expected: bool) -> None:
    assert again(repeat, end, kept=kept) is expected


@pytest.mark.parametrize("repeat", Repeat)
@pytest.mark.parametrize("kept", [K, N])
def test_every_other_end_is_the_end(repeat: Repeat, kept: bool) -> None:
    known = {Trouble.UNSENT, Trouble.SILENT}
    others: list[Trouble | int] = [each for each in Trouble if each not in known]
    for end in (*others, 200, 302, 400, 407, 429, 500, 502, 503):
        assert not again(repeat, end, kept=kept)
