"""The built site: it builds without warnings, loads nothing from other hosts, and fits a phone."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT


pytestmark = pytest.mark.long
WIDTHS = (1280, 390)  # a laptop, a phone


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and prints nothing."""

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of the site on a server of this process."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The Chromium that is installed."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium; apt install chromium")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_formulas_are_drawn_by_the_browser_itself(site: Path) -> None:
    page = (site / "reference" / "methods.html").read_text()
    blocks = (ROOT / "docs" / "reference" / "methods.md").read_text().count("```math")
    assert page.count('class="formulas"') == blocks and page.count("<math") > blocks
    assert "arithmatex" not in page and r"\frac" not in page


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_its_screen_and_loads_nothing_from_elsewhere(
    site: Path, address: str, browser: Any, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    names = sorted(file.relative_to(site).as_posix() for file in site.rglob("*.html") if file.name != "404.html")
    assert len(names) >= 30
    for name in names:
        page.goto(address + name)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    assert not errors and [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
    page.close()


def test_search_finds_a_page(address: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address + "index.html")
    page.click("input.md-search__input")
    page.keyboard.type("CutMix")  # the search listens to keys
    page.wait_for_selector("li.md-search-result__item", timeout=60_000)
    assert page.locator("li.md-search-result__item").count() >= 1
    page.close()
