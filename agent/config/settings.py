"""Values on their way from many places into one configuration, each with its origin."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec.structs import replace

from agent.config.model import Config, KbsServer, Origin, Source
from agent.config.narrow import ANY, UNMEASURED, rule

if TYPE_CHECKING:
    from collections.abc import Mapping

_S = TypeVar("_S", bound=msgspec.Struct)


class Given(msgspec.Struct, frozen=True):
    """One value somebody gave.

    Attributes:
        value: as the model holds it.
        origin: the kind of place, and which.
        key: the key there; for variables and parameters, their name.
        within: the measured value that an unmeasured one took the place of, and stays within.
    """

    value: object
    origin: Origin
    key: str
    within: Given | None = None


class Settings(msgspec.Struct):
    """Given values by the dotted field they set; the last one given wins."""

    given: dict[str, Given] = msgspec.field(default_factory=dict)

    def put(self, name: str, value: object, origin: Origin, key: str) -> None:
        """Set a field."""
        self.given[name] = Given(value, origin, key)

    def measured(self, name: str) -> Given | None:
        """What a measured place says of a field; None when all are silent, or leave it empty."""
        given = self.given.get(name)
        if given is not None and given.origin.source in UNMEASURED:
            return given.within
        return None if given is None or given.value in ("", None) else given

    def fits(self, name: str, value: object) -> bool:
        """Whether an unmeasured value stays within what measured places say of its field."""
        measured = self.measured(name)
        return measured is None or rule(name).fits(measured.value, value)

    def offer(self, name: str, value: object, origin: Origin, key: str) -> bool:
        """Set a field from an unmeasured place; False when that would widen what measured places say."""
        # T-CONF-42: the host may have written it.
        if not self.fits(name, value):
            return False
        measured = self.measured(name)
        same = measured is not None and rule(name).fits(value, measured.value)
        if not same or rule(name) is ANY:
            self.given[name] = Given(value, origin, key, within=measured)
        return True

    def drop(self, name: str) -> None:
        """Forget a field, so that it keeps its default."""
        self.given.pop(name, None)

    def text(self, name: str) -> str:
        """A text field's given value; empty when there is none."""
        value = self.given[name].value if name in self.given else ""
        return value if isinstance(value, str) else ""

    def servers(self, name: str) -> tuple[KbsServer, ...]:
        """A field's given endpoints; none when there are none."""
        value = self.given[name].value if name in self.given else ()
        return tuple(one for one in value if isinstance(one, KbsServer)) if isinstance(value, tuple) else ()

    def has(self, name: str) -> bool:
        """Whether a field was given a value that is not empty."""
        return name in self.given and bool(self.given[name].value)

    def where(self, name: str) -> tuple[str, str]:
        """File (or place) and key of a given field, for findings."""
        if name not in self.given:
            return "", name
        given = self.given[name]
        if given.origin.source in {Source.ENVIRONMENT, Source.KERNEL, Source.COMMAND_LINE}:
            return given.origin.source.value, given.key
        return given.origin.where, given.key

    def build(self) -> Config:
        """The configuration of these values and the defaults."""
        config = Config()
        for name, given in self.given.items():
            config = _put(config, name.split("."), given.value)
        origins: Mapping[str, Origin] = {name: given.origin for name, given in self.given.items()}
        return replace(config, origins=MappingProxyType(origins))


def _put(target: _S, parts: list[str], value: object) -> _S:
    """A copy of a nested structure with one field changed."""
    head, *rest = parts
    inner = _put(getattr(target, head), rest, value) if rest else value
    return replace(target, **{head: inner})
