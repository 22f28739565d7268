"""Errors of the service: `{"error": {"type", "message", "code"}}`, whatever went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from xvlm.common.errors import DamagedIndexError, MissingHead, XVLMError, printable

_log = logging.getLogger(__name__)
_TYPES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_request",
    429: "overloaded",
    501: "not_supported",
    503: "unavailable",
    504: "timeout",
}


class ApiError(Exception):
    """A request that is answered by an error.

    Attributes:
        status: HTTP status.
        message: one sentence for the caller.
        headers: further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the answer with an error."""
    kind = _TYPES.get(status, "error" if status < 500 else "internal_error")
    content = {"error": {"type": kind, "message": printable(message), "code": status}}
    return JSONResponse(content, status, headers=dict(headers or {}))


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception of the routes in the form of this service."""

    @app.exception_handler(ApiError)
    async def _api_error(request: Request, error: ApiError) -> JSONResponse:
        return error_response(error.status, error.message, error.headers)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return error_response(422, f"{place}: {first['msg']}")

    @app.exception_handler(MissingHead)
    async def _missing_head(request: Request, error: MissingHead) -> JSONResponse:
        return error_response(501, str(error))

    @app.exception_handler(XVLMError)
    async def _expected(request: Request, error: XVLMError) -> JSONResponse:
        return error_response(400, str(error))

    @app.exception_handler(DamagedIndexError)
    async def _damaged(request: Request, error: DamagedIndexError) -> JSONResponse:
        _log.error("%s", error)
        return error_response(503, "the index is damaged; the log of the service has the details")

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        _log.error("unexpected error", exc_info=error)
        return error_response(500, "this is a fault of the service; its log has the details")
