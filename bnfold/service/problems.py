"""Errors as RFC 9457 problem details."""

from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"


class ProblemDetails(BaseModel):
    """A problem by RFC 9457: `title` names the kind, `detail` says it in a sentence."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is an error. `detail` is a sentence for a person."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def __reduce__(self) -> "tuple[type[Problem], tuple[int, str, dict[str, str] | None]]":
        return type(self), (self.status, self.detail, self.headers)


def answer(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response of a problem."""
    body = ProblemDetails(title=HTTPStatus(status).phrase, status=status, detail=detail).model_dump()
    return JSONResponse(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


async def of_problem(_request: Request, problem: Exception) -> JSONResponse:
    """A `Problem`."""
    assert isinstance(problem, Problem)
    return answer(problem.status, problem.detail, problem.headers)


async def of_http(_request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that the framework itself refuses, as of an unknown path."""
    assert isinstance(error, HTTPException)
    return answer(error.status_code, str(error.detail), dict(error.headers or {}))


async def of_validation(_request: Request, error: Exception) -> JSONResponse:
    """A request whose form is wrong."""
    assert isinstance(error, RequestValidationError)
    faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
    return answer(422, faults)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The entry of each error status in the description of a route."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": ProblemDetails.model_json_schema()}},
        }
        for status in statuses
    }
