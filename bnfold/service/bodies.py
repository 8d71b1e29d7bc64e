"""The JSON that goes in and out."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bnfold.service.arguments import report_forms
from bnfold.service.store import State, StoredJob

Command = Literal["optimize", "freeze", "inspect", "verify", "recalibrate", "substitute"]


class Strict(BaseModel):
    """A body in which unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class ModelRequest(Strict):
    """A model and its external data: which of the files is the .onnx file, and the SHA-256 of each by name."""

    model: str = Field(max_length=1024, examples=["m.onnx"])
    files: dict[str, str] = Field(max_length=10_000, examples=[{"m.onnx": "0" * 64}])


class ModelAnswer(BaseModel):
    """The id by which jobs name a model."""

    id: str
    model: str
    files: dict[str, str]


class FileAnswer(BaseModel):
    """A file that is here."""

    sha256: str
    size: int


class JobRequest(Strict):
    """A command, the models it is about by their ids, and its options.

    `verify` takes `reference` and `candidate`, the others `model`; `recalibrate` also `data`, the SHA-256 of an .npz
    file that was sent. `options` are those of the library by the same names.
    """

    command: Command
    model: str | None = Field(None, max_length=128)
    reference: str | None = Field(None, max_length=128)
    candidate: str | None = Field(None, max_length=128)
    data: str | None = Field(None, max_length=128)
    options: dict[str, Any] = Field(default_factory=dict)


class JobAnswer(BaseModel):
    """A job as it stands. Times are ISO 8601 in UTC. `links` are those that can be followed now."""

    id: str
    command: str
    state: State
    title: str
    contents: dict[str, str]
    options: dict[str, Any]
    stage: str
    done: int
    total: int
    created: str
    started: str | None
    finished: str | None
    exit_code: int | None
    verdict: str | None
    message: str
    links: dict[str, str]


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobAnswer]


def of_job(job: StoredJob, files: list[str]) -> JobAnswer:
    """A job as JSON. `files`: the names of what it published."""
    base = f"/v1/jobs/{job.id}"
    links = {"self": base, "events": f"{base}/events"}
    if job.state in {State.SUCCEEDED, State.REJECTED}:
        links |= {form: f"{base}/report.{form}" for form in report_forms(job.command)}
    if files:
        links["model"] = f"{base}/model"
        links |= {f"files/{name}": f"{base}/files/{name}" for name in files}
    return JobAnswer(
        id=job.id,
        command=job.command,
        state=job.state,
        title=job.title,
        contents=dict(job.contents),
        options=dict(job.options),
        stage=job.stage,
        done=job.done,
        total=job.total,
        created=_time(job.created) or "",
        started=_time(job.started),
        finished=_time(job.finished),
        exit_code=job.exit_code,
        verdict=job.verdict,
        message=job.message,
        links=links,
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
