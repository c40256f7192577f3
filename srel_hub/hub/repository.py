"""A published repository: a local folder, or the Hub at one commit. Its files are checked on first use."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils.tqdm import silent_tqdm

from srel_hub.config.places import expanded, missing_place, nearest_place, unreachable
from srel_hub.errors import UnavailableError, UserError
from srel_hub.hub.client import (
    LOGIN,
    Blob,
    Kind,
    client,
    hub_errors,
    local_file,
    look,
    retried,
    timeouts,
)
from srel_hub.storage.files import require_no_pointer


DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
LARGEST_TEXT = 20_000_000  # bytes of a manifest; 300 epochs of ImageNet-21K in 40 files each are 3 million
LARGEST_CARD = 2_000_000  # bytes; a thousand class names are 30,000
METADATA = re.compile(r"\s*---[ \t]*\n(.*?\n|)---[ \t]*(?:\n|$)", re.DOTALL)  # at the head of a card
MOST_YAML_NODES = 1_000_000  # with its aliases expanded


@dataclass(frozen=True)
class Folder:
    """A repository in a local folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """Return every file, by its path in the repository."""
        files = (file for file in self.path.rglob("*") if file.is_file())
        return sorted(file.relative_to(self.path).as_posix() for file in files)

    def blob(self, name: str) -> Blob | None:
        """Return the size of a file without a digest, because the file itself can be read; None if it is missing."""
        file = self.path / name
        return Blob(file.stat().st_size, "") if file.is_file() else None

    def fetch(self, name: str) -> Path:
        """Return the local path of a file.

        Raises:
            UserError: If the file is missing, or is a Git LFS pointer.
        """
        if not (self.path / name).is_file():
            raise UserError(
                f"{self.path / name} is missing, so {self.path} is not complete; copy or download the folder again"
            )
        require_no_pointer(self.path / name)
        return self.path / name


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub at one commit. Files in the cache are not downloaded again.

    Attributes:
        repo_id: namespace/name.
        kind: 'dataset' or 'model'.
        commit: The commit.
        files: The Hub's list of files; None if the Hub could not be reached and only the cache is used.
        snapshot: The folder of this commit in the cache.
        checked: The files whose digests were already compared.
    """

    repo_id: str
    kind: Kind
    commit: str
    files: Mapping[str, Blob] | None
    snapshot: Path
    checked: set[str] = field(default_factory=set, compare=False)

    def __str__(self) -> str:
        return f"{self.repo_id} at {self.commit[:7]}"

    def names(self) -> list[str]:
        """Return the names of all files in the repository; if the Hub cannot be reached, only the cached files."""
        return Folder(self.snapshot).names() if self.files is None else sorted(self.files)

    def blob(self, name: str) -> Blob | None:
        """Return the Hub's size and digest of a file, without downloading it; None if it is missing."""
        return Folder(self.snapshot).blob(name) if self.files is None else self.files.get(name)

    def fetch(self, name: str) -> Path:
        """Download a file if needed, compare its digest on first use, and return its local path.

        Raises:
            UserError: If the file is missing, or still damaged after a second download.
            UnavailableError: If the Hub cannot be reached.
        """
        path = self._download(name)
        if name not in self.checked:
            if not self._is_whole(name, path):
                if self.files is None:
                    raise UserError(
                        f"{self}: {name} is damaged in the cache, and the Hub cannot be reached to download it again; "
                        f"remove {path}, then load the dataset again when the Hub is reachable"
                    )
                path = self._download(name, force=True)
            if not self._is_whole(name, path):
                raise UserError(
                    f"{self}: {name} was downloaded twice, and was damaged both times: its digest differs from "
                    "the Hub's. Try again later; if it happens again, report it to the owner of the repository"
                )
            self.checked.add(name)
        return path

    def _download(self, name: str, force: bool = False) -> Path:
        with hub_errors(f"{self}: {name}"):
            try:
                return _download(self.repo_id, name, self.kind, self.commit, force_download=force)
            except LocalEntryNotFoundError as error:
                raise UnavailableError(f"{self}: {name} is not in the cache, and the Hub cannot be reached") from error
            except EntryNotFoundError:
                raise UserError(
                    f"{self}: {name} is missing, so the repository is not complete; choose another revision"
                ) from None

    def _is_whole(self, name: str, path: Path) -> bool:
        """Return whether a file has the Hub's digest; huggingface_hub compares sizes only.

        Without the Hub, the digest is the name of the file in the cache that the snapshot links to. Without symbolic
        links, as on most Windows machines, that name and therefore the digest are unknown.
        """
        blob = None if self.files is None else self.files.get(name)
        expected = blob.digest if blob else path.resolve().name
        local = local_file(path)
        return expected in (local.sha256, local.git) or not DIGEST.fullmatch(expected)


