"""The plan of a push: the files of a folder, compared with the present content of the repository."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srel_hub import models
from srel_hub.config import Publish
from srel_hub.hub.card_merge import CARD_TAG, REPLACE, merge_cards
from srel_hub.hub.client import Blob, Kind, LocalFile, State, client, file_of, hub_errors, local_file, look, timeouts
from srel_hub.hub.repository import LARGEST_CARD, Repository
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
LATEST_PULL_REQUESTS = 20
README = "README.md"

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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The changes that a push would make to a repository.

    Attributes:
        rendered: The files of the run.
        part: The files to push. Their README.md contains what people wrote into the one on the Hub.
        spec: The recipe's section `publish`.
        repo: The present state of the repository's main branch; None if the repository does not exist.
        target: The branch to push to; None if it does not exist.
        tagged: The commit of the tag; None if it does not exist.
        done: The commit that already has all files; None if there is no such commit.
        lost: Edits to the README.md on the Hub that the push would lose, one message each.
        unchecked: Why the repository could not be read; None if it was.
    """

    rendered: Part
    part: Part
    spec: Publish
    repo: State | None = None
    target: State | None = None
    tagged: State | None = None
    done: str | None = None
    lost: Sequence[str] = ()
    unchecked: str | None = None

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
                f"files will not be overwritten; set {self.part.field} to another name, or, if srel_hub did write "
                f"them, restore the tag {CARD_TAG} in the metadata of README.md"
            )
        problems += [] if self.done else [f"{self.part}: {edit}" for edit in self.lost]
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
        if self.unchecked is not None:
            state = f"not checked, {_visibility(spec.private)}"
        elif self.repo is not None:
            at = "without this branch" if self.target is None else f"at {self.target.sha[:7]}"
            state = f"exists, {_visibility(self.repo.private)}, {at}"
        branch = "a pull request" if spec.create_pr else f"branch {spec.revision or 'main'}"
        tag = f", tag {spec.pinned}" if spec.pinned else ""
        yield f"{self.part} ({state}); to {branch}{tag}"
        for name, file in self.part.files.items():
            yield f"{format_bytes(file.size):>12}  {name}{self._note(name, name in sent)}"
        for name in self.removed:
            yield f"{'':>12}  {name}  (will be removed)"
        if self.done:
            yield f"  the repository already has all files, at commit {self.done[:7]}: there is nothing to do"
        else:
            size = sum(self.part.files[name].size for name in sent)
            most = "at most " if self.unchecked else ""
            yield f"  to send: {most}{len(sent)} of {len(self.part.files)} files, {format_bytes(size)}"
        if self.unchecked is not None:
            yield f"  {self.unchecked}"

    def _note(self, name: str, is_sent: bool) -> str:
        """Return the end of a file's line: what happens to the present file of this name."""
        if not is_sent:
            return "  (unchanged)"
        if self.target is None or name not in self.target.files:
            return ""
        kept = ", keeps what was added by hand" if self.part.files[name] != self.rendered.files[name] else ""
        return f"  (replaces the present file{kept})"


def _visibility(private: bool) -> str:
    return "private" if private else "public"


@timeouts()
def plan(rendered: Part, spec: Publish) -> Plan:
    """Read the repository and return the plan of a push, without changing anything.

    Args:
        rendered: The files of the run.
        spec: The recipe's section `publish`.

    Raises:
        UserError: If the repository cannot be read.
        UnavailableError: If the Hub cannot be reached.
    """
    repo = look(rendered.repo_id, rendered.kind)
    if repo is None:
        return Plan(rendered=rendered, part=rendered, spec=spec)
    target = repo if spec.revision is None else look(rendered.repo_id, rendered.kind, spec.revision)
    tagged = None if spec.pinned is None else look(rendered.repo_id, rendered.kind, spec.pinned)
    if tagged is not None:
        pushed: Iterable[State | None] = [tagged]
    elif spec.pinned is None:
        pushed = [target, *(_pull_requests(rendered) if spec.create_pr else ())]
    else:
        pushed = []
    for state in pushed:
        if state is not None:
            part, lost = with_kept_text(rendered, state, spec.replace_card)
            if part.is_at(state) and not lost:
                done = state.sha
                return Plan(rendered=rendered, part=part, spec=spec, repo=repo, target=target, tagged=tagged, done=done)
    part, lost = with_kept_text(rendered, target or repo, spec.replace_card)  # a new branch starts at the head of main
    return Plan(rendered=rendered, part=part, spec=spec, repo=repo, target=target, tagged=tagged, lost=lost)


def with_kept_text(rendered: Part, state: State, replace: bool) -> tuple[Part, list[str]]:
    """Merge the card with the README.md of a state of the repository.

    Args:
        rendered: The files of the run.
        state: The state.
        replace: Whether edits that cannot be kept are replaced.

    Returns:
        The files with the merged README.md, and the edits that would be lost.
    """
    card = rendered.files.get(README)
    if card is None or README not in state.files or card.equals(state.files[README]):
        return rendered, []
    text, problem = readme_of(rendered, state)
    if problem is not None:
        return rendered, [] if replace else [problem]
    assert isinstance(card.source, Path)
    merged, lost = merge_cards(card.source.read_text(encoding="utf-8"), text, replace)
    return Part(rendered.repo_id, rendered.kind, {**rendered.files, README: file_of(merged.encode())}), lost


def readme_of(part: Part, state: State) -> tuple[str, str | None]:
    """Return the README.md of a state of the repository, or why it cannot be merged."""
    if state.files[README].size > LARGEST_CARD:
        return "", f"README.md has more than {LARGEST_CARD} bytes, so it cannot be merged; shorten it, or {REPLACE}"
    repository = Repository(part.repo_id, part.kind, state.sha, state.files, Path())
    try:
        return repository.fetch(README).read_bytes().decode(), None
    except UnicodeDecodeError:
        return "", f"README.md is not UTF-8 text, so it cannot be merged; repair it, or {REPLACE}"


def _pull_requests(part: Part) -> Iterator[State | None]:
    """Yield the latest pull requests: one may be from an earlier push whose response was lost."""
    with hub_errors(f"pull requests of {part}"):
        refs = client().list_repo_refs(part.repo_id, repo_type=part.kind, include_pull_requests=True)
    for ref in (refs.pull_requests or [])[-LATEST_PULL_REQUESTS:]:
        yield look(part.repo_id, part.kind, ref.ref)
