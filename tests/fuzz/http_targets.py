"""The two readers of HTTP messages: any bytes are messages or a refusal, and the same in any pieces."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from tests.fuzz.targets import Parse, Target

if TYPE_CHECKING:
    from collections.abc import Callable

_SMALL: Final = 2048


def _both_ways(name: str) -> Callable[[Any], Parse]:
    def load(_: Any) -> Parse:
        feeding: Any = importlib.import_module("tests.framing.feeding")
        read = getattr(feeding, name)

        def parse(data: bytes) -> object:
            # feeding also looks that what is held stays within the bounds.
            whole = read([data])
            cut = int.from_bytes(data[:2], "big") % (len(data) + 1)
            assert read(feeding.pieces(data, [cut])) == whole, "another message in two pieces"
            if len(data) < _SMALL:
                assert read(feeding.one_by_one(data)) == whole, "another message byte by byte"
            return whole

        return parse

    return load


def _seeds(table: str) -> tuple[bytes, ...]:
    cases: Any = importlib.import_module(f"tests.framing.{table}").CASES
    return tuple(case.data for case in cases if len(case.data) < _SMALL)


HTTP_TARGETS: Final = tuple(
    Target(f"http-{name}", "parser", _both_ways(name), _seeds(table), package="agent.http")
    for name, table in (("requests", "request_cases"), ("answers", "answer_cases"))
)
