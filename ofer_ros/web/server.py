"""The web side of view_node: a page, and a websocket over which each browser gets the newest packet of every kind.

It runs in a thread of its own. A browser that is slow misses packets; it never delays the others or the node. Who may
see the page, and what a browser may ask, is in docs/view.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web
from aiohttp.http import HttpProcessingError

PAGE = Path(__file__).with_name("page")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STOP_LIMIT = 5.0  # seconds
_MOST_CLIENTS = 16
_MESSAGE_BYTES = 1024  # that a browser may send at once; the page sends the id of a face
_ID_LENGTH = 64

# What is no HTTP is answered with 400. That somebody sends it is no error of this program, and may happen often.
_LOG = logging.getLogger(__name__)
_LOG.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class _Client:
    """One browser: the face it looks at, and what it has not been sent yet."""

    def __init__(self) -> None:
        self.watched = ""
        self.waiting: dict[str, bytes] = {}
        self.news = asyncio.Event()

    def put(self, kind: str, data: bytes) -> None:
        self.waiting[kind] = data
        self.news.set()


class ViewServer:
    """Serves on `host`:`port` (0: any free port) from `start` to `stop`; `url` is where.

    On an address that others can reach, the url holds a token, without which there is nothing to see.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._clients: set[_Client] = set()
        self._kept: dict[str, bytes] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="ofer-view", daemon=True)
        self._ready = threading.Event()
        self._problem: Exception | None = None
        self._token = "" if is_local(host) else secrets.token_urlsafe(16)
        self._ending: asyncio.Event | None = None
        self._cookie = ""
        self.url = ""

    def start(self) -> None:
        """Raises OSError, with the remedy, when the address cannot be had."""
        self._thread.start()
        self._ready.wait()
        if self._problem is not None:
            raise OSError(
                f"no page at {self._host}:{self._port} ({getattr(self._problem, 'strerror', '') or self._problem}): "
                "is another view running, or is this no address of this machine? Give others with -p port:=8081 or "
                "-p host:=127.0.0.1"
            )

    def stop(self) -> None:
        """Close every connection and end the thread; may be called again."""
        if self._ending is not None:
            self._call(self._ending.set)
            self._thread.join(_STOP_LIMIT)

    def watched(self) -> set[str]:
        """Ids of the faces that browsers look at ('': the first); empty while nobody looks."""
        return {client.watched for client in tuple(self._clients)}

    def send(self, kind: str, data: bytes, watched: str | None = None, keep: bool = False) -> None:
        """Give a packet to every browser, or to those that look at the face `watched`.

        keep: also to those that come later. A packet that was not sent yet is replaced by a newer one of its kind.
        """
        self._call(self._put, kind, data, watched, keep)

    def _call(self, function: Callable, *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: its thread may end at any moment
            self._loop.call_soon_threadsafe(function, *arguments)

    # In the server's thread from here on.

    def _put(self, kind: str, data: bytes, watched: str | None, keep: bool) -> None:
        if keep:
            self._kept[kind] = data
        for client in self._clients:
            if watched is None or client.watched == watched:
                client.put(kind, data)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            left = asyncio.all_tasks(self._loop)  # of connections that are open still
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.close()

    async def _serve(self) -> None:
        self._ending = asyncio.Event()
        application = web.Application()
        application.router.add_get("/stream", self._stream)
        application.router.add_get("/{name:[a-z_.]*}", self._page)
        runner = web.AppRunner(application, handle_signals=False, access_log=None, logger=_LOG)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port)
        try:
            await site.start()
        except (OSError, ValueError) as error:  # ValueError: what cannot be the name of a host
            self._problem = error
            await runner.cleanup()
            self._ready.set()
            return
        port = runner.addresses[0][1]
        self._cookie = f"ofer_view_{port}"
        anywhere = self._host in ("", "0.0.0.0", "::")
        host = socket.gethostname() if anywhere else f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{port}" + (f"/?token={self._token}" if self._token else "")
        self._ready.set()
        await self._ending.wait()
        for client in tuple(self._clients):
            client.news.set()
        await runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        file = PAGE / (request.match_info["name"] or "index.html")
        if not self._welcome(request) or file.suffix not in _TYPES or not file.is_file():
            raise web.HTTPNotFound
        headers = {"Cache-Control": "no-cache"}  # after an update the old page would not fit the new packets
        page = web.Response(text=file.read_text(), content_type=_TYPES[file.suffix], charset="utf-8", headers=headers)
        if self._token:  # the page's own requests then carry it
            page.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict")
        return page

    def _welcome(self, request: web.Request) -> bool:
        """Whether a request comes from this server's own page, of somebody who may see it.

        Any web site can open a websocket to this machine, or give its own name this machine's address, and would then
        see through the camera.
        """
        try:
            return self._may_see(request) and self._of_own_page(request)
        except ValueError:  # a Host or Origin that is no address, a token that is no text
            return False

    def _may_see(self, request: web.Request) -> bool:
        if not self._token:
            return is_local(urlsplit(f"//{request.host}").hostname or "")
        given = request.query.get("token") or request.cookies.get(self._cookie, "")
        return secrets.compare_digest(given.encode(), self._token.encode())

    @staticmethod
    def _of_own_page(request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == request.host

    async def _stream(self, request: web.Request) -> web.WebSocketResponse:
        if not self._welcome(request):
            raise web.HTTPForbidden
        if len(self._clients) >= _MOST_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_CLIENTS} browsers look already")
        stream = web.WebSocketResponse(heartbeat=10.0, compress=False, max_msg_size=_MESSAGE_BYTES)
        await stream.prepare(request)
        client = _Client()
        for kind, data in self._kept.items():
            client.put(kind, data)
        self._clients.add(client)
        sender = asyncio.ensure_future(self._feed(client, stream))
        try:
            async for message in stream:
                if message.type == WSMsgType.TEXT:
                    client.watched = _watched(message.data)
        finally:
            self._clients.discard(client)
            sender.cancel()
        return stream

    async def _feed(self, client: _Client, stream: web.WebSocketResponse) -> None:
        """Send what waits for a browser, until it leaves or the server ends."""
        while not self._ending.is_set() and not stream.closed:
            await client.news.wait()
            client.news.clear()
            while client.waiting:
                kind = next(iter(client.waiting))
                try:
                    await stream.send_bytes(client.waiting.pop(kind))
                except ConnectionError:  # it left in the middle of a packet
                    return
        await stream.close()


def _watched(text: str) -> str:
    """The face that a browser's message asks for; '' where it makes no sense."""
    try:
        watched = json.loads(text)["watch"]
    except (ValueError, KeyError, TypeError, RecursionError):  # the last of what is nested a thousand times
        return ""
    return watched[:_ID_LENGTH] if isinstance(watched, str) else ""


def is_local(host: str) -> bool:
    """Whether a host, by name or address, is this machine as only it reaches itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
