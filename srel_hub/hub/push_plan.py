"""The plan of a push: the files of a folder, compared with the present content of the repository."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srel_hub import models
from srel_hub.config import Publish
from srel_hub.hub.client import Blob, Kind, LocalFile, State, client, hub_errors, local_file, look, timeouts
from srel_hub.storage.files import format_bytes


NEUTRAL = re.compile(r"\.gitattributes$|README\.md$|LICENSE")  # files that a repository may have before the first push
# The source files of our networks, of which transformers copies one into the teacher's repository.
NETWORK_SOURCES = tuple(sorted(file.name for file in Path(str(models.__file__)).parent.glob("[!_]*.py")))
OWN_FILES: Mapping[Kind, re.Pattern[str]] = {  # that an earlier push may have left, and a later one removes
    "dataset": re.compile("(data|soft_labels|assets)/"),
    "model": re.compile(
        r"(recover|committee-[0-9]+)/|((preprocessor_)?config|metrics)\.json$"
        rf"|model[^/]*\.safetensors(\.index\.json)?$|({'|'.join(map(re.escape, NETWORK_SOURCES))})$"
    ),
}
CARD_TAG = "srel_hub"  # marks a repository as one of srel_hub
LATEST_PULL_REQUESTS = 20

Progress = Callable[[Iterable[Any], int | None, str, str], Iterator[Any]]  # items, total, title, unit


@dataclass(frozen=True)
class Part:
    """The files of a folder and the repository to push them to.

    Attributes:
        repo_id: namespace/name on the Hub.
        kind: 'dataset' or 'model'.
        files: The files, by their paths in the repository.
    """

    repo_id: str
    kind: Kind
    files: Mapping[str, LocalFile]

    def __str__(self) -> str:
        return f"{self.kind} {self.repo_id}"

    @property
    def field(self) -> str:
        """The recipe's field that names the repository."""
        return "publish.repo_id" if self.kind == "dataset" else "publish.teacher_repo_id"

    def is_at(self, state: State | None) -> bool:
        """Return whether a repository already has the state after a push: all of these files and no stale ones."""
        if state is None:
            return False
        return all(file.equals(state.files.get(name)) for name, file in self.files.items()) and not self.stale(state)

    def stale(self, state: State) -> list[str]:
        """Return the files of an earlier push that this push does not contain, by name."""
        return sorted(name for name in state.files if OWN_FILES[self.kind].match(name) and name not in self.files)


