"""Headers that a proxy adds and a program that asks us directly does not.

Three kinds tell of a proxy: who its caller was, what its caller asked for, and its own name. Headers that
ordinary HTTP libraries and their instrumentation send on their own are none of these: ``traceparent``,
``baggage``, ``b3``, ``X-Request-Id``, ``X-Amzn-Trace-Id``, ``X-Cloud-Trace-Context``; nor are ``Proxy-*``,
which a client sends when it believes that we are a proxy.
"""

from __future__ import annotations

from typing import Final

_WORD: Final = "forwarded"
"""RFC 7239, ``X-Forwarded-*`` and what vendors made of it, such as ``Fly-Forwarded-Port``."""

_NAMES: Final = frozenset(
    {
        "via",  # RFC 9110 7.6.3
        "cdn-loop",  # RFC 8586
        "surrogate-capability",  # the Edge Architecture Specification's Via
        "client-cert",  # RFC 9440: the certificate of a caller whose TLS ended at the proxy
        "client-cert-chain",
        "x-host",  # the caller's Host, in proxies that put their own into Host
        "x-http-host-override",
        "x-rewrite-url",  # what the caller asked for: IIS
        "x-nginx-proxy",
        "x-bluecoat-via",
        "front-end-https",  # Microsoft's X-Forwarded-Proto
    }
)

_ENDINGS: Final = (
    "client-ip",  # Client-IP, X-Client-IP, True-Client-IP, Fastly-, Fly-, WL-Proxy-, X-Cluster-Client-IP
    "clientip",  # X-Azure-ClientIP, X-Sucuri-ClientIP
    "connecting-ip",  # Cloudflare, DigitalOcean, EdgeOne
    "connection-ip",  # Netlify
    "originating-ip",
    "real-ip",  # nginx; Ali-CDN-Real-IP
    "remote-addr",
    "remote-ip",
    "user-ip",  # X-ProxyUser-IP, X-AppEngine-User-IP
)

_BEGINNINGS: Final = (
    "akamai-",
    "cf-",  # Cloudflare
    "cloudfront-",
    "fastly-",
    "incap-",  # Imperva
    "l5d-",  # Linkerd
    "ssl-client-",
    "wl-proxy-",  # WebLogic's plug-in
    "x-akamai-",
    "x-amz-cf-",  # CloudFront
    "x-appengine-",
    "x-arr-",  # IIS Application Request Routing
    "x-azure-",  # Front Door
    "x-envoy-",
    "x-original-",  # URL, URI, Host, Method: IIS, nginx, Traefik
    "x-real-",
    "x-ssl-",
    "x-varnish",
    "x-vercel-",
)


def tells_of_proxy(name: str) -> bool:
    """Whether a header was added by something between us and who asks.

    Args:
        name: lower case. Underscores count as dashes: gateways that pass headers on as variables
            (RFC 3875 4.1.18) take them for the same.
    """
    # T-REST-32: a proxy that sets one of its own headers only is a proxy all the same.
    plain = name.replace("_", "-")
    return plain in _NAMES or _WORD in plain or plain.endswith(_ENDINGS) or plain.startswith(_BEGINNINGS)
