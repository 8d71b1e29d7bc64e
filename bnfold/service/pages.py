"""The pages for people: choose a model and a command, see what becomes of it. Reading needs no script."""

from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from bnfold import __version__
from bnfold.job import COMMANDS
from bnfold.service import isolation
from bnfold.service.arguments import offered, report_forms
from bnfold.service.store import State, StoredJob, Unknown

if TYPE_CHECKING:
    from bnfold.service.app import Service

_PAGE = 50
_SAYS = {
    "optimize": "Freeze, fold and verify: the inference graph that was meant.",
    "freeze": "Undo a forgotten .eval(), fold nothing.",
    "inspect": "List every normalization, and what would become of it.",
    "verify": "Compare two models.",
    "recalibrate": "New statistics from an .npz file of inputs.",
    "substitute": "Another normalization instead. Changes the function.",
}
_WORDS = {
    "equivalent": "Equivalent",
    "proved": "Proved",
    "substituted": "Substituted",
    "not-equivalent": "Not equivalent",
    "not-verified": "Not verified",
}


def routes(service: "Service") -> APIRouter:
    """All pages."""
    router = APIRouter(include_in_schema=False)
    pages = Environment(
        loader=PackageLoader("bnfold.service", "page/templates"), autoescape=True, undefined=StrictUndefined
    )
    pages.filters["moment"] = _moment
    pages.filters["verdict"] = _verdict

    def page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
        text = pages.get_template(name).render(version=__version__, signed=bool(service.settings.tokens), **values)
        return HTMLResponse(text, status_code=status)

    @router.get("/")
    async def index(
        search: Annotated[str, Query(max_length=200)] = "", after: Annotated[int, Query(ge=0, le=1_000_000)] = 0
    ) -> HTMLResponse:
        jobs = await run_in_threadpool(lambda: service.store.jobs(search=search, limit=_PAGE + 1, offset=after))
        commands = [
            {"name": name, "says": _SAYS[name], "roles": list(COMMANDS[name]), "options": offered(name)}
            for name in COMMANDS
        ]
        return page(
            "index.html",
            jobs=jobs[:_PAGE],
            search=search,
            later=after + _PAGE if len(jobs) > _PAGE else None,
            earlier=max(0, after - _PAGE) if after else None,
            commands=commands,
            isolation=await run_in_threadpool(isolation.described),
            limit=service.settings.max_upload,
        )

    @router.get("/jobs/{key}")
    async def job(key: str) -> HTMLResponse:
        try:
            found = await run_in_threadpool(service.store.job, key)
        except Unknown:
            return page("missing.html", 404, what="There is no such job.")
        published = await run_in_threadpool(service.files_of, key, found.state)
        folder = service.store.folder_of(key)
        reports = [form for form in report_forms(found.command) if (folder / f"report.{form}").is_file()]
        return page(
            "job.html",
            job=found,
            published=published,
            reports=reports if found.state.final else [],
            waiting=not found.state.final,
        )

    @router.get("/sign-in")
    async def sign_in() -> HTMLResponse:
        return page("sign_in.html", failed=False)

    @router.post("/sign-in")
    async def signed_in(token: Annotated[str, Form(max_length=1000)]) -> Response:
        if service.settings.who(token) is None:
            return page("sign_in.html", 403, failed=True)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie("bnfold_token", token, httponly=True, samesite="strict", max_age=30 * 86400)
        return answer

    @router.get("/static/{name}")
    async def static(name: str, request: Request) -> Response:
        kinds = {"style.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
        if name not in kinds:
            return page("missing.html", 404, what=f"There is no page {request.url.path[:100]}.")
        text = files("bnfold.service").joinpath("page", "static", name).read_bytes()
        return Response(text, media_type=kinds[name], headers={"Cache-Control": "no-cache"})

    return router


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _verdict(job: StoredJob) -> str:
    """The verdict in words, else the state."""
    if job.state in {State.SUCCEEDED, State.REJECTED} and job.verdict:
        return _WORDS.get(job.verdict, job.verdict)
    return "Done" if job.state is State.SUCCEEDED else job.state.value.capitalize()
