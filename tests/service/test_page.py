"""The page of the service in a real browser: a model goes in, the verdict and the result come out.

Needs an installed chromium (Debian's package of that name); skipped, with that reason, where there is none.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service_process import MODEL, ServiceProcess, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with running(tmp_path_factory.mktemp("page") / "data") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield found
        found.close()


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (360, "dark")])
def test_a_model_goes_in_and_a_verdict_comes_out(
    service: ServiceProcess, browser: Any, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(service.url)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_input_files(".drop[data-role=model] input", str(MODEL))
    page.click(".options[data-command=optimize] summary")
    page.fill(".options[data-command=optimize] [name=seed]", str(width))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.click("button[type=submit]")
    page.wait_for_url("**/jobs/*", timeout=60_000)
    page.wait_for_selector("#verdict.succeeded", timeout=180_000)
    assert page.inner_text("#verdict") == "Equivalent"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    with page.expect_download() as download:
        page.click("a.button")
    download.value.save_as(tmp_path / "result.onnx")
    assert (tmp_path / "result.onnx").stat().st_size > 10_000
    page.click("text=Page")
    page.wait_for_load_state()
    assert "quivalent" in page.inner_text("body")
    assert said == []
    assert all(url.startswith((service.url, "data:", "blob:")) for url in asked)
    context.close()


def test_the_page_is_used_by_keyboard(service: ServiceProcess, browser: Any) -> None:
    page = browser.new_page()
    page.goto(service.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("input[name=command]")
    for _ in range(5):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.value") == "verify"
    assert page.is_visible(".drop[data-role=candidate]")
    page.focus("button[type=submit]")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.said').textContent !== ''")
    assert page.inner_text(".said") == "Choose the reference first."
    page.close()


def test_reading_needs_no_script(service: ServiceProcess, browser: Any) -> None:
    job = service.ended(service.job("inspect", model=service.model(name="seen.onnx"))["id"])
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{service.url}/?search=seen")
    page.click("text=inspect seen.onnx")
    assert page.url.endswith(job["id"])
    assert page.inner_text("#verdict") == "Done"
    context.close()
