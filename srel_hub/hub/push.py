"""Push a folder to a repository of the Hub: looked at first, in one commit, as often as one likes.

A push is safe to repeat: what is there already is not sent, a state that is there already is not committed, and a tag
never moves. Large files go up first, one commit then makes all of it visible, the tag comes last.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, constants

from srel_hub.config import Publish
from srel_hub.errors import ErrorCollector, UserError
from srel_hub.hub.client import (
    LOGIN,
    Account,
    Blob,
    Kind,
    LocalFile,
    State,
    account,
    client,
    local_file,
    look,
    retried,
    spoken,
)
from srel_hub.storage.files import format_bytes


INERT = re.compile(r"\.gitattributes$|README\.md$|LICENSE")  # may lie in a repository that is not ours yet
OURS: Mapping[Kind, re.Pattern[str]] = {  # what a push may remove when it is ours no more
    "dataset": re.compile("(data|soft_labels|assets)/"),
    "model": re.compile(
        r"recover/|((preprocessor_)?config|metrics)\.json$|model[^/]*\.safetensors(\.index\.json)?$|(convnet|resnet)\.py$"
    ),
}
CARD_TAG = "srel_hub"  # by which a repository is known to be ours
UPLOADED_TOGETHER = 20  # files
LATEST_PULL_REQUESTS = 20

Say = Callable[[str], None]
Progress = Callable[[Iterable[Any], int | None, str, str], Iterator[Any]]


@dataclass(frozen=True)
class Part:
    """A folder and the repository that is to hold it."""

    repo_id: str
    kind: Kind
    files: Mapping[str, LocalFile]

    def __str__(self) -> str:
        return f"{self.kind} {self.repo_id}"

    @property
    def field(self) -> str:
        """The recipe's name of the repository."""
        return "publish.repo_id" if self.kind == "dataset" else "publish.teacher_repo_id"

    def is_at(self, state: State | None) -> bool:
        """Whether a state holds all of our files, and nothing of ours besides."""
        if state is None:
            return False
        return all(file.equals(state.files.get(name)) for name, file in self.files.items()) and not self.stale(state)

    def stale(self, state: State) -> list[str]:
        """Files there that an earlier push may have left and this one has no more."""
        return sorted(name for name in state.files if OURS[self.kind].match(name) and name not in self.files)