def _download(
    repo_id: str,
    name: str,
    kind: Kind,
    revision: str | None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Download a file without a progress bar: a bar per label file would break into the bar of a training."""
    quiet: Any = silent_tqdm  # accepted, but not a subclass of tqdm as the annotation says
    path = hf_hub_download(
        repo_id,
        name,
        repo_type=kind,
        revision=revision,
        force_download=force_download,
        local_files_only=local_files_only,
        tqdm_class=quiet,
    )
    return Path(path)


Store = Folder | Repository


def open_store(path: str | Path, kind: Kind, revision: str | None = None, probe: str = "README.md") -> Store:
    """Open a local folder, or a repository of the Hub at a branch, tag or commit.

    A revision is looked up on the Hub each time. If the Hub cannot be reached, the cached commit of that revision is
    used, with a warning.

    Args:
        path: A folder, or namespace/name on the Hub.
        kind: 'dataset' or 'model'.
        revision: A branch, tag or commit; by default `main`.
        probe: A file that every such repository has.

    Raises:
        UserError: If there is no such folder, repository or revision, or it may not be read.
        UnavailableError: If the Hub cannot be reached and the cache does not contain the repository.
    """
    if not str(path):
        raise UserError(f"the path is empty; pass a folder, or namespace/name of a {kind} on the Hub")
    folder = expanded(path)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{path} is a local folder and has no revision {revision}; omit the revision")
        return Folder(folder)
    if folder.exists():
        raise UserError(f"{path} is a file; pass the folder that contains the {kind}")
    missing = missing_place(str(path), namespace=True)
    if missing is not None:
        raise UserError(f"{path}: {missing}; a {kind} on the Hub is named namespace/name")
    try:
        return open_repository(str(path), kind, revision, probe)
    except UnavailableError as error:
        reason = str(error).removeprefix(f"{kind} {path}: ")
        raise unreachable(f"{kind} {path}", str(path), reason) from error


def open_repository(repo_id: str, kind: Kind, revision: str | None, probe: str) -> Repository:
    """Open a repository of the Hub like `open_store`, even if a local folder has the same name."""
    try:
        state = retried(partial(look, repo_id, kind, revision), lambda _: None, waits=(1.0,))
    except UnavailableError as error:
        cached = _cached(repo_id, kind, revision or "main", probe)
        if cached is None:
            raise UnavailableError(f"{error}; {revision or 'main'} of {repo_id} is not in the cache") from error
        if cached.commit != revision:  # a branch or tag may have moved, a commit cannot
            warnings.warn(
                f"{error}; using the cached {repo_id}, in which {revision or 'main'} was commit {cached.commit[:7]}",
                stacklevel=3,
            )
        return cached
    if state is None:
        raise UserError(_not_found(repo_id, kind, revision))
    if probe in state.files and state.files[probe].size > LARGEST_TEXT:
        raise UserError(f"{repo_id}: {probe} has {state.files[probe].size} bytes; at most {LARGEST_TEXT} are allowed")
    with hub_errors(f"{kind} {repo_id}"):
        try:
            # By revision, not by commit, so that the cache records the commit of the revision.
            file = _download(repo_id, probe, kind, revision)
        except EntryNotFoundError:
            where = "on main" if revision is None else f"at {revision}"
            raise UserError(f"{kind} {repo_id} has no {probe} {where}; its tags: {_tags(repo_id, kind)}") from None
    snapshot = file.parents[probe.count("/")]
    if snapshot.name != state.sha:
        snapshot = snapshot.with_name(state.sha)  # someone pushed between the two requests
    return Repository(repo_id, kind, state.sha, state.files, snapshot)


def _cached(repo_id: str, kind: Kind, revision: str, probe: str) -> Repository | None:
    try:
        file = _download(repo_id, probe, kind, revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    snapshot = file.parents[probe.count("/")]
    return Repository(repo_id, kind, snapshot.name, None, snapshot)


def _not_found(repo_id: str, kind: Kind, revision: str | None) -> str:
    if revision is not None and look(repo_id, kind) is not None:
        return f"{repo_id} has no revision {revision}; its tags: {_tags(repo_id, kind)}"
    other: Kind = "model" if kind == "dataset" else "dataset"
    if look(repo_id, other) is not None:
        return f"{repo_id} is a {other} on the Hub, not a {kind}"
    return (
        f"{repo_id}: there is no local folder of this name, and no {kind} on the Hub that you may read"
        f"{nearest_place(repo_id)}; check the spelling; if it is private, {LOGIN}"
    )


def _tags(repo_id: str, kind: Kind) -> str:
    with hub_errors(f"{kind} {repo_id}"), timeouts():
        return ", ".join(tag.name for tag in client().list_repo_refs(repo_id, repo_type=kind).tags) or "none"


def front_matter(store: Store) -> object:
    """Return the YAML metadata at the head of a repository's README.md.

    The file may come from anyone, so its size and the number of its values, with all aliases expanded, are limited.

    Raises:
        UserError: If the metadata is missing, too large or not plain YAML.
    """
    blob = store.blob("README.md")
    if blob is not None and blob.size > LARGEST_CARD:
        raise UserError(f"{store}: README.md has {blob.size} bytes, but a card of srel_hub has at most {LARGEST_CARD}")
    text = store.fetch("README.md").read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    metadata = METADATA.match(text)
    if metadata is None:
        raise UserError(f"{store}: README.md does not begin with metadata between two lines ---")
    return parse_metadata(metadata[1], f"{store}: the metadata of README.md")


def parse_metadata(source: str, where: str) -> object:
    """Return the values of YAML metadata, which may come from anyone.

    Args:
        source: The YAML text.
        where: The name of the metadata, for messages.

    Raises:
        UserError: If the metadata is not plain YAML, or expands to too many values.
    """
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
        if _nodes(root, {}) > MOST_YAML_NODES:
            raise UserError(f"{where} expands to more than {MOST_YAML_NODES} values")
        return yaml.safe_load(source)
    except UserError:
        raise
    except Exception as error:  # hostile YAML makes its parser raise almost anything
        raise UserError(f"{where} is not plain YAML ({type(error).__name__})") from None


def _nodes(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Count the nodes below a YAML node with all aliases expanded; `known` stores the counts of shared nodes."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_YAML_NODES + 1  # in case it contains itself
        below = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_nodes(child, known) for child in below)
    return known[id(node)]
