"""`pytest --resume` leaves out what passed since the sources last changed, until a whole run has passed."""

import hashlib
import os
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--resume", action="store_true", help="leave out what passed before with the same sources")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--resume"):
        config.pluginmanager.register(Resuming(config, passed_file()))


def passed_file() -> Path:
    """Where the names of tests that passed with these sources are kept."""
    digest = hashlib.sha256()
    for kind in ("srel_hub/**/*.py", "tests/**/*.py", "recipes/**/*.yaml", "cards/*", "docs/**/*.md", "*.md"):
        for file in sorted(ROOT.glob(kind)):
            digest.update(file.read_bytes())
    return ROOT / ".pytest_cache" / f"passed-{digest.hexdigest()[:16]}"


class Resuming:
    """Keeps a line a test that passed; xdist's workers only leave out."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self._config, self._file, self._failed = config, file, set[str]()
        self._is_worker = "PYTEST_XDIST_WORKER" in os.environ
        self._passed = set(file.read_text().splitlines()) if file.is_file() else set[str]()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        passed = [item for item in items if item.nodeid in self._passed]
        items[:] = [item for item in items if item.nodeid not in self._passed]
        self._config.hook.pytest_deselected(items=passed)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when == "teardown" and report.nodeid not in self._failed and not self._is_worker:
            self._file.parent.mkdir(exist_ok=True)
            with self._file.open("a") as file:
                file.write(f"{report.nodeid}\n")

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and not self._is_worker:
            self._file.unlink(missing_ok=True)
