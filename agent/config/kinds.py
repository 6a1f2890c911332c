"""What a value may look like: each kind turns a parsed TOML or JSON value into the model's value."""

from __future__ import annotations

import base64
import binascii
import enum
import re
from typing import TYPE_CHECKING, Final, TypeVar, cast

import msgspec

from agent.config import limits, pem, urls
from agent.config.findings import shown
from agent.config.model import Credential, Features, KeyAlgorithm
from agent.config.uri import parse_uri
from agent.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_E = TypeVar("_E", bound=enum.Enum)

LEVELS: Final = ("trace", "debug", "info", "warn", "error", "off")
FORMATS: Final = ("json", "text")
CREDENTIALS_FOLDER: Final = "/run/confidential-containers/cdh/kbs"
PIN_PREFIX: Final = "sha256/"
_PCRS: Final = 24
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")


class Refused(ValueError):  # noqa: N818  # it is an answer, not a failure of ours
    """A value that cannot be taken. The text never repeats a value that could be secret.

    Attributes:
        next_step: what to write instead.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step


class Kind(msgspec.Struct, frozen=True):
    """One kind of value.

    Attributes:
        name: for the reference.
        read: parsed value to model value; raises :class:`Refused`.
    """

    name: str
    read: Callable[[object], object]


_NAMES: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def type_name(value: object) -> str:
    """What a value is, for a refusal."""
    return _NAMES.get(type(value), "another type")


def wrong_type(expected: str, value: object) -> Refused:
    """The refusal of a value of another type."""
    return Refused(f"expected {expected}, found {type_name(value)}")


def read_text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise wrong_type("a string", value)
    return value


def _read_name(value: object) -> str:
    text = read_text(value)
    if not text.strip():
        raise Refused("is empty")
    return text


def _read_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise wrong_type("true or false", value)
    return value


def _read_pcr(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type("an integer", value)
    if not 0 <= value < _PCRS:
        raise Refused(f"is not a register; there are 0 to {_PCRS - 1}")
    return value


def _read_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type("an integer", value)
    if value < 1:
        raise Refused("is less than 1")
    return value


def _read_seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type("a number of seconds", value)
    # T-CONF-6: infinity and NaN are TOML numbers, and would switch a time limit off. NaN compares false.
    if not 0 < value <= limits.CONFIG_MAX_SECONDS:
        raise Refused(f"is not between 0 and {limits.CONFIG_MAX_SECONDS:g} seconds")
    return float(value)


def _read_span(value: object) -> float:
    if not isinstance(value, bool) and value == 0:
        return 0.0
    return _read_seconds(value)


def read_texts(value: object) -> tuple[str, ...]:
    """An array of strings, bounded."""
    return tuple(read_text(item) for item in read_items(value))


def read_items(value: object) -> list[object]:
    """An array, bounded."""
    if not isinstance(value, list):
        raise wrong_type("an array", value)
    if len(value) > limits.CONFIG_MAX_ITEMS:
        raise Refused(f"has more than {limits.CONFIG_MAX_ITEMS} entries")
    return cast("list[object]", value)


def _read_names(value: object) -> tuple[str, ...]:
    texts = read_texts(value)
    if any(not text.strip() for text in texts):
        raise Refused("has an empty entry")
    return texts


def read_pem(value: object) -> str:
    """PEM certificates; an empty text is none."""
    text = read_text(value)
    if not text.strip():
        return ""
    try:
        # T-CONF-5: a key in a configuration file is readable by everybody who reads the file.
        if "PRIVATE KEY-----" in text:
            raise ValueError("holds a private key; only certificates belong here")
        pem.certificates(text)
    except ValueError as error:
        raise Refused(str(error), "put the PEM text of the broker's CA between triple quotes") from None
    return text


def read_url(value: object) -> str:
    """A broker's base URL without trailing slashes; empty is none."""
    text = read_text(value)
    wrong = urls.problem(text) if text else ""
    if wrong:
        raise Refused(wrong, "write it as https://<host>:<port>")
    return text.rstrip("/")


