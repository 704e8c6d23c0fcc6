"""Errors as replies, in OpenAI's form: on every route, and whoever raised them."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from comity.errors import (
    ComityError,
    EmbedderError,
    ModelError,
    ModelTimeout,
    NotFound,
    RuleError,
    StoreError,
    StoreUnreachable,
)
from comity.serving.upstream import UpstreamRefused
from comity.serving.wire import Refused

_LOG = logging.getLogger(__name__)
_CODES = {404: "not_found", 405: "method_not_allowed"}


def refusal(error: ComityError) -> Refused:
    """An error in OpenAI's form: never a 5xx for what a rule or the request decided."""
    match error:
        case Refused():
            return error
        case UpstreamRefused():
            status = error.status if 400 <= error.status < 600 else 502
            refused = Refused(status, str(error), headers=error.headers)
            refused.body = error.body
            return refused
        case NotFound():
            return Refused(404, str(error), code="not_found")
        case RuleError():
            return Refused(400, str(error))
        case ModelTimeout():
            return Refused(504, str(error), kind="upstream_error", code="timeout")
        case ModelError():
            return Refused(502, str(error), kind="upstream_error")
        case StoreError() | EmbedderError():
            said = f"no answer without its rules and its record: {outside(error)}"
            return Refused(503, said, kind="memory_error", headers={"retry-after": "5"})
        case _:
            return Refused(500, str(error), kind="server_error")


def outside(error: ComityError) -> str:
    """What anybody may read of an error: where a server stands is for the log alone."""
    if not isinstance(error, StoreUnreachable):
        return str(error)
    _LOG.warning("refused: %s", error)
    return error.outside


def told(error: ComityError) -> Response:
    """The reply to a request that failed so."""
    refused = refusal(error)
    return JSONResponse(refused.body, refused.status, headers=refused.headers)


def tell_errors(app: FastAPI) -> None:
    """Have every error of the application told in OpenAI's form."""
    app.add_exception_handler(ComityError, _comity)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unforeseen)


def _comity(_: Request, error: Exception) -> Response:
    assert isinstance(error, ComityError)
    return told(error)


def _invalid(_: Request, error: Exception) -> Response:
    """A field that FastAPI refuses, named as `body.rules`, `query.id`."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "body"
    said = str(first["msg"]).removeprefix("Value error, ")
    return told(Refused(422, f"{where}: {said}", param=where))


def _http(_: Request, error: Exception) -> Response:
    """What the framework refuses; what stopped it reading a body is told as what it was."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ComityError):
        return told(error.__cause__)
    if isinstance(error.__cause__, ClientDisconnect):
        return Response(status_code=499)
    code = _CODES.get(error.status_code)
    return told(
        Refused(error.status_code, str(error.detail), code=code, headers=error.headers or {})
    )


def _gone(_: Request, error: Exception) -> Response:
    """The client has gone: nobody reads this, but for the access log."""
    return Response(status_code=499)


def _unforeseen(_: Request, error: Exception) -> Response:
    """A mistake of ours: its text stays in the log, which the server writes."""
    said = "the gateway made a mistake, which its log tells: nothing was answered"
    return told(Refused(500, said, kind="server_error"))
