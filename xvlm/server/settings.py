"""Settings of the service: where it listens, who may ask, and how much."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from xvlm.common.errors import InputError
from xvlm.common.ranges import PositiveInt, Range, Seconds

Port = Annotated[int, Range(ge=0, le=65535)]


@dataclass(frozen=True)
class ServerSettings:
    """Where the service listens and what it accepts.

    Attributes:
        host: address to listen on; any but a loopback address needs a token.
        port: port to listen on; 0 takes a free one.
        max_body_mb: largest request in megabytes.
        max_texts: largest number of texts in a request.
        max_characters: longest text.
        max_queue: requests that wait for the model; further ones are answered by 429.
        max_batch: requests that the model answers at a time.
        timeout: seconds within which a request is answered, or refused.
        log_texts: whether the log holds the texts of requests.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    max_body_mb: PositiveInt = 32
    max_texts: PositiveInt = 64
    max_characters: PositiveInt = 2000
    max_queue: PositiveInt = 256
    max_batch: PositiveInt = 32
    timeout: Seconds = 30.0
    log_texts: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def check_token(settings: ServerSettings, token: str | None) -> None:
    """Raise InputError if the service would be open to others without a token, or the token is short."""
    if token is None and not settings.is_loopback:
        raise InputError(
            f"--host {settings.host} lets other machines ask; set a token in the environment as XVLM_TOKEN"
        )
    if token is not None and len(token) < 16:
        raise InputError("XVLM_TOKEN is too short to be secret; it must have at least 16 characters")
