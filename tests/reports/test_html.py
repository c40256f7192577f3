"""The HTML report is one file, shows what the dataset holds, and works with a keyboard in a real browser."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import execute, make_source, small_recipe, write_recipe

from srel_hub import load_condensed
from srel_hub.commands.program import main
from srel_hub.condense import condense
from srel_hub.errors import UserError
from srel_hub.reports import html as report
from srel_hub.runs.run import Run
from srel_hub.storage.files import read_json


NAMES = ["red", "<script>alert(1)</script>", "a very long name " * 6]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with pictures, CutMix labels, and class names that hold HTML."""
    folder = tmp_path_factory.mktemp("reported")
    file = write_recipe(folder / "colors.yaml", make_source(folder / "source", (8, 8), NAMES))
    run = Run(small_recipe(file, folder / "runs", "pictures=true", "relabel.augment.mix=cutmix"))
    condense(run)
    assert main(["report", str(run.folder)]) == 0
    return run.folder


def test_it_loads_nothing_from_elsewhere(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    assert "default-src 'none'" in page and "<script" not in page
    assert all(uri.startswith("data:image/") for uri in re.findall(r'src="([^"]*)"', page))
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', page))
    for anchor in re.findall(r'href="#([^"]*)"', page):
        assert f'id="{anchor}"' in page


def test_it_shows_the_numbers_of_the_run(reported: Path) -> None:
    page = (reported / "report.html").read_text()
    for student in read_json(reported / "evaluate" / "summary.json")["students"]:
        for row in student["rows"]:
            assert f"{row['top1']['mean']:.2%}".replace("%", "") in page
    assert (reported / "dataset" / "recipe.yaml").read_text().splitlines()[0] in page
    for digest in read_json(reported / "dataset/soft_labels/manifest.json")["teacher"]["sha256"].values():
        assert digest in page


def test_its_soft_labels_are_those_of_the_crops(reported: Path) -> None:
    condensed = load_condensed(reported / "dataset")
    classes = list(report.images_by_class(condensed))
    assert [len(of_class.images) for of_class in classes] == [3, 3, 3]
    for label, of_class in enumerate(classes):
        for image in of_class.images:
            assert condensed.labels[image.row] == label
            for epoch, crop in zip(condensed, image.crops, strict=True):
                shares = epoch[image.row]["logits"].softmax(0)
                best = int(shares.argmax())
                assert crop.labels[0] == report.Label(NAMES[best], pytest.approx(float(shares[best])))
                assert crop.image == report.data_uri(epoch.render(torch.tensor([image.row]))[0])
                partner = int(epoch.views.partners[image.row])
                assert crop.mixed_with == (None if partner == image.row else NAMES[condensed.labels[partner]])


def test_part_of_a_large_dataset_is_shown(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = report.report(str(reported))
    assert "9 of 9 images" in whole
    monkeypatch.setattr(report, "MOST_BYTES", 1000)
    part = report.report(str(reported))
    assert re.search("[12] of 9 images", part) and len(part) < len(whole)


def test_large_images_are_shrunk() -> None:
    noise = torch.randint(0, 256, (3, 300, 200), dtype=torch.uint8)
    assert len(report.data_uri(noise)) < 1.5 * 3 * report.LARGEST_SIDE**2


def test_a_dataset_without_its_run_is_enough(reported: Path, tmp_path: Path) -> None:
    shutil.copytree(reported / "dataset", tmp_path / "alone")
    assert main(["report", str(tmp_path / "alone"), "--out", str(tmp_path / "page.html")]) == 0
    page, whole = (tmp_path / "page.html").read_text(), (reported / "report.html").read_text()
    assert page.count("<img") == whole.count("<img") > 30


def test_mistakes_are_reported_and_nothing_is_written(
    reported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "begun" / "units").mkdir(parents=True)
    shutil.copy(reported / "recipe.yaml", tmp_path / "begun")
    assert main(["report", str(tmp_path / "begun")]) == 2
    assert "this run has no dataset yet; run `srel-hub condense" in capsys.readouterr().err
    assert main(["report", str(reported), "--out", str(tmp_path / "nowhere" / "page.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    shutil.copytree(reported / "dataset", tmp_path / "odd")
    (tmp_path / "odd" / "metrics.json").write_text('{"measured": true, "students": [{}]}')
    with pytest.raises(UserError, match="metrics.json is not in the form that srel_hub writes"):
        report.report(str(tmp_path / "odd"))
    assert not list(tmp_path.rglob("*.html"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_in_a_browser_it_fits_and_fetches_nothing(browser: Any, reported: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.goto((reported / "report.html").as_uri())
    assert [url for url in requests if not url.startswith("data:")] == [(reported / "report.html").as_uri()]
    assert messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert page.evaluate(broken) == 0
    unnamed = "[...document.images].filter(image => !image.alt && !image.classList.contains('strip')).length"
    assert page.evaluate(unnamed) == 0
    assert page.evaluate(CONTRAST) >= 4.5
    page.close()


CONTRAST = """() => {
  const light = color => {
    const parts = color.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255);
    const [r, g, b] = parts.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = ink => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  const texts = [...document.querySelectorAll('p, dt, dd, th, td, a, summary, figcaption, li, footer')];
  return Math.min(...texts.map(text => ratio(light(getComputedStyle(text).color))));
}"""


@pytest.mark.long
def test_in_a_browser_the_keyboard_reaches_everything(browser: Any, reported: Path) -> None:
    page = browser.new_page()
    page.goto((reported / "report.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim().slice(0, 12)"))
        tag = page.evaluate("document.activeElement.tagName")
        if tag == "SUMMARY" and not page.evaluate("document.activeElement.parentElement.open"):
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentElement.open")
            page.keyboard.press("Enter")
    assert page.evaluate("document.querySelectorAll('summary').length") == 5  # classes, animation, recipe
    assert {NAMES[0], NAMES[1][:12], "Play the ani", "Recipe with "} <= reached
    page.close()


@pytest.mark.long
def test_as_a_command(reported: Path, tmp_path: Path) -> None:
    done = execute("python", "-m", "srel_hub", "report", str(reported), "--out", "page.html", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("page.html (") and not done.stderr
    assert (tmp_path / "page.html").read_bytes() == (reported / "report.html").read_bytes()
