"""The service: content in, jobs, verdicts and results out; what is refused; and what a killed process leaves behind."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, load, parser, save

import bnfold
from bnfold.errors import UsageError
from bnfold.service.arguments import arguments_of, canonical
from bnfold.service.client import Client, ServiceError
from bnfold.service.names import checked_name
from bnfold.service.settings import Settings
from bnfold.service.store import Full, State, Store, Unknown
from tests.service_process import MODEL, REPOSITORY, ServiceProcess, running

WRONG = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2,3] x) => (float[2,3] y) { y = Neg(x) }"""
LARGE_IMAGES = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,4,400,500] x) => (float[1,4,400,500] y)
<float[4] s = {1, 2, 3, 4}, float[4] b = {1, 2, 3, 4}, float[4] m = {1, 2, 3, 4}, float[4] v = {1, 2, 3, 4},
 float[1] a = {0.5}>
{ t = Tanh(x)
  n = BatchNormalization(t, s, b, m, v)
  y = PRelu(n, a) }"""
RIGHT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2,3] x) => (float[2,3] y) { y = Identity(x) }"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with running(tmp_path_factory.mktemp("service") / "data", "--max-upload", "1M") as found:
        yield found


@pytest.fixture(scope="module")
def optimized(service: ServiceProcess) -> dict[str, object]:
    return service.ended(service.job(model=service.model())["id"])


def test_a_job_gives_what_the_command_gives(
    service: ServiceProcess, optimized: dict[str, object], tmp_path: Path
) -> None:
    assert (optimized["state"], optimized["verdict"], optimized["exit_code"]) == ("succeeded", "equivalent", 0)
    here = tmp_path / "m.onnx"
    line = [sys.executable, "-m", "bnfold", "optimize", str(MODEL), str(here), "-q"]
    subprocess.run(line, check=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    answer = service.ask("GET", f"/v1/jobs/{optimized['id']}/model")
    assert answer.content == here.read_bytes()
    report = service.ask("GET", f"/v1/jobs/{optimized['id']}/report.json").json()
    assert report["input"]["sha256"] == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    part = service.ask("GET", f"/v1/jobs/{optimized['id']}/model", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, here.read_bytes()[10:20])
    again = service.ask("GET", f"/v1/jobs/{optimized['id']}/model", headers={"If-Range": part.headers["etag"]})
    assert again.status_code == 200


@pytest.mark.parametrize("form", ["json", "html", "md", "xml"])
def test_each_form_of_the_report(service: ServiceProcess, optimized: dict[str, object], form: str) -> None:
    answer = service.ask("GET", f"/v1/jobs/{optimized['id']}/report.{form}")
    assert answer.status_code == 200
    assert ("equivalent" if form != "xml" else "testcase") in answer.text.lower()


def test_the_same_job_is_known_by_its_key(service: ServiceProcess, optimized: dict[str, object]) -> None:
    body = {"command": "optimize", "model": service.model(), "options": {"seed": 0}}  # a default, spelled out
    answer = service.ask("POST", "/v1/jobs", json=body)
    assert (answer.status_code, answer.json()["id"]) == (200, optimized["id"])


def test_a_verdict_that_is_none_rejects_and_publishes_nothing(service: ServiceProcess, tmp_path: Path) -> None:
    for name, text in (("right", RIGHT), ("wrong", WRONG)):
        save(parser.parse_model(text), tmp_path / f"{name}.onnx")
    ids = {name: service.model(tmp_path / f"{name}.onnx", f"{name}.onnx") for name in ("right", "wrong")}
    job = service.ended(service.job("verify", reference=ids["right"], candidate=ids["wrong"])["id"])
    assert (job["state"], job["verdict"], job["exit_code"]) == ("rejected", "not-equivalent", 1)
    assert job["message"]
    assert service.ask("GET", f"/v1/jobs/{job['id']}/model").status_code == 404


def test_what_is_no_model_fails_with_the_commands_own_sentence(service: ServiceProcess, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no model")
    job = service.ended(service.job("inspect", model=service.model(tmp_path / "x.onnx"))["id"])
    assert (job["state"], job["exit_code"]) == ("failed", 3)
    assert "m.onnx" in job["message"]


def test_inspect_leaves_its_json(service: ServiceProcess) -> None:
    job = service.ended(service.job("inspect", model=service.model())["id"])
    found = service.ask("GET", f"/v1/jobs/{job['id']}/report.json").json()
    assert len(found["normalizations"]) == 5


def test_events_end_with_the_job(service: ServiceProcess) -> None:
    job = service.job(model=service.model(), options={"seed": 11})
    told = list(service.events(job["id"]))
    assert told[-1]["state"] == "succeeded"
    assert all(each["id"] == job["id"] for each in told)


def test_events_tell_what_a_running_job_does(service: ServiceProcess, tmp_path: Path) -> None:
    model = parser.parse_model(LARGE_IMAGES)
    save(model, tmp_path / "large.onnx")
    job = service.job(model=service.model(tmp_path / "large.onnx"), options={"thorough": True})
    told = list(service.events(job["id"]))
    assert told[-1]["state"] == "succeeded"
    assert {each["stage"] for each in told if each["state"] == "running"} & {"normalizations", "bytes", "feeds"}


def test_external_data_goes_up_and_comes_down(service: ServiceProcess, tmp_path: Path) -> None:
    model = load(MODEL)
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    (tmp_path / "in").mkdir()
    save(model, tmp_path / "in/m.onnx")
    job = Client(service.url).run("optimize", tmp_path / "out.onnx", model=tmp_path / "in/m.onnx")
    assert (job.state, job.exit_code, job.verdict) == ("succeeded", 0, "equivalent")
    names = {tensor.external_data[0].value for tensor in _external(tmp_path / "out.onnx")}
    assert all((tmp_path / name).exists() for name in names)
    assert bnfold.verify(MODEL, tmp_path / "out.onnx").verdict == "equivalent"


def _external(path: Path) -> list[TensorProto]:
    model: ModelProto = load(path, load_external_data=False)
    return [tensor for tensor in model.graph.initializer if tensor.external_data]


def test_the_commands_of_the_documentation(service: ServiceProcess, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    section = (REPOSITORY / "docs/service.md").read_text().split("## With curl")[1].split("##")[0]
    lines = section.split("```bash\n")[1].split("```")[0].splitlines()
    assert lines[0].startswith("SERVICE=")
    script = "\n".join([f"SERVICE={service.url}", f"ln -s {REPOSITORY}/models models", *lines[1:]])
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert '"state":"succeeded"' in done.stdout
    assert bnfold.verify(MODEL, tmp_path / "digits_folded.onnx").verdict == "equivalent"


def test_the_commands_of_the_readme(service: ServiceProcess, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    first = lines.index("    pip install '.[serve,cpu]' && bnfold serve") + 2
    commands = "\n".join(line for line in lines[first : first + 4]).replace("127.0.0.1:8000", service.url)
    script = f"ln -s {REPOSITORY}/models models\n{commands}"
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    assert '"state":"succeeded"' in done.stdout
    assert bnfold.verify(MODEL, tmp_path / "folded.onnx").verdict == "equivalent"


def test_each_slot_has_one_thread_where_the_job_does_not_say(tmp_path: Path) -> None:
    def words(options: dict[str, object]) -> str:
        return " ".join(arguments_of("optimize", options, {"model": tmp_path}, tmp_path, tmp_path, Settings(tmp_path)))

    assert "--threads 1 " in words({})
    assert "--threads 3 " in words({"threads": 3})
    assert "--threads" not in " ".join(
        arguments_of("inspect", {}, {"model": tmp_path}, None, tmp_path, Settings(tmp_path))
    )


# ---------------------------------------------------------------------- what is refused


def test_a_wrong_hash_is_refused_and_nothing_is_kept(service: ServiceProcess) -> None:
    claimed = "0" * 64
    answer = service.ask("PUT", f"/v1/models/{claimed}/files/m.onnx", content=b"other")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert hashlib.sha256(b"other").hexdigest() in answer.json()["detail"]
    assert service.ask("HEAD", f"/v1/models/{claimed}/files/m.onnx").status_code == 404
    assert list((service.data / "incoming").iterdir()) == []


@pytest.mark.parametrize("told", [True, False], ids=["content-length", "chunked"])
def test_what_is_too_large_is_refused(service: ServiceProcess, told: bool) -> None:
    content = bytes(2 << 20)
    address = f"/v1/models/{hashlib.sha256(content).hexdigest()}/files/m.onnx"

    def chunks() -> Iterator[bytes]:
        for _ in range(32):
            yield content[: 1 << 16]

    try:
        answer = service.ask("PUT", address, content=content if told else chunks())
    except (httpx.WriteError, httpx.ReadError):
        pass  # the connection may end before the answer was read
    else:
        assert answer.status_code == 413
    assert service.ask("GET", "/healthz").status_code == 200
    assert list((service.data / "incoming").iterdir()) == []


def test_sizes_tell_whether_a_hash_can_be_of_use(service: ServiceProcess) -> None:
    content = b"s" * 4321
    assert service.ask("HEAD", "/v1/files?size=4321").status_code == 404
    service.put("m.onnx", content)
    assert service.ask("HEAD", "/v1/files?size=4321").status_code == 200
    assert service.ask("HEAD", "/v1/files?size=-1").status_code == 422


def test_a_known_content_is_not_sent_again(service: ServiceProcess) -> None:
    sha256 = service.put("m.onnx", MODEL.read_bytes())
    head = service.ask("HEAD", f"/v1/models/{sha256}/files/other.onnx")
    assert (head.status_code, head.headers["x-content-size"]) == (200, str(MODEL.stat().st_size))
    assert service.ask("PUT", f"/v1/models/{sha256}/files/m.onnx", content=b"").status_code == 200


@pytest.mark.parametrize(
    "name", ["../m.onnx", "a/../../m.onnx", "/m.onnx", "m\0.onnx", "m" * 4000, ".hidden", "a\\b", ""]
)
def test_names_that_are_no_file_of_a_model(service: ServiceProcess, name: str) -> None:
    sha256 = service.put("m.onnx", MODEL.read_bytes())
    answer = service.ask("POST", "/v1/models", json={"model": name, "files": {name: sha256}})
    assert answer.status_code == 422
    with pytest.raises(UsageError):
        checked_name(name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sed": 1}, "seed"),
        ({"inputs": "/etc/passwd"}, "inputs"),
        ({"inputs": "script.py:function"}, "inputs"),
        ({"statistics_from": "/etc/passwd"}, "statistics_from"),
        ({"recalibrate": "/etc"}, "recalibrate"),
        ({"dry_run": True}, "dry_run"),
        ({"seed": "1"}, "seed"),
        ({"layout": {"weights": "external", "name": "../x"}}, "../x"),
    ],
)
def test_options_that_no_other_machine_may_ask_for(
    service: ServiceProcess, options: dict[str, object], said: str
) -> None:
    body = {"command": "optimize", "model": service.model(), "options": options}
    answer = service.ask("POST", "/v1/jobs", json=body)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_unknown_things_are_not_found(service: ServiceProcess) -> None:
    body = {"command": "optimize", "model": "0" * 64}
    assert service.ask("POST", "/v1/jobs", json=body).status_code == 404
    assert service.ask("GET", f"/v1/jobs/{'0' * 32}").status_code == 404
    assert service.ask("GET", "/v1/jobs/../../etc/passwd").status_code == 404
    files = {"model": "m.onnx", "files": {"m.onnx": "1" * 64}}
    assert service.ask("POST", "/v1/models", json=files).status_code == 404
    assert service.ask("GET", "/nothing").json()["status"] == 404


def test_a_page_of_another_site_changes_nothing(service: ServiceProcess) -> None:
    body = {"command": "optimize", "model": "0" * 64}
    assert service.ask("POST", "/v1/jobs", json=body, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_the_policy_of_pages_allows_no_inline_script(service: ServiceProcess, optimized: dict[str, object]) -> None:
    for path in ("/", f"/jobs/{optimized['id']}"):
        answer = service.ask("GET", path)
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "onclick" not in answer.text
    report = service.ask("GET", f"/v1/jobs/{optimized['id']}/report.html")
    assert "sandbox" in report.headers["content-security-policy"]


def test_health_and_metrics(service: ServiceProcess, optimized: dict[str, object]) -> None:
    assert optimized["state"] == "succeeded"
    ready = service.ask("GET", "/readyz").json()
    assert ready["ready"] is True
    assert ready["isolation"]
    assert 'bnfold_jobs{state="succeeded"}' in service.ask("GET", "/metrics").text


def test_the_client_says_what_the_service_says(service: ServiceProcess) -> None:
    client = Client(service.url)
    with pytest.raises(ServiceError, match="did you mean seed") as raised:
        client.submit("optimize", {"sed": 1}, model=service.model())
    assert raised.value.status == 422
    with pytest.raises(ServiceError, match="cannot be reached"):
        Client("http://127.0.0.1:9").job("0" * 32)
    with pytest.raises(UsageError):
        Client("ftp://x")


# ---------------------------------------------------------------------- who may


def test_another_address_needs_a_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--token-file"):
        Settings(tmp_path, host="0.0.0.0")
    assert Settings(tmp_path, host="0.0.0.0", tokens={"t" * 20: "ann"}).who("t" * 20) == "ann"
    assert Settings(tmp_path, tokens={"t" * 20: "ann"}).who("") is None


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    token = "0123456789abcdef-secret"
    (tmp_path / "tokens").write_text(f"# who may\nann:{token}\n", encoding="utf-8")
    with running(tmp_path / "data", "--token-file", str(tmp_path / "tokens"), token=token) as service:
        assert httpx.get(f"{service.url}/v1/jobs").status_code == 401
        assert httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert service.ask("GET", "/v1/jobs").status_code == 200
        page = httpx.get(f"{service.url}/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/sign-in")
        with httpx.Client(base_url=service.url) as browser:
            assert browser.post("/sign-in", data={"token": "wrong"}).status_code == 403
            assert browser.post("/sign-in", data={"token": token}).status_code == 303
            assert browser.get("/", headers={"Accept": "text/html"}).status_code == 200
        assert token not in service.log()


# ---------------------------------------------------------------------- stopping, killing, cancelling


def _slow(service: ServiceProcess) -> dict[str, object]:
    """A job that runs for a while: many feeds of a model that computes long."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1] x) => (float[1] y) {
      n = Constant<value = int64 {2000000000}>()
      t = Constant<value = bool {1}>()
      y = Loop<body = b (int64 i, bool c, float[1] v) => (bool d, float[1] w) {
        d = Identity(c) w = Identity(v)
      }>(n, t, x)
    }"""
    content = parser.parse_model(text).SerializeToString()
    sha256 = service.put("slow.onnx", content)
    model = service.ask("POST", "/v1/models", json={"model": "slow.onnx", "files": {"slow.onnx": sha256}}).json()["id"]
    return service.job(model=model, options={"proof": "never"})


def _running(service: ServiceProcess, key: object) -> None:
    deadline = time.monotonic() + 60
    while service.ask("GET", f"/v1/jobs/{key}").json()["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _children(data: Path) -> list[str]:
    """Processes of jobs of the service in `data`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if str(data / "jobs") in line:
                found.append(line)
    return found


