"""What is in the plain systemd root besides the agent's bundle, as data."""

from __future__ import annotations

from typing import Final

PACKAGES: Final = (
    "base-files", "ca-certificates", "libacl1", "libapparmor1", "libaudit1", "libblkid1", "libc6",
    "libcap-ng0", "libcap2", "libcrypt1", "libgcrypt20", "libgpg-error0", "libip4tc2", "libkmod2",
    "liblz4-1", "liblzma5", "libmount1", "libpam0g", "libpcre2-8-0", "libseccomp2", "libselinux1",
    "libssl3", "libsystemd-shared", "libsystemd0", "libzstd1", "mount", "systemd",
)  # fmt: skip
"""Debian 12's names."""

PROGRAMS: Final = (
    "usr/lib/systemd/systemd",
    "usr/lib/systemd/systemd-journald",
    "usr/lib/systemd/systemd-shutdown",
    "usr/bin/journalctl",
    "usr/bin/mount",
    "usr/bin/systemctl",
    "usr/bin/systemd-tmpfiles",
    "usr/bin/umount",
)

UNITS: Final = (
    "basic.target", "ctrl-alt-del.target", "exit.target", "final.target", "halt.target",
    "local-fs-pre.target", "local-fs.target", "multi-user.target", "network-online.target",
    "network-pre.target", "network.target", "nss-lookup.target", "paths.target", "poweroff.target",
    "reboot.target", "shutdown.target", "slices.target", "sockets.target", "swap.target",
    "sys-kernel-config.mount", "sysinit.target", "systemd-exit.service", "systemd-halt.service",
    "systemd-journald-dev-log.socket", "systemd-journald.service", "systemd-journald.socket",
    "systemd-poweroff.service", "systemd-reboot.service", "systemd-tmpfiles-setup.service",
    "time-set.target", "time-sync.target", "timers.target", "umount.target",
)  # fmt: skip
"""No getty, and no rescue, emergency or debug shell: a guest that cannot start is mute."""

ENABLED: Final = {
    "local-fs.target": ("tmp.mount", "var.mount"),
    "multi-user.target": ("coco-agent.service",),
    "sockets.target": ("systemd-journald-dev-log.socket", "systemd-journald.socket"),
    "sysinit.target": (
        "sys-kernel-config.mount",
        "systemd-journald.service",
        "systemd-tmpfiles-setup.service",
    ),
}
"""Units that start, by what wants them."""

LINKS: Final = {
    "etc/os-release": "../usr/lib/os-release",
    "usr/lib/systemd/system/default.target": "multi-user.target",
    "usr/sbin/init": "../lib/systemd/systemd",
}

FOLDERS: Final = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var")

_TMPFS: Final = """\
[Unit]
Description={what}
DefaultDependencies=no
Conflicts=umount.target
Before=local-fs.target umount.target

[Mount]
What=tmpfs
Where={where}
Type=tmpfs
Options=mode={mode},nosuid,nodev,size=10%
"""

FILES: Final = {
    # Names only: nobody logs in, so there are no passwords and no shells.
    "etc/passwd": (
        "root:x:0:0:root:/root:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n"
    ),
    "etc/group": "root:x:0:\ntty:x:5:\nsystemd-journal:x:101:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "coco-guest\n",
    # Empty, not missing: systemd makes one for each boot, and does not think of it as the first one.
    "etc/machine-id": "",
    "usr/lib/systemd/journald.conf.d/coco-guest.conf": (
        "# In memory, bounded, and never on the console: the host reads that.\n"
        "[Journal]\nStorage=volatile\nRuntimeMaxUse=8M\nForwardToConsole=no\nForwardToKMsg=no\nReadKMsg=no\n"
    ),
    "usr/lib/systemd/system.conf.d/coco-guest.conf": (
        "[Manager]\nShowStatus=no\nLogTarget=journal\nDefaultStandardOutput=journal\n"
        "CrashShell=no\nCtrlAltDelBurstAction=none\n"
    ),
    "usr/lib/systemd/system/tmp.mount": _TMPFS.format(what="Temporary files", where="/tmp", mode="1777"),  # noqa: S108 - in the guest
    "usr/lib/systemd/system/var.mount": _TMPFS.format(what="Variable files", where="/var", mode="0755"),
    "usr/lib/tmpfiles.d/coco-guest.conf": (
        "d /var/lib 0755\nd /var/log 0755\nd /var/tmp 1777\nL /var/run - - - - ../run\n"
    ),
}
