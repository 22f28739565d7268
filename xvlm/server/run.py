"""Runs the service with uvicorn until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from xvlm.common.errors import InputError
from xvlm.server.settings import ServerSettings

BACKLOG = 2048
"""Connections that wait to be accepted."""
KEEP_ALIVE_SECONDS = 60
"""Seconds of an idle connection; one that is closed too soon is closed while a client uses it again."""


class ImpatientProtocol(H11Protocol):
    """Closes a connection that does not send a request in time; uvicorn waits for ever."""

    seconds = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self.timer = self.loop.call_later(self.seconds, self._give_up)

    def _give_up(self) -> None:
        cycle: object = self.cycle  # of the request; uvicorn sets it later
        if cycle is None and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self.timer.cancel()
        super().connection_lost(exc)


def serve(app: FastAPI, settings: ServerSettings, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered are finished first.

    Args:
        started: called with the URL once the service listens.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    ImpatientProtocol.seconds = settings.timeout
    listening = _listen(settings)
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        loop="asyncio",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.timeout),
    )
    host, port = listening.getsockname()[:2]
    server = _Server(config, lambda: started(f"http://{f'[{host}]' if ':' in host else host}:{port}"))
    with listening:
        server.run(sockets=[listening])


def _listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens.  Raises InputError if the address or port cannot be had."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
        # Connections inherit it.  Without it the body of an answer, which follows its head, waits 40 ms for
        # the client to acknowledge the head; asyncio sets it only for sockets that name their protocol.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        where = f"port {settings.port} of {settings.host}"
        raise InputError(f"{where} cannot be used: {error.strerror or error}") from error


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()
