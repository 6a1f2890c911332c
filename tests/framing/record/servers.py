"""How servers are started. ``{port}``, ``{folder}`` and ``{conf}`` (the configuration) are filled in.

``{behind}``, ``{silent}`` and ``{nobody}`` are ports where a server answers, only listens, and is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

BEHIND: Final = 18007
SILENT: Final = 18008


@dataclass(frozen=True)
class Server:
    """One server."""

    name: str
    command: tuple[str, ...]
    configuration: str = ""


@dataclass(frozen=True)
class Debian:
    """One of Debian's, with the command that says its version."""

    name: str
    version: str
    command: tuple[str, ...]
    configuration: str = ""


_ASGI: Final = """
import sys
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    async def start(status, *headers):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    async def body(data, more=False):
        await send({"type": "http.response.body", "body": data, "more_body": more})
    match scope["path"]:
        case "/text":
            await start(200, (b"content-length", b"6"))
            await body(b"hello\\n")
        case "/none":
            await start(204)
            await body(b"")
        case "/stream":
            await start(200)
            for _ in range(3):
                await body(b"part\\r\\n\\r\\n", True)
            await body(b"")
        case "/echo":
            data, more = b"", True
            while more:
                piece = await receive()
                data, more = data + piece["body"], piece.get("more_body", False)
            await start(200, (b"content-length", b"%d" % len(data)))
            await body(data)
        case _:
            await start(404, (b"content-length", b"0"))
            await body(b"")
"""

_WSGI: Final = """
import sys
def app(environ, start):
    path = environ["PATH_INFO"]
    if path == "/none":
        start("204 No Content", [])
        return []
    if path == "/stream":
        start("200 OK", [])
        return (b"part\\r\\n\\r\\n" for _ in range(3))
    if path not in {"/text", "/echo"}:
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"no"]
    length = int(environ.get("CONTENT_LENGTH") or 0)
    data = environ["wsgi.input"].read(length) if path == "/echo" else b"hello"
    start("200 OK", [("Content-Length", str(len(data)))])
    return [data]
"""

PYTHON: Final = {
    "http.server": "from http.server import SimpleHTTPRequestHandler, test\nimport sys, functools\n"
    "handler = functools.partial(SimpleHTTPRequestHandler, directory='www')\n"
    "test(handler, port=int(sys.argv[1]), bind='127.0.0.1')",
    "wsgiref": f"{_WSGI}\nfrom wsgiref.simple_server import make_server\n"
    "make_server('127.0.0.1', int(sys.argv[1]), app).serve_forever()",
    "h11": f"{_ASGI}\nimport uvicorn\nuvicorn.run(app, port=int(sys.argv[1]), http='h11')",
    "uvicorn": f"{_ASGI}\nimport uvicorn\nuvicorn.run(app, port=int(sys.argv[1]), http='httptools')",
    "hypercorn": f"{_ASGI}\nimport asyncio, hypercorn.asyncio, hypercorn.config\n"
    "c = hypercorn.config.Config()\n"
    "c.bind = ['127.0.0.1:' + sys.argv[1]]\nasyncio.run(hypercorn.asyncio.serve(app, c))",
    "gunicorn": f"{_WSGI}\nfrom gunicorn.app.base import BaseApplication\nclass A(BaseApplication):\n"
    "    def load_config(self): self.cfg.set('bind', '127.0.0.1:' + sys.argv[1])\n"
    "    def load(self): return app\nA().run()",
    "waitress": f"{_WSGI}\nimport waitress\nwaitress.serve(app, host='127.0.0.1', port=int(sys.argv[1]))",
    "werkzeug": f"{_WSGI}\nimport werkzeug\nwerkzeug.run_simple('127.0.0.1', int(sys.argv[1]), app)",
    "cheroot": f"{_WSGI}\nimport cheroot.wsgi\n"
    "cheroot.wsgi.Server(('127.0.0.1', int(sys.argv[1])), app, server_name='localhost').start()",
    "tornado": f"{_WSGI}\nimport asyncio, tornado.httpserver, tornado.wsgi\nasync def main():\n"
    "    s = tornado.httpserver.HTTPServer(tornado.wsgi.WSGIContainer(app))\n"
    "    s.listen(int(sys.argv[1]), '127.0.0.1')\n    await asyncio.Event().wait()\nasyncio.run(main())",
    "aiohttp": """
import sys
from aiohttp import web
async def stream(request):
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(3):
        await answer.write(b"part\\r\\n\\r\\n")
    return answer
async def text(request): return web.Response(text="hello")
async def none(request): return web.Response(status=204)
async def echo(request): return web.Response(body=await request.read())
async def problem(request): return web.json_response({"type": "x"}, status=401)
app = web.Application()
app.add_routes([web.get("/text", text), web.get("/none", none), web.get("/stream", stream)])
app.add_routes([web.post("/echo", echo), web.get("/problem", problem)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
""",
}

