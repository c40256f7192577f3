"""One run directory: its paths, atomic writes, unit markers, Accelerator, seeding, progress, log and command line."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from tqdm import tqdm

from srel_hub import __version__
from srel_hub.faults import UserError
from srel_hub.recipe import Recipe, as_dict, canonical, load_recipe
from srel_hub.yaml_files import to_yaml


LOG_EVERY = 10.0  # seconds between two progress lines in the log file
STACKED_PIXELS = 100 * 64 * 64  # `recover.stack: auto` fills one forward pass with about as many pixels

UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "pillow")
ON_CARDS_ONLY = ("title", "homepage", "license", "terms", "citation")  # of the source: may change on a finished run

Stage = Literal["squeeze", "recover", "relabel", "evaluate"]
Item = TypeVar("Item")


class Run:
    """A recipe, the directory it works in and the device it works on.

    Raises:
        UserError: if the directory holds another recipe, or several processes were started.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.folder = _place(recipe)
        self.accelerator = make_accelerator()
        self.recipe = _settle(recipe, self.folder)
        threads = self.recipe.run.cpu_threads
        assert isinstance(threads, int)
        torch.set_num_threads(threads)

    def begin(self) -> None:
        """Make the directory and keep the recipe in it; called when all checks that cost nothing are behind.

        Where to publish, and the way to the directory, stay as they were when the run began: what a later command says
        of them holds for that command.
        """
        file, kept = self.path("recipe.yaml"), self.recipe
        if file.is_file():
            before = load_recipe(file)
            kept = replace(kept, publish=before.publish, run=replace(kept.run, root=before.run.root))
        kept = replace(kept, publish=replace(kept.publish, dry_run=False))
        write_text(file, to_yaml(as_dict(kept)))
        if not self.path("versions.json").is_file():  # the cards name those that the run began with
            write_json(self.path("versions.json"), library_versions())

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    @cached_property
    def logger(self) -> logging.Logger:
        """Writes to the run's log.txt and, through the progress bars, to the terminal."""
        logger = logging.getLogger(f"srel_hub.{self.folder.resolve()}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        handler = logging.FileHandler(self.path("log.txt"), encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.handlers = [handler]
        return logger

    def say(self, message: str) -> None:
        """One line to the terminal and to the log."""
        tqdm.write(message, file=sys.stderr)
        self.logger.info(message)

    def record(self, stage: str, **values: Any) -> None:
        """One line of metrics.jsonl."""
        with self.path("metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage, "time": round(time.time(), 3), **values}) + "\n")

    def progress(self, items: Iterable[Item], total: int | None, title: str, unit: str) -> Iterator[Item]:
        """Pass items on under a progress bar; the same line goes to the log every ten seconds and at the end.

        Before `begin` there is no log: a run that is refused leaves nothing behind.
        """
        bar = tqdm(total=total, desc=title, unit=unit, dynamic_ncols=True, mininterval=0.5)
        logged = time.monotonic()
        with bar:
            for item in items:
                yield item
                bar.update()
                if time.monotonic() - logged > LOG_EVERY and bar.n != total:
                    logged = time.monotonic()
                    self._log(str(bar))
            self._log(str(bar))

    def _log(self, line: str) -> None:
        if self.folder.is_dir():
            self.logger.info(line)

    def require(self, part: str, stage: Stage) -> None:
        """Refuse to go on without what an earlier stage leaves.

        Raises:
            UserError: naming the stage to run first.
        """
        if not self.path(part).is_dir():
            raise UserError(f"{self.path(part)}: there is no such folder yet; run {stage} first")

    def is_done(self, stage: Stage, unit: str) -> bool:
        """Whether a unit was marked and its files still have the size they were marked with."""
        marker = self._marker(stage, unit)
        if not marker.is_file():
            return False
        try:
            sizes = dict(json.loads(marker.read_text(encoding="utf-8")))
        except ValueError:
            return False  # a damaged marker marks nothing
        return all(
            self.path(name).is_file() and self.path(name).stat().st_size == size for name, size in sizes.items()
        )

    def mark(self, stage: Stage, unit: str, files: Sequence[Path]) -> None:
        """Mark a unit as done; its files have been written and flushed before."""
        sizes = {file.relative_to(self.folder).as_posix(): file.stat().st_size for file in files}
        write_text(self._marker(stage, unit), canonical(sizes))

    def _marker(self, stage: Stage, unit: str) -> Path:
        return self.path("units", stage, f"{unit}.json")


def _place(recipe: Recipe) -> Path:
    """The run directory; refused where it cannot be made or written."""
    try:
        folder = Path(recipe.run.root).expanduser() / recipe.name
    except RuntimeError as error:
        raise UserError(f"run.root={recipe.run.root}: {error}") from None
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(
            f"run.root: {there} is a file, so {folder} cannot be made; set run.root or name to another place"
        )
    if not os.access(there, os.W_OK):
        raise UserError(f"run.root: {there} cannot be written to; set run.root to another place")
    return folder


def _settle(recipe: Recipe, folder: Path) -> Recipe:
    """Resolve machine-dependent values as the run directory has them, or now; refuse a directory of another recipe."""
    kept = folder / "recipe.yaml"
    if not kept.exists() or not any(folder.glob("units/*/*.json")):
        threads = recipe.run.cpu_threads
        return replace(recipe, run=replace(recipe.run, cpu_threads=cores() if threads == "auto" else threads))
    settled = load_recipe(kept)
    if settled.run.cpu_threads == "auto":  # a recipe.yaml edited by hand
        settled = replace(settled, run=replace(settled.run, cpu_threads=cores()))
    told = {name: getattr(recipe.source, name) for name in ON_CARDS_ONLY}
    settled = replace(settled, publish=recipe.publish, source=replace(settled.source, **told))
    auto = replace(recipe, run=replace(recipe.run, root=settled.run.root))
    if recipe.run.cpu_threads == "auto":
        auto = replace(auto, run=settled.run)
    if recipe.recover.stack == "auto":
        auto = replace(auto, recover=replace(auto.recover, stack=settled.recover.stack))
    differing = list(_differences(as_dict(settled), as_dict(auto)))
    if differing:
        raise UserError(
            f"{folder} holds a run of another recipe:\n"
            + "\n".join(f"  {name}: {old!r} there, {new!r} asked for" for name, old, new in differing)
            + "\n  set another name (name=...), or remove the directory to start afresh"
        )
    return replace(settled, run=replace(settled.run, root=recipe.run.root))


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    elif old != new:
        yield name, old, new


def settle_stack(run: Run, size: tuple[int, int], num_classes: int) -> int:
    """Resolve `recover.stack: auto` from image size and class count, once, and keep it in the run's recipe."""
    recover = run.recipe.recover
    if recover.stack != "auto":
        return recover.stack
    block = min(recover.class_block, num_classes)
    stack = max(1, min(recover.ipc, STACKED_PIXELS // (block * size[0] * size[1])))
    run.recipe = replace(run.recipe, recover=replace(recover, stack=stack))
    run.begin()
    return stack


def library_versions() -> dict[str, str]:
    """What runs here, for the cards."""
    return {"srel_hub": __version__} | {name: version(name) for name in LIBRARIES}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_bytes(count: float) -> str:
    """'28.3 GiB'."""
    power = 0
    while count >= 1024 and power < len(UNITS) - 1:
        count, power = count / 1024, power + 1
    return f"{count:.{0 if power == 0 else 1}f} {UNITS[power]}"


def make_accelerator() -> Accelerator:
    """The one place where the Accelerator is built.

    Raises:
        UserError: where the launcher started several processes, or quietly dropped some.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    world = int(os.environ.get("WORLD_SIZE", "1"))
    dropped = "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ
    if world != 1 or accelerator.num_processes != 1 or dropped:
        raise UserError(
            f"WORLD_SIZE={world}, processes seen by Accelerate: {accelerator.num_processes}: this version runs in one "
            "process; start it with: accelerate launch --num_processes 1 -m srel_hub.condense RECIPE"
        )
    return accelerator


def blocks(count: int, size: int) -> list[range]:
    """Runs of `size` consecutive indices; the last may be shorter, but a run of one joins the one before."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


def derive_seed(seed: int, *key: str | int) -> int:
    """A 63-bit seed for one unit of work, from the recipe's seed and the unit's own name."""
    text = "/".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *key: str | int) -> torch.Generator:
    """The random generator of one unit of work: independent of which units ran before, where, or in what order."""
    return torch.Generator().manual_seed(derive_seed(seed, *key))


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is there at the end (a file or a folder) is flushed and renamed.

    All files of a run are written through here, so that a name either holds all of its content or does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")) if temporary.is_dir() else [temporary]:
            if file.is_file():
                _flush(file)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _flush(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cli(stage: Callable[[Run], object], argv: Sequence[str] | None = None) -> None:
    """`RECIPE [key=value ...]` for every stage: load, check, run; a user's mistake ends with status 2."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: python -m srel_hub.{Path(sys.argv[0]).stem} RECIPE_OR_RUN [section.key=value ...]")
        print("python -m srel_hub.recipe schema lists every field")
        sys.exit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    folder, overrides = Path(arguments[0]), arguments[1:]
    if folder.is_dir() and folder.resolve().name in ("dataset", "teacher_repo"):
        print(f"error: {folder} lies in a run; give the run: {folder.parent}", file=sys.stderr)
        sys.exit(2)
    if folder.is_dir():
        overrides = [f"run.root={os.path.relpath(folder.resolve().parent)}", *overrides]
    try:
        stage(Run(load_recipe(folder, overrides)))
    except UserError as error:
        tqdm.write(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        tqdm.write(f"error: {error}; what is done is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        sys.exit(130)
