"""The HTTP interface: files and models in, jobs, their reports and results out."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bnfold import __version__
from bnfold.errors import UsageError
from bnfold.job import COMMANDS, Job
from bnfold.service import isolation, metrics, problems
from bnfold.service.arguments import REPORTS, canonical
from bnfold.service.bodies import (
    FileAnswer,
    JobAnswer,
    JobList,
    JobRequest,
    ModelAnswer,
    ModelRequest,
    of_job,
)
from bnfold.service.names import checked_hash, checked_name
from bnfold.service.problems import Problem, documented
from bnfold.service.receiving import BLOCK, MOST_WAITING, WritingBehind, blocks
from bnfold.service.runner import Runner
from bnfold.service.settings import Settings
from bnfold.service.store import Full, Mismatch, State, Store, Unknown

_LONGEST_WAIT = 60.0
_LOOK_EVERY = 0.2
_MEDIA = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "xml": "application/xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# A report is one file that carries its style within itself, and holds no script.
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; sandbox"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# What is given to anybody, where a token is asked for.
_FREE = frozenset({"/healthz", "/readyz", "/static/style.css", "/static/page.js", "/sign-in"})
_LARGEST_JSON = 1 << 20


class Service:
    """The parts of the service that the routes share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.data)
        self.runner = Runner(self.store, settings)
        self.stopping = asyncio.Event()
        self.room = asyncio.Semaphore(MOST_WAITING)

    def files_of(self, key: str, state: State) -> list[str]:
        """The names of what a job published, as paths from the model's folder, the model first."""
        folder = self.store.folder_of(key) / "result"
        if state is not State.SUCCEEDED or not folder.is_dir():
            return []
        model = self.name_of(key)
        names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        return sorted(names, key=lambda name: (name != model, name))

    def name_of(self, key: str) -> str:
        """The name of the model that a job published."""
        return Path(self.store.model(self.store.job(key).contents["model"]).model).name

    def answer(self, key: str) -> JobAnswer:
        """A job as JSON. Raises Unknown."""
        job = self.store.job(key)
        return of_job(job, self.files_of(key, job.state))