def _gone(data: Path) -> None:
    deadline = time.monotonic() + 20
    while _children(data):
        assert time.monotonic() < deadline, _children(data)
        time.sleep(0.1)


def test_a_job_that_runs_is_cancelled_and_leaves_no_process(tmp_path: Path) -> None:
    with running(tmp_path / "data") as service:
        job = _slow(service)
        waiting = service.job(model=service.model())
        _running(service, job["id"])
        assert service.ask("DELETE", f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
        assert service.ended(waiting["id"])["state"] == "succeeded"
        _gone(service.data)
        again = _slow(service)
        _running(service, again["id"])  # what was cancelled may be asked for again
        begun = time.monotonic()
        assert service.stop() in {0, 143, -15}
        assert time.monotonic() - begun < 20
        _gone(service.data)


def test_a_killed_service_finishes_its_jobs_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path / "data") as service:
        jobs = [service.job(model=service.model(), options={"seed": seed})["id"] for seed in range(2)]
        _running(service, jobs[0])
        service.kill()
        _gone(service.data)
        service.start()
        found = [service.ended(job) for job in jobs]
        assert [job["state"] for job in found] == ["succeeded"] * 2
        contents = {service.ask("GET", f"/v1/jobs/{job}/model").content for job in jobs}
        assert len(contents) == 1


