from __future__ import annotations

import pytest

from rootfs import debian
from rootfs.errors import BuildError

RECORDS = """\
Package: libssl3
Source: openssl
Version: 3.0.22-1~deb12u2
Architecture: amd64
Description: Secure Sockets Layer toolkit
 Package: nobody reads continuation lines
SHA256: aa

Package: libpcre2-8-0
Source: pcre2 (10.42-1)
Version: 10.42-1+b2
Architecture: amd64
SHA256: bb

N: a note of apt's
"""


def test_records_as_apt_prints_them() -> None:
    found = debian.parse_records(RECORDS)
    assert found["libssl3"] == debian.Package("libssl3", "3.0.22-1~deb12u2", "amd64", "openssl", "aa")
    assert found["libpcre2-8-0"].source == "pcre2"
    assert set(found) == {"libssl3", "libpcre2-8-0"}


def test_a_package_apt_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "run", lambda _: RECORDS)
    assert [one.name for one in debian.candidates(["libssl3"])] == ["libssl3"]
    with pytest.raises(BuildError, match=r"does not offer zlib1g\. Next: apt-get update"):
        debian.candidates(["libssl3", "zlib1g"])
