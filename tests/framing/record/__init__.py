"""Records the bytes of real programs: ``python -m tests.framing.record FOLDER``. By hand, not in CI.

FOLDER is for what is fetched and built. Debian's packages that have to be there: apache2-bin, apache2-utils,
busybox-static, curl, haproxy, libwww-perl, lighttpd, nginx-light, squid, varnish, wget, wrk; besides Go,
Node, a JDK and Rust. The rest comes from the registries by name. What is missing is named and left out.
"""