def test_an_open_event_stream_does_not_hold_a_stop(tmp_path: Path) -> None:
    with running(tmp_path / "data") as service:
        job = _slow(service)
        with httpx.stream("GET", f"{service.url}/v1/jobs/{job['id']}/events", timeout=60) as answer:
            assert next(answer.iter_lines()) == "event: job"
            begun = time.monotonic()
            service.process.terminate()
            service.process.wait(timeout=30)
            assert time.monotonic() - begun < 20


# ---------------------------------------------------------------------- the store and the options


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


def _keep(store: Store, content: bytes) -> str:
    incoming = store.incoming()
    incoming.write([content])
    return incoming.finish(None)


def test_a_job_that_was_running_twice_at_a_kill_has_failed(store: Store) -> None:
    from bnfold.job import Job

    model, new = store.add_model("m.onnx", {"m.onnx": _keep(store, b"x")})
    assert new
    job, _ = store.submit(Job("inspect", {"model": model.id}), owner="", title="m", most=5)
    for expected in (State.QUEUED, State.FAILED):
        claimed = store.claim()
        assert claimed is not None
        store.recover()
        assert store.job(job.id).state is expected
    assert store.claim() is None


def test_a_full_queue_takes_no_more(store: Store) -> None:
    from bnfold.job import Job

    model, _ = store.add_model("m.onnx", {"m.onnx": _keep(store, b"x")})
    store.submit(Job("inspect", {"model": model.id}), owner="", title="m", most=1)
    with pytest.raises(Full):
        store.submit(Job("freeze", {"model": model.id}), owner="", title="m", most=1)