def part_of(repo_id: str, kind: Kind, folder: Path, progress: Progress) -> Part:
    """The part that a folder makes, every file of it hashed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashed = progress(files, len(files), f"hash {kind}", "file")
    return Part(repo_id, kind, {file.relative_to(folder).as_posix(): local_file(file) for file in hashed})


@dataclass(frozen=True)
class Plan:
    """What a push finds: the repository, its branch and its tag as they are now; None where they are not there.

    Attributes:
        done: the commit that holds all of it already.
    """

    part: Part
    spec: Publish
    repo: State | None
    target: State | None
    tagged: State | None
    done: str | None

    def faults(self) -> list[str]:
        """Why this push cannot be made."""
        found = []
        if self.repo is not None and self.repo.private != self.spec.private:
            there, asked = ("private" if private else "public" for private in (self.repo.private, self.spec.private))
            found.append(
                f"publish.private={str(self.spec.private).lower()}: {self.part} is there already and {there}, not "
                f"{asked}; set publish.private={str(self.repo.private).lower()}, or {self.part.field} to another name"
            )
        there_now = [] if self.target is None else [name for name in self.target.files if not INERT.match(name)]
        if self.target is not None and there_now and CARD_TAG not in self.target.tags:
            found.append(
                f"{self.part} is there already and holds something else ({', '.join(there_now[:3])}); nothing of it "
                f"will be overwritten; set {self.part.field} to another name"
            )
        if self.tagged is not None and self.done is None:
            found.append(
                f"publish.tag={self.spec.tag}: {self.part} has this tag on another content, and a tag never moves; "
                "set publish.tag to a new one for a new version"
            )
        if self.repo is None and self.spec.create_pr:
            found.append(f"publish.create_pr=true: {self.part} is not there, or you may not see it")
        return found

    @property
    def sent(self) -> list[str]:
        """Files to send."""
        there: Mapping[str, Blob] = self.target.files if self.target else {}
        return [] if self.done else [name for name, file in self.part.files.items() if not file.equals(there.get(name))]

    @property
    def removed(self) -> list[str]:
        return [] if self.done or self.target is None else self.part.stale(self.target)

    def lines(self) -> Iterator[str]:
        """The plan for a person: repository, visibility, revision, every file with its size, what is there."""
        spec, sent = self.spec, set(self.sent)
        state = f"new, {'private' if spec.private else 'public'}"
        if self.repo is not None:
            at = "without this branch" if self.target is None else f"at {self.target.sha[:7]}"
            state = f"there already, {'private' if self.repo.private else 'public'}, {at}"
        branch = "a pull request" if spec.create_pr else f"branch {spec.revision or 'main'}"
        tag = f", tag {spec.pinned}" if spec.pinned else ""
        yield f"{self.part} ({state}); to {branch}{tag}"
        for name, file in self.part.files.items():
            there = self.target is not None and name in self.target.files
            note = "  (there already)" if name not in sent else "  (in place of what is there)" if there else ""
            yield f"{format_bytes(file.size):>12}  {name}{note}"
        for name in self.removed:
            yield f"{'':>12}  {name}  (will be removed)"
        if self.done:
            yield f"  all of it is there already, as commit {self.done[:7]}: nothing to do"
        else:
            size = sum(self.part.files[name].size for name in sent)
            yield f"  to send: {len(sent)} of {len(self.part.files)} files, {format_bytes(size)}"


def plan(part: Part, spec: Publish) -> Plan:
    """Look at the repository; nothing is changed.

    Raises:
        UserError, UnavailableError: where it cannot be looked at.
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
    """The latest pull requests: one of them may be ours, its answer lost."""
    with spoken(f"pull requests of {part}"):
        refs = client().list_repo_refs(part.repo_id, repo_type=part.kind, include_pull_requests=True)
    for ref in (refs.pull_requests or [])[-LATEST_PULL_REQUESTS:]:
        yield look(part.repo_id, part.kind, ref.ref)


def push(first: Plan, description: str, say: Say, progress: Progress) -> str:
    """Make the repository hold the part; tried again where the Hub is not available.

    Args:
        first: the plan as it was shown; what changed since by other hands is not overwritten.
        description: the rest of the commit's message.

    Returns:
        the commit.

    Raises:
        UserError: with the plan's faults, or what the Hub refuses.
        UnavailableError: where it stays away; the same call goes on from there.
    """
    return retried(partial(_push, first, description, progress), say)


def _push(first: Plan, description: str, progress: Progress) -> str:
    part, spec = first.part, first.spec
    now = plan(part, spec)
    if now.repo is None:
        with spoken(f"creating {part}"):
            client().create_repo(part.repo_id, repo_type=part.kind, private=spec.private, exist_ok=True)
        now = plan(part, spec)
    if now.target is None and not now.faults():
        with spoken(f"branch {spec.revision} of {part}"):
            client().create_branch(part.repo_id, branch=str(spec.revision), repo_type=part.kind, exist_ok=True)
        now = plan(part, spec)
    if now.faults():
        raise UserError("\n".join(now.faults()))
    if now.done is not None:
        return now.done
    assert now.target is not None
    sha = now.target.sha if part.is_at(now.target) else _commit(now, now.target, first, description, progress)
    if spec.pinned is not None:
        with spoken(f"tag {spec.pinned} of {part}"):
            client().create_tag(part.repo_id, tag=spec.pinned, revision=sha, repo_type=part.kind, exist_ok=True)
        tagged = look(part.repo_id, part.kind, spec.pinned)
        if tagged is None or tagged.sha != sha:
            raise UserError(f"tag {spec.pinned} of {part}: somebody else set it meanwhile; set publish.tag to another")
    return sha