def create_app(settings: Settings) -> FastAPI:
    """The application; its workers run while it does."""
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.runner.start)
        try:
            yield
        finally:
            service.stopping.set()
            await run_in_threadpool(service.runner.stop)
            service.store.close()

    app = FastAPI(
        title="bnfold",
        version=__version__,
        summary="Folds BatchNormalization into ONNX models, and proves the results equivalent.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.add_exception_handler(Problem, problems.of_problem)
    app.add_exception_handler(HTTPException, problems.of_http)
    app.add_exception_handler(RequestValidationError, problems.of_validation)
    app.add_middleware(_Guard, settings=settings)
    app.include_router(_files(service))
    app.include_router(_jobs(service))
    app.include_router(_health(service))
    from bnfold.service.pages import routes

    app.include_router(routes(service))
    return app


class _Guard:
    """Lets in who may, bounds what is read whole, and adds the headers of every answer.

    It passes bodies on as they come: starlette's own base class for this copies each block through a queue.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await (self._refusal(Request(scope)) or self._app)(scope, receive, answer)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that is not let in; the others know who sent them, as `state.who`."""
        path = request.url.path
        given = request.headers.get("authorization", "")
        token = given.removeprefix("Bearer ") if given.startswith("Bearer ") else request.cookies.get("bnfold_token")
        who = self._settings.who(token)
        length = request.headers.get("content-length", "")
        if who is None and path not in _FREE:
            if "text/html" in request.headers.get("accept", "") and request.method == "GET":
                return Response(status_code=303, headers={"Location": "/sign-in"})
            detail = "a token is needed: Authorization: Bearer TOKEN"
            return problems.answer(401, detail, {"WWW-Authenticate": "Bearer"})
        if _is_foreign(request):
            return problems.answer(403, "the request comes from a page of another site")
        if length and not length.isdigit():
            return problems.answer(400, "Content-Length is no number")
        if not _is_streamed(path):
            if length.isdigit() and int(length) > _LARGEST_JSON:
                return problems.answer(413, f"this takes at most {_LARGEST_JSON:,} bytes")
            if not length and "transfer-encoding" in request.headers:
                return problems.answer(411, "say how long the body is, with Content-Length")
        request.state.who = who or ""
        return None


def _is_streamed(path: str) -> bool:
    return path == "/v1/files" or re.fullmatch(r"/v1/models/[^/]+/files/.+", path) is not None


def _is_foreign(request: Request) -> bool:
    """Whether a browser sends something that changes state for another site's page."""
    if request.method in {"GET", "HEAD", "OPTIONS"}:
        return False
    site = request.headers.get("sec-fetch-site")
    return site is not None and site not in {"same-origin", "none"}


# ---------------------------------------------------------------------- files and models


def _files(service: Service) -> APIRouter:  # noqa: C901 - a list of routes
    router = APIRouter(prefix="/v1", tags=["models"])
    store, settings = service.store, service.settings
    errors = documented(400, 401, 403, 411, 413, 422, 507)

    async def received(request: Request, expected: str | None) -> FileAnswer:
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdigit() else 0
        if announced > settings.max_upload:
            raise Problem(413, f"a file has at most {settings.max_upload:,} bytes here")
        if shutil.disk_usage(store.root).free - announced < settings.min_free:
            raise Problem(507, "the disk of the service is full")
        incoming = await run_in_threadpool(store.incoming)
        behind = WritingBehind(incoming, service.room)
        size = 0
        try:
            async for block in blocks(request.stream()):
                size += sum(map(len, block))
                if size > settings.max_upload:
                    raise Problem(413, f"a file has at most {settings.max_upload:,} bytes here")
                await behind.write(block)
                if not announced and shutil.disk_usage(store.root).free < settings.min_free:
                    raise Problem(507, "the disk of the service is full")
            await behind.finish()
            sha256 = await run_in_threadpool(incoming.finish, expected)
        except Mismatch as error:
            raise Problem(422, str(error)) from error
        except ClientDisconnect as error:
            raise Problem(400, "the body ended before all of it was sent") from error
        except OSError as error:
            raise Problem(507, f"the file could not be stored: {error.strerror or error}") from error
        finally:
            await behind.finish(wanted=False)
            await run_in_threadpool(incoming.discard)
        return FileAnswer(sha256=sha256, size=size)

    body = {
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    }

    @router.put(
        "/models/{sha256}/files/{name:path}",
        status_code=201,
        responses={200: {"model": FileAnswer, "description": "It was here already"}, **errors},
        openapi_extra=body,
    )
    async def put_file(sha256: str, name: str, request: Request, response: Response) -> FileAnswer:
        """Send one file of a model, whose content has this SHA-256."""
        _checked(checked_hash, sha256)
        _checked(checked_name, name)
        size = await run_in_threadpool(store.size_of, sha256)
        if size is not None:
            response.status_code = 200
            return FileAnswer(sha256=sha256, size=size)
        return await received(request, sha256)

    @router.head("/models/{sha256}/files/{name:path}", responses=documented(400, 401, 403, 404, 422))
    async def head_file(sha256: str, name: str) -> Response:
        """Whether a content is here already: 200, else 404."""
        _checked(checked_hash, sha256)
        _checked(checked_name, name)
        size = await run_in_threadpool(store.size_of, sha256)
        if size is None:
            raise Problem(404, "this content is not here")
        return Response(headers={"Content-Length": "0", "X-Content-Size": str(size)})

    @router.head("/files", responses=documented(400, 401, 403, 404, 422))
    async def head_files(size: Annotated[int, Query(ge=0, le=1 << 62)]) -> Response:
        """Whether a content of this many bytes is here: 200, else 404, and a client need not know its hash first."""
        if not await run_in_threadpool(store.has_size, size):
            raise Problem(404, "no content of this size is here")
        return Response(headers={"Content-Length": "0"})

    @router.post("/files", status_code=201, responses=errors, openapi_extra=body)
    async def post_file(request: Request) -> FileAnswer:
        """Send one file whose hash is not known; the answer tells it."""
        return await received(request, None)

    @router.post(
        "/models",
        status_code=201,
        responses={
            200: {"model": ModelAnswer, "description": "It was known already"},
            **documented(400, 401, 403, 404, 411, 413, 422, 507),
        },
    )
    async def post_model(body: ModelRequest, response: Response) -> ModelAnswer:
        """Make a model of files that were sent."""
        try:
            model, new = await run_in_threadpool(store.add_model, body.model, body.files)
        except UsageError as error:
            raise Problem(422, str(error)) from error
        except Unknown as error:
            raise Problem(404, str(error)) from error
        except OSError as error:
            raise Problem(507, f"the model could not be stored: {error.strerror or error}") from error
        if not new:
            response.status_code = 200
        return ModelAnswer(id=model.id, model=model.model, files=dict(model.files))

    return router


# ---------------------------------------------------------------------- jobs


def _jobs(service: Service) -> APIRouter:  # noqa: C901 - a list of routes
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
    store, settings = service.store, service.settings
    Key = Annotated[str, Depends(_key)]  # noqa: N806 - a type

    @router.post(
        "",
        status_code=201,
        responses={
            200: {"model": JobAnswer, "description": "The same job was known already"},
            **documented(400, 401, 403, 404, 411, 413, 422, 429),
        },
    )
    async def post_job(body: JobRequest, request: Request, response: Response) -> JobAnswer:
        """Queue a job. The same command on the same content with the same options and versions is the same job."""
        given = {"model": body.model, "reference": body.reference, "candidate": body.candidate, "data": body.data}
        contents = {role: content for role, content in given.items() if content is not None}
        try:
            job = Job(body.command, contents, canonical(body.command, body.options))
            title = await run_in_threadpool(_title, store, job)
            who = request.state.who
            stored, new = await run_in_threadpool(
                lambda: store.submit(job, owner=who, title=title, most=settings.max_queued)
            )
        except UsageError as error:
            raise Problem(422, str(error)) from error
        except Unknown as error:
            raise Problem(404, str(error)) from error
        except Full as error:
            raise Problem(429, str(error), {"Retry-After": "10"}) from error
        if new:
            service.runner.notify()
        else:
            response.status_code = 200
        response.headers["Location"] = f"/v1/jobs/{stored.id}"
        return await run_in_threadpool(service.answer, stored.id)

    @router.get("", responses=documented(400, 401, 403, 422))
    async def get_jobs(
        state: State | None = None,
        search: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
    ) -> JobList:
        """Jobs, the newest first."""
        asked = None if state is None else state.value
        found = await run_in_threadpool(lambda: store.jobs(state=asked, search=search, limit=limit, offset=offset))
        return JobList(jobs=[of_job(job, service.files_of(job.id, job.state)) for job in found])

    @router.get("/{key}", responses=documented(400, 401, 403, 404, 422))
    async def get_job(key: Key, wait: Annotated[float, Query(ge=0, le=_LONGEST_WAIT)] = 0.0) -> JobAnswer:
        """A job as it stands; with `wait`, as it stands when it has ended or after that many seconds."""
        job = await _answer(service, key)
        deadline = asyncio.get_running_loop().time() + wait
        while not job.state.final and not service.stopping.is_set():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, _LOOK_EVERY))
            job = await _answer(service, key)
        return job

    @router.get(
        "/{key}/events",
        response_class=StreamingResponse,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **documented(400, 401, 403, 404, 422),
        },
    )
    async def get_events(key: Key) -> StreamingResponse:
        """Server-sent events: `job` with the job's JSON whenever it changes, until it has ended."""
        await _answer(service, key)
        return StreamingResponse(_events(service, key), media_type="text/event-stream")

    @router.get(
        "/{key}/report.{form}",
        response_class=FileResponse,
        responses={
            200: {"content": {kind.partition(";")[0]: {} for kind in _MEDIA.values()}},
            **documented(400, 401, 403, 404, 422),
        },
    )
    async def get_report(key: Key, form: str) -> FileResponse:
        """The report of a job that has ended: json, html, md, or xml for JUnit."""
        job = await _answer(service, key)
        path = store.folder_of(key) / REPORTS.get(form, "none")
        if (
            form not in REPORTS
            or job.state not in {State.SUCCEEDED, State.REJECTED, State.FAILED}
            or not path.is_file()
        ):
            raise Problem(404, f"this job has no report.{form[:20]}")
        headers = {"Content-Security-Policy": _REPORT_POLICY} if form == "html" else {}
        return FileResponse(path, media_type=_MEDIA[form], headers=headers)

    binary: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    }

    @router.get(
        "/{key}/model",
        response_class=FileResponse,
        responses={**binary, 206: binary[200], **documented(400, 401, 403, 404, 416, 422)},
    )
    async def get_model(key: Key) -> FileResponse:
        """The model that a job published; ranges are served."""
        job = await _answer(service, key)
        files = service.files_of(key, job.state)
        if not files:
            raise Problem(404, "this job has published no model")
        return _download(store.folder_of(key) / "result" / files[0])

    @router.get(
        "/{key}/files/{name:path}",
        response_class=FileResponse,
        responses={**binary, 206: binary[200], **documented(400, 401, 403, 404, 416, 422)},
    )
    async def get_file(key: Key, name: str) -> FileResponse:
        """One file of what a job published: the model or its external data."""
        job = await _answer(service, key)
        if name not in service.files_of(key, job.state):
            raise Problem(404, "this job has published no such file")
        return _download(store.folder_of(key) / "result" / name)

    @router.delete("/{key}", responses=documented(400, 401, 403, 404, 422))
    async def delete_job(key: Key) -> JobAnswer:
        """Cancel a job that waits or runs; one that has ended stays as it is."""
        await _answer(service, key)
        await run_in_threadpool(store.cancel, key)
        service.runner.notify()
        return await _answer(service, key)

    return router


