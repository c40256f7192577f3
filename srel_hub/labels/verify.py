"""Verify that a condensed dataset, in a folder or on the Hub, matches its manifest and card.

    srel-hub verify org/srel-in1k-ipc50 --revision v1.0
    srel-hub verify runs/quickstart/dataset --fast

It prints one line per check and exits with status 0 if all pass. `--fast` downloads no labels. No file is trusted: any
error inside a check is a failure of that check.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from srel_hub.config.arguments import require_flag
from srel_hub.errors import CodeNeededError, UserError, first_line
from srel_hub.hub.repository import Store
from srel_hub.labels import checks
from srel_hub.labels.checks import Subject
from srel_hub.labels.manifest import MANIFEST, Manifest
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.labels.replay import replay
from srel_hub.labels.repository_files import open_dataset


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: The name of the check, such as 'files' or 'replay'.
        passed: Whether it passed; None if it was skipped.
        message: The facts that were checked, or the reason for the failure.
    """

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        """Return one line of text. Unprintable characters, which a hostile file may contain, become '?'."""
        message = "".join(letter if letter.isprintable() else "?" for letter in self.message)
        return f"{ {True: 'ok', False: 'FAILED', None: '-'}[self.passed]:<7}{self.name}: {message}"


@dataclass(frozen=True)
class Verification:
    """The result of `verify_dataset`. It is true if no check failed.

    Attributes:
        checks: The result of every check, in order.
    """

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed. Skipped checks do not count."""
        return not self.failures

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line of text per check, as `srel-hub verify` prints them."""
        return tuple(str(check) for check in self.checks)

    def __bool__(self) -> bool:
        """Return whether no check failed, so that `assert verify_dataset(...)` works."""
        return self.passed

    def __str__(self) -> str:
        """Return all lines."""
        return "\n".join(self.lines)


def verify_dataset(
    path: str | Path, revision: str | None = None, *, fast: bool = False, imports: Sequence[str] = ()
) -> Verification:
    """Check whether a condensed dataset matches its manifest and card.

    The checks compare the sizes and sha256 of all files, image sizes, pixels, class names, label ranges and the
    teacher's accuracy on the images with the manifest. They also compare a random sample of the stored labels with the
    teacher's logits on the same views.

    Args:
        path: A dataset on the Hub, `namespace/name`, or a folder such as `runs/quickstart/dataset`.
        revision: A branch, tag or commit on the Hub; by default the newest commit of `main`.
        fast: Skip the checks that download labels.
        imports: Modules to import with the code of the teacher's network, such as `my_net` for my_net.py in the current
            folder. Required only for a teacher whose network is its author's own code.

    Returns:
        The result of every check.

    Raises:
        UserError: If an argument has the wrong type, there is no such dataset or revision, or its teacher needs code
            that `imports` does not name. A damaged dataset raises nothing: its checks fail.
        UnavailableError: If the Hub cannot be reached and the cache does not have the dataset. It is an OSError.

    Examples:
        >>> from srel_hub import verify_dataset
        >>> verification = verify_dataset("runs/quickstart/dataset")
        >>> verification.passed
        True
        >>> for check in verification.failures:
        ...     print(check)
    """
    require_flag("fast", fast)
    if imports:
        # Imported here: transformers takes a second.
        from srel_hub.teachers.own_code import import_modules

        import_modules(imports, "imports")
    return Verification(tuple(verify(path, revision, fast)))


def verify(path: str | Path, revision: str | None = None, fast: bool = False) -> Iterator[Check]:
    """Yield the result of each check; only the first result if the manifest cannot be read.

    Raises:
        UserError, UnavailableError: See `verify_dataset`.
    """
    store = open_dataset(path, revision)
    try:
        manifest = read_manifest(store.fetch(MANIFEST))
    except UserError as error:
        yield Check("manifest", False, _one_line(error))
        return
    yield Check("manifest", True, _describe(store, manifest))
    subject = Subject(store, manifest, fast)
    for name, check in CHECKS.items():
        yield _run(name, check, subject)


def _run(name: str, check: "Callable[[Subject], str | None]", subject: Subject) -> Check:
    allow_tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # its 10-bit mantissa would fail comparisons with float32 labels
    try:
        message = check(subject)
    except CodeNeededError:
        raise  # nothing is wrong with the dataset, and all later checks need the same code
    except UserError as error:
        return Check(name, False, _one_line(error))
    except Exception as error:  # hostile files may make any library raise anything
        return Check(name, False, f"{type(error).__name__}: {first_line(error)}")
    finally:
        torch.backends.cudnn.allow_tf32 = allow_tf32
    return Check(name, None, "skipped (--fast)") if message is None else Check(name, True, message)


def _one_line(error: UserError) -> str:
    return "; ".join(str(error).splitlines())


def _describe(store: Store, manifest: Manifest) -> str:
    return (
        f"{store}: format {manifest.version}, {manifest.num_images} images of {manifest.num_classes} classes, "
        f"{manifest.epochs} stored epoch{'s' if manifest.epochs != 1 else ''} of labels ({manifest.coding})"
    )


CHECKS: "dict[str, Callable[[Subject], str | None]]" = {
    "files": checks.check_files,
    "card": checks.check_card,
    "images": checks.check_images,
    "teacher": checks.check_teacher,
    "class names": checks.check_class_names,
    "soft labels": checks.check_soft_labels,
    "accuracy": checks.check_accuracy,
    "replay": replay,
}
