"""What the environment and the kernel command line say (cdh.md 3.4, 3.5; kata_integration.md 1.4).

Both are unmeasured, so a value there that cannot be used is ignored with a finding: it must not keep a
guest from starting whose measured files are right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import keys, limits, urls
from agent.config.cmdline import unquoted
from agent.config.findings import shown_path
from agent.config.kinds import Refused, read_credential, read_filter, read_path, read_pem, read_socket
from agent.config.model import OFFLINE_STORES, Credential, Origin, Source
from agent.config.narrow import rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.config.findings import Report
    from agent.config.settings import Settings

CC_KBC: Final = "cc_kbc"
OFFLINE_KBC: Final = "offline_fs_kbc"
KBC_NAMES: Final = (CC_KBC, OFFLINE_KBC)


class KbcParams(msgspec.Struct, frozen=True):
    """A parsed ``<kbc name>::<URL>``; the URL has no trailing slashes and may be empty."""

    name: str
    url: str


def parse_kbc_params(text: str) -> KbcParams:
    """``<kbc name>::<URL>``, split at the first ``::``.

    Upstream splits at every ``::`` and so refuses IPv6 addresses; this takes all that upstream takes.
    For other names than ``cc_kbc`` the URL means nothing and is dropped (``offline_fs_kbc::null``).

    Raises:
        Refused: no ``::``, no name, or a URL that cannot work.
    """
    name, separator, url = text.partition("::")
    url = unquoted(url)
    if not separator or not name.strip():
        raise Refused("is not <kbc name>::<URL>", "such as cc_kbc::https://kbs.example:8080")
    if name != CC_KBC:
        return KbcParams(name, "")
    wrong = urls.problem(url) if url else ""
    if wrong:
        raise Refused(f"names a broker URL that {wrong}", "such as cc_kbc::https://kbs.example:8080")
    return KbcParams(name, url.rstrip("/"))


def refuse_wider(settings: Settings, target: str, origin: Origin, key: str, report: Report) -> None:
    """Tell that an unmeasured value is not taken, since it would widen a measured one."""
    file, measured = settings.where(target)
    place = f"{measured} of {shown_path(file)}"
    message = f"would widen {place}, which is measured"
    narrow = f"what it may say: {rule(target).words}"
    if origin.source is Source.COMMAND_LINE:
        report.refuse(origin.source.value, key, message, narrow)
    else:
        report.error(origin.source.value, key, f"{message}; it is ignored", narrow)


class Unmeasured(msgspec.Struct, frozen=True):
    """The environment and the kernel command line, applied to settings.

    Attributes:
        environ: environment variables.
        kernel: parsed kernel parameters.
        settings: written to.
        report: findings are added here.
    """

    environ: Mapping[str, str]
    kernel: Mapping[str, str]
    settings: Settings
    report: Report

    def attester(self, *, has_file: bool) -> None:
        """``AA_KBC_PARAMS``, then ``agent.aa_kbc_params``; a file wins outright over both."""
        if has_file or self.settings.has("attester.kbs.url"):
            return
        found = self._kbc_params(keys.AA_KBC_PARAMS) or self._kbc_params(keys.KERNEL_KBC)
        if found and found[0].url:
            params, origin = found
            self._take("attester.kbs.url", params.url, origin)

    def hub(self, *, has_file: bool) -> None:
        """``AA_KBC_PARAMS``; the kernel command line counts without a file only."""
        self._hub_broker(has_file=has_file)
        self._variable(keys.KBS_CERT, "hub.kbs.extra_roots", read_pem)
        self._variable(keys.AA_SOCKET, "hub.aa_socket", read_socket)
        self._offline_stores()
        self._credentials()
        self._ignored()

    def observe(self) -> None:
        """``RUST_LOG`` beats every file."""
        self._variable(keys.RUST_LOG, "observe.log_level", read_filter)

    def _hub_broker(self, *, has_file: bool) -> None:
        found = self._kbc_params(keys.AA_KBC_PARAMS)
        if found is None and not has_file and not self.settings.has("hub.kbs.url"):
            found = self._kbc_params(keys.KERNEL_KBC)
        if found is not None:
            params, origin = found
            wanted = {"hub.kbc": params.name, "hub.kbs.url": params.url}
            # Both or neither: half of it would be a broker that no place names.
            wider = [name for name, value in wanted.items() if not self.settings.fits(name, value)]
            for name, value in {name: wanted[name] for name in wider or wanted}.items():
                self._take(name, value, origin)

    def _kbc_params(self, name: str) -> tuple[KbcParams, Origin] | None:
        variable = name == keys.AA_KBC_PARAMS
        source = Source.ENVIRONMENT if variable else Source.KERNEL
        text = unquoted((self.environ if variable else self.kernel).get(name, "")).strip()
        if not text:
            return None
        try:
            return parse_kbc_params(text), Origin(source, name)
        except Refused as refused:
            self.report.error(source.value, name, f"{refused}; it is ignored", refused.next_step)
            return None

    def _variable(self, name: str, target: str, read: Callable[[object], object]) -> None:
        text = unquoted(self.environ.get(name, ""))
        if not text.strip():
            return
        try:
            value = read(text)
        except Refused as refused:
            self.report.error(Source.ENVIRONMENT.value, name, f"{refused}; it is ignored", refused.next_step)
            return
        self._take(target, value, Origin(Source.ENVIRONMENT, name))

    def _take(self, target: str, value: object, origin: Origin) -> None:
        if not self.settings.offer(target, value, origin, origin.where):
            refuse_wider(self.settings, target, origin, origin.where, self.report)

    def _offline_stores(self) -> None:
        listed = unquoted(self.environ.get(keys.OFFLINE_EXTRA, "")).split(",")
        extra = [path for text in listed if (path := unquoted(text).strip())]
        good = []
        for path in extra[: limits.CONFIG_MAX_ITEMS]:
            try:
                good.append(read_path(path))
            except Refused as refused:
                self.report.error(
                    Source.ENVIRONMENT.value, keys.OFFLINE_EXTRA, f"an entry {refused}; it is ignored"
                )
        if good:
            measured = self.settings.measured("hub.offline_stores")
            stores = tuple(good) if measured else (*OFFLINE_STORES, *good)
            origin = Origin(Source.ENVIRONMENT, keys.OFFLINE_EXTRA)
            self._add("hub.offline_stores", stores, origin)

    def _credentials(self) -> None:
        found: list[Credential] = []
        items = [
            item for item in map(unquoted, self.kernel.get(keys.KERNEL_RESOURCES, "").split(",")) if item
        ]
        for number, item in enumerate(items[: limits.CONFIG_MAX_ITEMS], start=1):
            # The last '::': a path has none, and a URI may hold an IPv6 address.
            uri, separator, path = item.rpartition("::")
            try:
                if not separator:
                    raise Refused("is not <URI>::<path>")
                found.append(read_credential(path, uri))
            except Refused as refused:
                self.report.warn(
                    Source.KERNEL.value,
                    keys.KERNEL_RESOURCES,
                    f"entry {number} {refused}; it is ignored",
                    refused.next_step,
                )
        if found:
            self._add("hub.credentials", tuple(found), Origin(Source.KERNEL, keys.KERNEL_RESOURCES))

    def _add(self, target: str, values: tuple[object, ...], origin: Origin) -> None:
        """Entries that are listed already add nothing, and take nothing away."""
        if self.settings.measured(target) is None or not self.settings.fits(target, values):
            self._take(target, values, origin)

    def _ignored(self) -> None:
        # T-CONF-9: a variable of the host's making must not switch signature checks off (SR-10, SR-11).
        skips = unquoted(self.environ.get(keys.SKIP_VERIFICATION, "")) == "true"
        given = self.settings.given.get("hub.sealed.skip_verification")
        if skips and not (given and given.value):
            self.report.warn(
                Source.ENVIRONMENT.value,
                keys.SKIP_VERIFICATION,
                "is ignored: the environment cannot switch verification off",
                "only skip_sealed_secret_verification = true in cdh.toml can",
            )
        if self.environ.get(keys.REGISTRY_CREDENTIALS):
            self.report.warn(
                Source.ENVIRONMENT.value,
                keys.REGISTRY_CREDENTIALS,
                "is not used: this release does not pull images",
            )