def test_what_a_job_needs_is_not_collected(store: Store) -> None:
    from bnfold.job import Job

    kept, _ = store.add_model("m.onnx", {"m.onnx": _keep(store, b"x")})
    gone, _ = store.add_model("n.onnx", {"n.onnx": _keep(store, b"y")})
    store.submit(Job("inspect", {"model": kept.id}), owner="", title="m", most=5)
    _keep(store, b"never used")
    store.collect(-1)
    assert store.path_of(kept).read_bytes() == b"x"
    with pytest.raises(Unknown):
        store.model(gone.id)
    assert sorted(path.name for path in (store.root / "models").iterdir()) == [kept.id]
    assert list((store.root / "files").iterdir()) == []


def test_a_layout_that_a_kill_cut_short_gives_its_files_back(store: Store) -> None:
    sha256 = _keep(store, b"x")
    lost = store.root / "models" / ("a" * 64)
    lost.mkdir()
    (store.root / "files" / sha256).replace(lost / "m.onnx")
    with store._transaction() as database:
        database.execute("UPDATE files SET path = ?", (f"models/{lost.name}/m.onnx",))
    store.recover()
    model, _ = store.add_model("m.onnx", {"m.onnx": sha256})
    assert store.path_of(model).read_bytes() == b"x"


def test_options_at_their_defaults_are_left_out() -> None:
    assert canonical("optimize", {"seed": 0, "verify": True}) == {}
    assert canonical("optimize", {"verify": False}) == {"verify": False}
    with pytest.raises(UsageError, match="substitute"):
        canonical("substitute", {})