def _commit(now: Plan, target: State, first: Plan, description: str, progress: Progress) -> str:
    """One commit on top of the state that the plan was made for."""
    part, spec = now.part, now.spec
    seen = first.target or first.repo  # a new branch begins as the repository's main one
    empty = all(INERT.match(name) for name in target.files)
    if target.sha != seen.sha if seen is not None else not empty:
        raise UserError(f"{part}: somebody else changed it meanwhile; look at what is there now, then run this again")
    where: dict[str, Any] = {"repo_id": part.repo_id, "repo_type": part.kind, "create_pr": spec.create_pr}
    where["revision"] = spec.revision
    additions = [CommitOperationAdd(name, part.files[name].path) for name in now.sent]
    groups = [additions[start : start + UPLOADED_TOGETHER] for start in range(0, len(additions), UPLOADED_TOGETHER)]
    with spoken(f"uploading to {part}"):
        for group in progress(groups, len(groups), f"upload {part}", "group"):
            client().preupload_lfs_files(additions=group, **where)
    with spoken(f"committing to {part}"):
        made = client().create_commit(
            operations=[*additions, *(CommitOperationDelete(name) for name in now.removed)],
            commit_message=spec.commit_message or "Publish with srel_hub",
            commit_description=description,
            parent_commit=target.sha or None,
            **where,
        )
    return str(made.oid)


def collect(spec: Publish, parts: Iterable[Part]) -> None:
    """Add repositories to the collection, which is made where a title names none."""
    if spec.collection is None:
        return
    with spoken(f"collection {spec.collection}"):
        slug = spec.collection
        if "/" not in slug:
            namespace = str(spec.repo_id).split("/")[0]
            made = client().create_collection(slug, namespace=namespace, private=spec.private, exists_ok=True)
            slug = made.slug
        for part in parts:
            client().add_collection_item(slug, part.repo_id, part.kind, exists_ok=True)


def require_permission(spec: Publish, license: str) -> list[str]:
    """What can be known of a push before there is anything to push: license, token, role, the repositories.

    Returns:
        what the user should hear.

    Raises:
        UserError: with every fault at once.
        UnavailableError: where the Hub is not.
    """
    if spec.repo_id is None or spec.teacher is None:
        return []
    if constants.is_offline_mode():
        raise UserError(f"publish.repo_id={spec.repo_id}: HF_HUB_OFFLINE is set; unset it, or set publish.dry_run=true")
    faults, remarks = ErrorCollector(), list[str]()
    with faults.collect():
        require_license(spec, license)
    with faults.collect():
        who = account()
        if who is None:
            raise UserError(f"publish.repo_id={spec.repo_id}: you are not logged in on the Hub; {LOGIN}, role write")
        repositories: dict[tuple[str, Kind], str] = {
            (spec.teacher, "model"): "teacher_repo_id",
            (spec.repo_id, "dataset"): "repo_id",
        }
        for (repo_id, kind), field in repositories.items():
            with faults.collect():
                remarks += _require_place(spec, repo_id, kind, field, who)
    faults.raise_all()
    return remarks


def require_license(spec: Publish, license: str) -> None:
    """Refuse to show the public something whose license nobody knows.

    Raises:
        UserError: saying what to set.
    """
    if not spec.private and license == "unknown":
        raise UserError(
            "publish.private=false: source.license is unknown, and a public dataset needs one; set source.license "
            "(and source.terms) to the source's, or publish.private=true"
        )


def _require_place(spec: Publish, repo_id: str, kind: Kind, field: str, who: Account) -> list[str]:
    refused = None if spec.create_pr else who.refusal(repo_id.split("/")[0])
    if refused is not None:
        raise UserError(f"publish.{field}={repo_id}: {refused}")
    found = Plan(Part(repo_id, kind, {}), spec, repo := look(repo_id, kind), repo, None, None).faults()
    if found:
        raise UserError("\n".join(found))
    if repo is not None and spec.pinned is not None and look(repo_id, kind, spec.pinned) is not None:
        return [
            f"note: {kind} {repo_id} has the tag {spec.pinned} already; unless its content comes out the same, the "
            "push will be refused: a tag never moves. For a new version set publish.tag to a new one"
        ]
    return []