def part_of(repo_id: str, kind: Kind, folder: Path, progress: Progress) -> Part:
    """Hash every file of a folder.

    Args:
        repo_id: namespace/name of the repository.
        kind: 'dataset' or 'model'.
        folder: The folder.
        progress: Shows a progress bar.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashed = progress(files, len(files), f"hash {kind}", "file")
    return Part(repo_id, kind, {file.relative_to(folder).as_posix(): local_file(file) for file in hashed})


@dataclass(frozen=True)
class Plan:
    """The changes that a push would make to a repository.

    Attributes:
        part: The files to push.
        spec: The recipe's section `publish`.
        repo: The present state of the repository's main branch; None if the repository does not exist.
        target: The branch to push to; None if it does not exist.
        tagged: The commit of the tag; None if it does not exist.
        done: The commit that already has all files; None if there is no such commit.
    """

    part: Part
    spec: Publish
    repo: State | None
    target: State | None
    tagged: State | None
    done: str | None

    def faults(self) -> list[str]:
        """Return why this push cannot be made, one message per reason; empty if it can."""
        problems = []
        if self.repo is not None and self.repo.private != self.spec.private:
            actual, requested = (_visibility(private) for private in (self.repo.private, self.spec.private))
            problems.append(
                f"publish.private={str(self.spec.private).lower()}: {self.part} already exists and is {actual}, not "
                f"{requested}; set publish.private={str(self.repo.private).lower()}, or {self.part.field} to another "
                "name"
            )
        files = [] if self.target is None else [name for name in self.target.files if not NEUTRAL.match(name)]
        if self.target is not None and files and CARD_TAG not in self.target.tags:
            problems.append(
                f"{self.part} already exists and holds files that are not srel_hub's ({', '.join(files[:3])}); these "
                f"files will not be overwritten; set {self.part.field} to another name"
            )
        if self.tagged is not None and self.done is None:
            problems.append(
                f"publish.tag={self.spec.tag}: {self.part} has this tag with other content, and a tag never moves; "
                "set publish.tag to a new name for a new version"
            )
        if self.repo is None and self.spec.create_pr:
            problems.append(
                f"publish.create_pr=true: {self.part} does not exist, or you may not read it; set "
                "publish.create_pr=false"
            )
        return problems

    @property
    def sent(self) -> list[str]:
        """Names of the files that the push sends."""
        if self.done:
            return []
        present: Mapping[str, Blob] = self.target.files if self.target else {}
        return [name for name, file in self.part.files.items() if not file.equals(present.get(name))]

    @property
    def removed(self) -> list[str]:
        """Names of the files that the push deletes from the repository."""
        return [] if self.done or self.target is None else self.part.stale(self.target)

    def lines(self) -> Iterator[str]:
        """Yield the plan as text: repository, visibility, revision, and every file with its size."""
        spec, sent = self.spec, set(self.sent)
        state = f"new, {_visibility(spec.private)}"
        if self.repo is not None:
            at = "without this branch" if self.target is None else f"at {self.target.sha[:7]}"
            state = f"exists, {_visibility(self.repo.private)}, {at}"
        branch = "a pull request" if spec.create_pr else f"branch {spec.revision or 'main'}"
        tag = f", tag {spec.pinned}" if spec.pinned else ""
        yield f"{self.part} ({state}); to {branch}{tag}"
        for name, file in self.part.files.items():
            exists = self.target is not None and name in self.target.files
            note = "  (unchanged)" if name not in sent else "  (replaces the present file)" if exists else ""
            yield f"{format_bytes(file.size):>12}  {name}{note}"
        for name in self.removed:
            yield f"{'':>12}  {name}  (will be removed)"
        if self.done:
            yield f"  the repository already has all files, at commit {self.done[:7]}: there is nothing to do"
        else:
            size = sum(self.part.files[name].size for name in sent)
            yield f"  to send: {len(sent)} of {len(self.part.files)} files, {format_bytes(size)}"


def _visibility(private: bool) -> str:
    return "private" if private else "public"


@timeouts()
def plan(part: Part, spec: Publish) -> Plan:
    """Read the repository and return the plan of a push, without changing anything.

    Raises:
        UserError: If the repository cannot be read.
        UnavailableError: If the Hub cannot be reached.
    """
    repo = look(part.repo_id, part.kind)
    if repo is None:
        return Plan(part, spec, None, None, None, None)
    target = repo if spec.revision is None else look(part.repo_id, part.kind, spec.revision)
    tagged = None if spec.pinned is None else look(part.repo_id, part.kind, spec.pinned)
    done = None
    if tagged is not None:
        done = tagged.sha if part.is_at(tagged) else None
    elif spec.pinned is None:
        pulls = _pull_requests(part) if spec.create_pr else ()
        done = next((state.sha for state in (target, *pulls) if state is not None and part.is_at(state)), None)
    return Plan(part, spec, repo, target, tagged, done)


def _pull_requests(part: Part) -> Iterator[State | None]:
    """Yield the latest pull requests: one may be from an earlier push whose response was lost."""
    with hub_errors(f"pull requests of {part}"):
        refs = client().list_repo_refs(part.repo_id, repo_type=part.kind, include_pull_requests=True)
    for ref in (refs.pull_requests or [])[-LATEST_PULL_REQUESTS:]:
        yield look(part.repo_id, part.kind, ref.ref)