def test_the_log_is_json_and_names_no_model(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--log-format", "json") as service:
        service.ended(service.job("inspect", model=service.model(name="secret_name.onnx"))["id"])
        lines = [json.loads(line) for line in service.log().splitlines()]
    assert any(line.get("state") == "succeeded" for line in lines)
    assert "secret_name" not in service.log()


# ---------------------------------------------------------------------- the command line with --server


def _optimized_there(service: ServiceProcess, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "bnfold", "optimize", "--server", service.url, *words]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)


def test_the_command_with_a_server_writes_what_it_writes_without(
    service: ServiceProcess, optimized: dict[str, object], tmp_path: Path
) -> None:
    done = _optimized_there(service, str(MODEL), str(tmp_path / "out.onnx"), "--report", str(tmp_path / "r.json"))
    assert done.returncode == 0, done.stderr
    there = service.ask("GET", f"/v1/jobs/{optimized['id']}/model").content
    assert (tmp_path / "out.onnx").read_bytes() == there
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["verdict"] == "equivalent"
    assert done.stdout.startswith("equivalent: 18 nodes -> 13")


def test_the_command_with_a_server_loses_nothing(service: ServiceProcess, tmp_path: Path) -> None:
    """What is read is not written, and another model is not replaced: the rules are those of this machine."""
    (tmp_path / "sub").mkdir()
    save(load(MODEL), tmp_path / "in.onnx", save_as_external_data=True, location="sub/w.bin", size_threshold=0)
    (tmp_path / "other.onnx").write_bytes(MODEL.with_name("digits_preact.onnx").read_bytes())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for output, said in (("sub/w.bin", "would be written over"), ("other.onnx", "is a model already")):
        done = _optimized_there(service, str(tmp_path / "in.onnx"), str(tmp_path / output))
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for _ in range(2):  # the second run is over its own result
        done = _optimized_there(service, str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"))
        assert done.returncode == 0, done.stderr
        assert len(load(tmp_path / "out.onnx").graph.node) == 13
    assert {path: path.read_bytes() for path in before} == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and path.is_dir()]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["bad.onnx", "out.onnx"], 3, "bad.onnx"),
        ([str(MODEL), "out.onnx", "--statistics-from", "weights.safetensors"], 2, "--statistics-from"),
        ([str(MODEL), "out.onnx", "--keep-failed"], 2, "--keep-failed"),
    ],
)
def test_what_fails_with_a_server_fails_as_without(
    service: ServiceProcess, words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"junk")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    done = _optimized_there(service, *words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "out.onnx").exists()