def _read_proxy(value: object) -> str | None:
    text = read_text(value)
    wrong = urls.proxy_problem(text) if text else ""
    if wrong:
        raise Refused(wrong, "write it as http://<host>:<port>")
    return text or None


def _read_pins(value: object) -> tuple[bytes, ...]:
    return tuple(_pin(text) for text in read_texts(value))


def _pin(text: str) -> bytes:
    next_step = (
        "openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der | "
        "openssl dgst -sha256 -binary | base64"
    )
    if not text.startswith(PIN_PREFIX):
        raise Refused(f"has an entry that does not start with {PIN_PREFIX!r}", next_step)
    try:
        digest = base64.b64decode(text.removeprefix(PIN_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise Refused("has an entry that is not standard base64", next_step) from None
    if len(digest) != 32:
        raise Refused(f"has an entry of {len(digest)} bytes; a SHA-256 digest has 32", next_step)
    return digest


def read_socket(value: object) -> str:
    """A Unix socket address."""
    text = read_text(value)
    wrong = urls.socket_problem(text)
    if wrong:
        raise Refused(wrong, "such as unix:///run/confidential-containers/cdh.sock")
    return text


def read_bind(value: object) -> str:
    """A literal ``IP:port``, IPv6 in brackets."""
    text = read_text(value)
    try:
        urls.bind_address(text)
    except ValueError:
        next_step = "write a literal address such as 127.0.0.1:8006 or [::1]:8006"
        raise Refused("is not an IP address and a port", next_step) from None
    return text


def _read_hosts(value: object) -> tuple[str, ...]:
    hosts = read_texts(value)
    if not all(_HOST_NAME.fullmatch(host) for host in hosts):
        raise Refused("has an entry that is not a host name", "names only, without scheme and port")
    return tuple(host.lower() for host in hosts)


def _member(value: object, members: type[_E]) -> _E:
    text = read_text(value)
    try:
        return members(text)
    except ValueError:
        known = ", ".join(str(member.value) for member in members)
        raise Refused(f"{shown(text)!r} does not exist", f"one of: {known}") from None


def read_features(value: object) -> Features:
    """Which REST routes exist."""
    return _member(value, Features)


def _read_algorithm(value: object) -> KeyAlgorithm:
    return _member(value, KeyAlgorithm)


def _choice(value: object, known: tuple[str, ...]) -> str:
    text = read_text(value)
    if text not in known:
        raise Refused(f"{shown(text)!r} does not exist", f"one of: {', '.join(known)}")
    return text


def read_filter(value: object) -> str:
    """The level in a ``RUST_LOG`` filter: the first plain word, or else the first level of a target.

    ``info,hyper=warn`` is ``info``; ``attestation_agent=debug`` is ``debug``.
    """
    words = [part.strip().lower() for part in read_text(value).split(",")]
    levels = [_level(word) for word in words if "=" not in word]
    levels += [_level(word.rpartition("=")[2]) for word in words if "=" in word]
    for level in levels:
        if level:
            return level
    raise Refused("holds no log level", f"one of: {', '.join(LEVELS)}")


def _level(word: str) -> str:
    word = "warn" if word == "warning" else word
    return word if word in LEVELS else ""


def _read_format(value: object) -> str:
    return _choice(value, FORMATS)


def _read_level(value: object) -> str:
    return _choice(value, LEVELS)


def read_path(value: object) -> str:
    """An absolute path without ``.`` and ``..``."""
    text = read_text(value)
    if not text.startswith("/") or not text.isprintable():
        raise Refused("is not an absolute path")
    if any(part in {".", ".."} for part in text.split("/")):
        raise Refused("has '.' or '..' in it")
    return text


def _read_paths(value: object) -> tuple[str, ...]:
    return tuple(read_path(text) for text in read_texts(value))


def _read_credentials(value: object) -> tuple[Credential, ...]:
    return tuple(_credential(number, item) for number, item in enumerate(read_items(value), start=1))


def _credential(number: int, item: object) -> Credential:
    if not isinstance(item, dict):
        raise wrong_type("an array of tables", item)
    missing = [name for name in ("path", "resource_uri") if not isinstance(item.get(name), str)]
    if missing:
        raise Refused(f"entry {number} has no {missing[0]}, or it is not a string")
    try:
        return read_credential(cast("str", item["path"]), cast("str", item["resource_uri"]))
    except Refused as error:
        raise Refused(f"entry {number} {error}", error.next_step) from None


def read_credential(path: str, uri: str) -> Credential:
    """One credential; its path is below the one folder upstream allows (cdh.md 3.6).

    Raises:
        Refused: the path leads elsewhere, or the URI has another scheme.
    """
    below = f"below {CREDENTIALS_FOLDER}/"
    parts = path.split("/")
    folder = CREDENTIALS_FOLDER.split("/")
    # T-CONF-7: by whole segments; upstream's prefix test lets .../cdh/kbsfoo through.
    inside = parts[: len(folder)] == folder and len(parts) > len(folder) and parts[-1] != ""
    if not inside or not path.isprintable() or any(part in {"", ".", ".."} for part in parts[1:]):
        raise Refused("has an illegal path to put a credential", f"a plain path {below}")
    if not _is_resource(uri):
        raise Refused("has a resource_uri that is none", "such as kbs:///default/aws/credential")
    return Credential(path, uri)


def _is_resource(text: str) -> bool:
    try:
        parse_uri(text)
    except AgentError:
        return False
    return True


def read_resource(value: object) -> str:
    """The URI of a resource, as it is written.

    Raises:
        Refused: it is none.
    """
    text = read_text(value)
    if not _is_resource(text):
        raise Refused("has a value that is not a resource URI")
    return text


def _read_table(value: object) -> object:
    if not isinstance(value, dict):
        raise wrong_type("a table", value)
    return value


TEXT: Final = Kind("string", read_text)
NAME: Final = Kind("string", _read_name)
FLAG: Final = Kind("boolean", _read_flag)
PCR: Final = Kind("integer, 0 to 23", _read_pcr)
COUNT: Final = Kind("integer", _read_count)
SECONDS: Final = Kind("number of seconds", _read_seconds)
SPAN: Final = Kind("number of seconds, or 0", _read_span)
TEXTS: Final = Kind("array of strings", read_texts)
NAMES: Final = Kind("array of strings", _read_names)
PEM: Final = Kind("string, PEM", read_pem)
URL: Final = Kind("string, http(s) URL", read_url)
PROXY: Final = Kind("string, http(s) URL", _read_proxy)
PINS: Final = Kind('array of "sha256/&lt;base64&gt;"', _read_pins)
SOCKET: Final = Kind("string, `unix://`", read_socket)
BIND: Final = Kind("string, IP:port", read_bind)
HOSTS: Final = Kind("array of strings", _read_hosts)
FEATURES: Final = Kind("`resource`, `attestation`, `all`", read_features)
KEY_ALGORITHM: Final = Kind(", ".join(f"`{member.value}`" for member in KeyAlgorithm), _read_algorithm)
FILTER: Final = Kind("string, log filter", read_filter)
LEVEL: Final = Kind(", ".join(f"`{level}`" for level in LEVELS), _read_level)
FORMAT: Final = Kind(", ".join(f"`{name}`" for name in FORMATS), _read_format)
PATH: Final = Kind("string, absolute path", read_path)
PATHS: Final = Kind("array of absolute paths", _read_paths)
CREDENTIALS: Final = Kind("array of tables: `path`, `resource_uri`", _read_credentials)
TABLE: Final = Kind("table", _read_table)
