"""The resource policy: ordered rules instead of Rego."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """One rule. Patterns are shell globs; ``*`` also matches ``/``.

    Attributes:
        allow: the verdict.
        path: of the resource, ``default/key/*``.
        tee: primary TEE of the token, ``sample``.
        plugin: ``resource``, or another plugin.
    """

    allow: bool
    path: str = "*"
    tee: str = "*"
    plugin: str = "*"

    def matches(self, plugin: str, path: str, tee: str) -> bool:
        """Whether the rule speaks about this request."""
        return (
            fnmatchcase(plugin, self.plugin) and fnmatchcase(path, self.path) and fnmatchcase(tee, self.tee)
        )


class Policy:
    """Rules in order: of those that match, the last decides; when none does, the default.

    Args:
        trustee_default: deny sample evidence and every plugin but ``resource``, as Trustee does out of
            the box (kbs_protocol.md 8.4). Off: everything that attested is allowed.
    """

    def __init__(self, *, trustee_default: bool = False) -> None:
        self.trustee_default = trustee_default
        self._rules: list[Rule] = []

    @property
    def rules(self) -> tuple[Rule, ...]:
        """In the order they were added."""
        return tuple(self._rules)

    def allow(self, path: str = "*", *, tee: str = "*", plugin: str = "*") -> None:
        """Add a rule that allows."""
        self._rules.append(Rule(allow=True, path=path, tee=tee, plugin=plugin))

    def deny(self, path: str = "*", *, tee: str = "*", plugin: str = "*") -> None:
        """Add a rule that denies."""
        self._rules.append(Rule(allow=False, path=path, tee=tee, plugin=plugin))

    def clear(self) -> None:
        """Back to the default."""
        self._rules.clear()

    def permits(self, plugin: str, path: str, tee: str) -> bool:
        """The verdict for one request of an attested guest."""
        for rule in reversed(self._rules):
            if rule.matches(plugin, path, tee):
                return rule.allow
        return not self.trustee_default or (plugin == "resource" and tee != "sample")
