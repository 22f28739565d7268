"""What stands before the routes: limits of requests, the token, metrics and the log."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xvlm.server.errors import ApiError, error_response
from xvlm.server.settings import ServerSettings

_log = logging.getLogger("xvlm.server")
HELD_BODIES = 16
"""Times the largest request that all requests together may have in memory."""
OPEN_PATHS = ("/", "/healthz", "/readyz")
"""Paths, beside the page's own files, that need no token."""


class Metrics:
    """Counters for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "xvlm_requests_total",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "xvlm_request_seconds", "Seconds of a request, by route.", ["route"], registry=self.registry
        )


class Guard:
    """Middleware around the whole application.

    Args:
        token: secret that callers send as `Authorization: Bearer`; `None` asks for none.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, token: str | None, metrics: Metrics) -> None:
        self.app, self.settings, self.token, self.metrics = app, settings, token, metrics
        self.max_bytes = settings.max_body_mb * 2**20
        self.held_bytes = 0  # of the bodies of all requests that are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse what is not allowed, and answer the rest by the application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.monotonic(), [0]

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *_SAFE_HEADERS]}
            await send(message)

        parts: list[bytes] = []
        try:
            self._check(scope)
            body = await self._read_body(scope, receive, parts)
            await self.app(scope, _replay(body, receive), noting)
        except ApiError as error:
            response = error_response(error.status, error.message, error.headers)
            await response(scope, receive, noting)
        finally:
            self.held_bytes -= sum(map(len, parts))
            self._note(scope, status[0], time.monotonic() - begin)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        if self.settings.is_loopback and host not in (self.settings.host, "localhost", "127.0.0.1", "::1"):
            # Another site's name that leads here (DNS rebinding) would make its pages callers.
            raise ApiError(403, "the service answers to its own address alone")
        if (origin := headers.get("origin")) and urlsplit(origin).netloc != headers.get("host"):
            raise ApiError(403, "pages of other sites may not ask")
        path = scope["path"]
        if self.token is None or path in OPEN_PATHS or path.startswith("/static/"):
            return
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise ApiError(
                401, "a token is needed: Authorization: Bearer ...", {"WWW-Authenticate": "Bearer"}
            )

    async def _read_body(self, scope: Scope, receive: Receive, parts: list[bytes]) -> bytes:
        """Read the body into `parts` within limits of size and time, before the application sees it."""
        limit = ApiError(
            413, f"the request is larger than {self.settings.max_body_mb} MB", {"Connection": "close"}
        )
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        with suppress(ValueError):
            if int(length) > self.max_bytes:
                raise limit
        try:
            async with asyncio.timeout(self.settings.timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b"".join(parts)
                    parts.append(message.get("body", b""))
                    self.held_bytes += len(parts[-1])
                    if sum(map(len, parts)) > self.max_bytes:
                        raise limit
                    if self.held_bytes > HELD_BODIES * self.max_bytes:
                        raise ApiError(429, "too many large requests at once", {"Retry-After": "1"})
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            late = f"the request did not arrive within {self.settings.timeout:g} s"
            raise ApiError(408, late, {"Connection": "close"}) from error

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "method": scope["method"],
            "route": route,
            "status": status,
            "ms": round(1000 * seconds, 1),
        }
        if self.settings.log_texts:
            line["texts"] = scope.get("state", {}).get("texts")
        _log.info(json.dumps(line))


def _replay(body: bytes, receive: Receive) -> Callable[[], Any]:
    """Return a `receive` that gives the body, and then waits for the end of the connection."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


_SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'",
    ),
]
