"""Fuzzing the parsers of evidence, and the readers of HTTP: only the declared error may escape.

``python tests/fuzz/fuzz_evidence.py [--target NAME ...] [SECONDS] [-- options of atheris]``

With atheris installed its coverage guides the inputs, without end unless SECONDS are given. Without it,
recordings are changed at random for SECONDS (60) in equal parts per target. An input that breaks a parser is
written to a file; ``--replay FILE --target NAME`` runs it again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.fuzz.targets import Target

MAX_INPUT: Final = 128 * 1024
NUMBERS: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63, 2**64 - 1)


def mutate(data: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """A neighbour of an input: bits flipped, lengths made extreme, pieces cut, doubled or swapped."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        at = draw.randrange(len(changed) + 1)
        piece = draw.randrange(1, 64)
        match draw.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(changed):
                changed[at] = draw.randrange(256)
            case 2:
                size = draw.choice((1, 2, 4, 8))
                number = (draw.choice(NUMBERS) + draw.randrange(-2, 3)) % 2 ** (8 * size)
                changed[at : at + size] = number.to_bytes(size, draw.choice(("little", "big")))
            case 3:
                del changed[at : at + piece]
            case 4:
                changed[at:at] = changed[at : at + piece]
            case 5:
                changed[at:at] = draw.randbytes(draw.randrange(1, 16))
            case 6:
                other = draw.choice(others) if others else b""
                start = draw.randrange(len(other) + 1)
                changed[at : at + piece] = other[start : start + piece]
            case _:
                del changed[at:]
    return bytes(changed[:MAX_INPUT])


def look(found: object) -> None:
    """Read every public property of what a parser gave: they compute from the same input."""
    if isinstance(found, msgspec.Struct):
        for name in dir(type(found)):
            if isinstance(getattr(type(found), name), property):
                getattr(found, name)


def attempt(parse: Callable[[bytes], object], data: bytes) -> bool:
    """Whether the parser took the input; anything but EVIDENCE_MALFORMED goes up."""
    errors: Any = importlib.import_module("agent.errors")
    try:
        look(parse(data))
    except errors.AgentError as error:
        if error.code is not errors.ErrorCode.EVIDENCE_MALFORMED:
            raise
        return False
    return True


def campaign(target: Target, draw: random.Random, *, seconds: float = 0.0, runs: int = 0) -> int:
    """Change inputs of one target at random, for a time or a number of runs; how many were tried."""
    parse = target.load()
    if parse is None:
        return 0
    pool = [*target.inputs(), b"", bytes(64), b"\xff" * 2048]
    kept, tried, end = len(pool) + 64, 0, time.monotonic() + seconds
    while tried < runs or time.monotonic() < end:
        data = mutate(draw.choice(pool), pool, draw)
        tried += 1
        try:
            taken = attempt(parse, data)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of a library in Rust is no Exception
            _keep(target, data)
            raise
        if taken and len(pool) < kept:
            pool.append(data)
    return tried


def _keep(target: Target, data: bytes) -> None:
    path = Path(f"crash-{target.name}-{hashlib.sha256(data).hexdigest()[:16]}")
    with contextlib.suppress(OSError):
        path.write_bytes(data)
    print(f"{target.name}: {path}, first bytes {data[:64].hex()}", file=sys.stderr)


def guided(atheris: Any, targets: Sequence[Target], options: list[str]) -> None:
    """Let atheris choose inputs. With several targets the first byte chooses one of them."""
    with atheris.instrument_imports(include=["agent"]):
        loaded = [(target, target.load()) for target in targets]
    parsers = [(target, parse) for target, parse in loaded if parse is not None]
    corpus = tempfile.mkdtemp(prefix="fuzz-evidence-")
    for at, (target, _) in enumerate(parsers):
        for number, data in enumerate(target.inputs()):
            Path(corpus, f"{target.name}-{number}").write_bytes(bytes([at])[len(parsers) == 1 :] + data)

    def one_input(data: bytes) -> None:
        if len(parsers) == 1:
            attempt(parsers[0][1], data)
        elif data:
            attempt(parsers[data[0] % len(parsers)][1], data[1:])

    # The engine ends the process itself, so the folder stays: it is a corpus for the next run.
    print(f"corpus: {corpus}")
    atheris.Setup([sys.argv[0], corpus, f"-max_len={MAX_INPUT}", *options], one_input)
    atheris.Fuzz()


def main(arguments: list[str]) -> None:
    """The command line."""
    targets: tuple[Target, ...] = (
        *importlib.import_module("tests.fuzz.targets").TARGETS,
        *importlib.import_module("tests.fuzz.http_targets").HTTP_TARGETS,
    )
    border = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seconds", nargs="?", type=float)
    parser.add_argument("--target", action="append", choices=[each.name for each in targets])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path)
    chosen = parser.parse_args(arguments[:border])
    picked = [each for each in targets if not chosen.target or each.name in chosen.target]
    if chosen.replay:
        for each in picked:
            parse = each.load()
            if parse is not None:
                print(f"{each.name}: {'taken' if attempt(parse, chosen.replay.read_bytes()) else 'refused'}")
    elif importlib.util.find_spec("atheris") is not None:
        limit = [f"-max_total_time={int(chosen.seconds)}"] if chosen.seconds else []
        guided(importlib.import_module("atheris"), picked, [*limit, *arguments[border + 1 :]])
    else:
        for each in picked:
            draw = random.Random(f"{chosen.seed} {each.name}")  # noqa: S311 - to be repeated
            tried = campaign(each, draw, seconds=(chosen.seconds or 60.0) / len(picked))
            print(f"{each.name}: {f'{tried} inputs' if tried else 'not part of this release'}")


if __name__ == "__main__":
    main(sys.argv[1:])