def _key(key: str) -> str:
    if re.fullmatch(r"[0-9a-f]{32}", key) is None:
        raise Problem(404, "there is no such job")
    return key


def _title(store: Store, job: Job) -> str:
    """The names of the models, for the list."""
    return " ".join(store.model(job.contents[role]).model for role in COMMANDS[job.command] if role != "data")


async def _answer(service: Service, key: str) -> JobAnswer:
    try:
        return await run_in_threadpool(service.answer, key)
    except Unknown as error:
        raise Problem(404, str(error)) from error


async def _events(service: Service, key: str) -> AsyncIterator[str]:
    said, silent = "", 0.0
    while not service.stopping.is_set():
        job = await _answer(service, key)
        text = job.model_dump_json()
        if text != said:
            said, silent = text, 0.0
            yield f"event: job\ndata: {text}\n\n"
        elif silent > 15:
            silent = 0.0
            yield ": still here\n\n"
        if job.state.final:
            return
        await asyncio.sleep(_LOOK_EVERY)
        silent += _LOOK_EVERY


class _Download(FileResponse):
    """A file as it is, in blocks that are worth a change of threads each."""

    chunk_size = BLOCK


def _download(path: Path) -> FileResponse:
    return _Download(path, media_type="application/octet-stream", filename=path.name)


def _checked(check: Any, text: str) -> None:
    try:
        check(text)
    except UsageError as error:
        raise Problem(422, str(error)) from error


# ---------------------------------------------------------------------- health


def _health(service: Service) -> APIRouter:
    router = APIRouter(tags=["service"])

    @router.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> str:
        """Whether the process answers."""
        return "ok\n"

    @router.get("/readyz", responses=documented(503))
    async def readyz() -> dict[str, Any]:
        """Whether jobs can be taken, and how they are isolated."""
        try:
            await run_in_threadpool(service.store.check)
        except Exception as error:
            raise Problem(503, f"the store cannot be used: {error}") from error
        return {
            "ready": True,
            "version": __version__,
            "isolation": isolation.described(),
            "workers": service.settings.workers,
        }

    @router.get("/metrics", response_class=PlainTextResponse, responses=documented(401))
    async def get_metrics() -> PlainTextResponse:
        """Counts for Prometheus."""
        text = await run_in_threadpool(metrics.text, service.store)
        return PlainTextResponse(text, media_type=metrics.MEDIA_TYPE)

    return router
