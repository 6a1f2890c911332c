"""Kinds of values in agent.toml's ``[cache]`` and ``[control]``."""

from __future__ import annotations

from typing import Final, cast

from agent.config import limits, patterns
from agent.config.findings import shown
from agent.config.kinds import Kind, Refused, read_items, read_socket, read_text, type_name, wrong_type
from agent.config.model import CacheRule


def _read_rules(value: object) -> tuple[CacheRule, ...]:
    rules = []
    for number, item in enumerate(read_items(value), start=1):
        try:
            rules.append(_rule(item))
        except Refused as error:
            raise Refused(f"entry {number} {error}", error.next_step) from None
    return tuple(rules)


def _rule(item: object) -> CacheRule:
    example = 'such as { pattern = "default/*/*", ttl = 300, max_stale = 600 }'
    if not isinstance(item, dict):
        raise Refused(f"is {type_name(item)}; expected a table", example)
    fields = cast("dict[str, object]", item)
    unknown = fields.keys() - {"pattern", "ttl", "max_stale"}
    if unknown:
        raise Refused(f"has {shown(min(unknown))!r}, which is none of pattern, ttl and max_stale", example)
    pattern, ttl = fields.get("pattern"), fields.get("ttl")
    if not isinstance(pattern, str) or ttl is None:
        raise Refused("has no pattern, or no ttl, or its pattern is not a string", example)
    try:
        patterns.parse(pattern)
    except ValueError as error:
        raise Refused(f"has a pattern that {error}", "such as default/*/*") from None
    rule = CacheRule(pattern, _kept(ttl, "ttl"), _kept(fields.get("max_stale", 0), "max_stale"))
    if rule.max_stale and not rule.ttl:
        raise Refused("has max_stale without a ttl, so nothing is kept", "give it a ttl above 0")
    return rule


def _kept(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"has a {name} that is not a number of seconds")
    # T-CONF-6: NaN compares false.
    if not 0 <= value <= limits.CACHE_MAX_TTL:
        raise Refused(f"has a {name} that is not between 0 and {limits.CACHE_MAX_TTL:g} seconds")
    return float(value)


def _read_pause(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type("a number of seconds", value)
    if not 0 <= value <= limits.CACHE_NEGATIVE_MAX:
        raise Refused(f"is not between 0 and {limits.CACHE_NEGATIVE_MAX:g} seconds")
    return float(value)


def _read_control(value: object) -> str:
    # T-CTRL-1: an abstract name has no mode, so anybody could connect.
    text = read_text(value)
    if text.startswith("unix://@"):
        raise Refused("is an abstract name, which nobody can be kept from", "name a path: unix:///...")
    return read_socket(text) if text else ""


RULES: Final = Kind("array of tables: `pattern`, `ttl`, `max_stale`", _read_rules)
PAUSE: Final = Kind("number of seconds, 0 to 60", _read_pause)
CONTROL: Final = Kind("string, `unix:///`, or empty", _read_control)