_NGINX: Final = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;
events {}
http {
  access_log off; root {folder}/www; gzip on; gzip_min_length 1; default_type text/plain;
  gzip_types text/plain; client_header_timeout 1s; proxy_read_timeout 1s;
  server {
    listen 127.0.0.1:{port}; server_name localhost;
    location = /none { return 204; }
    location = /problem { return 401 "{}"; }
    location = /echo { proxy_pass http://127.0.0.1:{behind}; }
    location = /behind { proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1; }
    location = /nobody { proxy_pass http://127.0.0.1:{nobody}; }
    location = /late { proxy_pass http://127.0.0.1:{silent}; }
  }
}
"""

_HAPROXY: Final = """
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 1s
  timeout http-request 1s
frontend front
  bind 127.0.0.1:{port}
  http-request deny if { path /problem }
  http-request redirect location /text if { path /folder }
  http-request return status 200 content-type text/plain string hello if { path /none }
  use_backend nobody if { path /nobody }
  use_backend late if { path /late }
  default_backend behind
backend behind
  option httpchk GET /health
  server one 127.0.0.1:{behind} check inter 500
backend late
  server one 127.0.0.1:{silent}
backend nobody
  server one 127.0.0.1:{nobody}
"""

_LIGHTTPD: Final = """
server.port = {port}
server.bind = "127.0.0.1"
server.document-root = "{folder}/www"
server.modules = ( "mod_proxy" )
$HTTP["url"] == "/behind" { proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {behind} )) ) }
$HTTP["url"] == "/echo" { proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {behind} )) ) }
$HTTP["url"] == "/nobody" { proxy.server = ( "" => (( "host" => "127.0.0.1", "port" => {nobody} )) ) }
"""

_APACHE: Final = """
ServerRoot {folder}
PidFile {folder}/apache.pid
Listen 127.0.0.1:{port}
ServerName localhost
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule deflate_module /usr/lib/apache2/modules/mod_deflate.so
LoadModule filter_module /usr/lib/apache2/modules/mod_filter.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
LoadModule reqtimeout_module /usr/lib/apache2/modules/mod_reqtimeout.so
DocumentRoot {folder}/www
ErrorLog {folder}/log
SetOutputFilter DEFLATE
ProxyTimeout 1
RequestReadTimeout header=1
ProxyPass /behind http://127.0.0.1:{behind}/behind
ProxyPass /echo http://127.0.0.1:{behind}/echo
ProxyPass /nobody http://127.0.0.1:{nobody}/
ProxyPass /late http://127.0.0.1:{silent}/
"""

_VARNISH: Final = """
vcl 4.1;
backend behind { .host = "127.0.0.1"; .port = "{behind}"; .probe = { .url = "/health"; } }
backend nobody { .host = "127.0.0.1"; .port = "{nobody}"; }
backend late { .host = "127.0.0.1"; .port = "{silent}"; .first_byte_timeout = 1s; }
sub vcl_recv {
  if (req.url == "/problem") { return (synth(403)); }
  if (req.url == "/nobody") { set req.backend_hint = nobody; }
  if (req.url == "/late") { set req.backend_hint = late; }
  return (pass);
}
"""

_SQUID: Final = """
http_port 127.0.0.1:{port} accel defaultsite=localhost no-vhost
visible_hostname localhost
acl nobody urlpath_regex ^/nobody
acl late urlpath_regex ^/late
cache_peer 127.0.0.1 parent {behind} 0 no-query originserver name=behind
cache_peer 127.0.0.1 parent {nobody} 0 no-query originserver name=nobody
cache_peer 127.0.0.1 parent {silent} 0 no-query originserver name=late
cache_peer_access nobody allow nobody
cache_peer_access nobody deny all
cache_peer_access late allow late
cache_peer_access late deny all
cache_peer_access behind deny nobody
cache_peer_access behind deny late
cache_peer_access behind allow all
acl problem urlpath_regex ^/problem
http_access deny problem
http_access allow all
never_direct allow all
read_timeout 1 second
request_start_timeout 1 second
pid_filename {folder}/squid.pid
cache_log {folder}/log
access_log none
cache deny all
coredump_dir {folder}
"""

DEBIAN: Final = (
    Debian("nginx", "nginx -v", ("nginx", "-c", "{conf}", "-p", "{folder}"), _NGINX),
    Debian("haproxy", "haproxy -v", ("haproxy", "-f", "{conf}"), _HAPROXY),
    Debian("lighttpd", "lighttpd -v", ("lighttpd", "-D", "-f", "{conf}"), _LIGHTTPD),
    Debian("apache", "apache2 -v", ("apache2", "-D", "FOREGROUND", "-f", "{conf}"), _APACHE),
    Debian("busybox httpd", "busybox", ("busybox", "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "www")),
    Debian(
        "varnish",
        "varnishd -V",
        ("varnishd", "-F", "-j", "none", "-n", "{folder}/varnish", "-a", "127.0.0.1:{port}", "-f", "{conf}"),
        _VARNISH,
    ),
    Debian("squid", "squid -v", ("squid", "-N", "-f", "{conf}"), _SQUID),
)
