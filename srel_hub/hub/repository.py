"""Where a published repository lies: a folder, or the Hub at one commit. Its files, each checked when first used."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from srel_hub.errors import UserError
from srel_hub.hub.client import LOGIN, Blob, Kind, UnavailableError, client, local_file, look, retried, spoken


DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
LARGEST_TEXT = 20_000_000  # bytes of a manifest; 300 epochs of ImageNet-21K in 40 files each are 3 million
LARGEST_CARD = 2_000_000  # bytes; a thousand class names are 30,000
MOST_YAML_NODES = 1_000_000  # after its aliases are written out


@dataclass(frozen=True)
class Folder:
    """A repository in a local folder."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """Every file, by its path in the repository."""
        files = (file for file in self.path.rglob("*") if file.is_file())
        return sorted(file.relative_to(self.path).as_posix() for file in files)

    def blob(self, name: str) -> Blob | None:
        """Size, and no digest: what is here is looked at."""
        file = self.path / name
        return Blob(file.stat().st_size, "") if file.is_file() else None

    def fetch(self, name: str) -> Path:
        """The local path of a file.

        Raises:
            UserError: where it is not there.
        """
        if not (self.path / name).is_file():
            raise UserError(f"{self.path / name} is missing: {self.path} is not complete")
        return self.path / name


@dataclass(frozen=True)
class Repository:
    """A repository of the Hub at one commit; what is in the cache is not asked for again.

    Attributes:
        files: what the Hub says is there; None where it could not be asked, and only the cache is left.
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
        """Every file, by its path in the repository; without the Hub, those in the cache."""
        return Folder(self.snapshot).names() if self.files is None else sorted(self.files)

    def blob(self, name: str) -> Blob | None:
        """Size and digest of a file as the Hub tells them, without downloading it."""
        return Folder(self.snapshot).blob(name) if self.files is None else self.files.get(name)

    def fetch(self, name: str) -> Path:
        """The local path of a file, downloaded where need be; its digest is compared when it is first used.

        Raises:
            UserError: where it is not there, or comes damaged twice.
            UnavailableError: where the Hub cannot be reached.
        """
        path = self._download(name)
        if name not in self.checked:
            if not self._is_whole(name, path):
                if self.files is None:
                    raise UserError(
                        f"{self}: {name} is damaged in the cache, and the Hub cannot be reached to fetch it anew; "
                        f"remove {path}, and load the dataset once with the Hub"
                    )
                path = self._download(name, anew=True)
            if not self._is_whole(name, path):
                raise UserError(
                    f"{self}: {name} was damaged on its way here, twice: its digest is not what the Hub tells. "
                    "Try again later; if it stays so, tell the dataset's owner"
                )
            self.checked.add(name)
        return path

    def _download(self, name: str, anew: bool = False) -> Path:
        with spoken(f"{self}: {name}"):
            try:
                return Path(
                    hf_hub_download(self.repo_id, name, repo_type=self.kind, revision=self.commit, force_download=anew)
                )
            except LocalEntryNotFoundError as error:
                raise UnavailableError(f"{self}: {name} is not in the cache, and the Hub cannot be reached") from error
            except EntryNotFoundError:
                raise UserError(f"{self}: {name} is missing: it is not complete") from None

    def _is_whole(self, name: str, path: Path) -> bool:
        """The clients compare sizes only. The cache keeps a file under the name of its digest."""
        blob = None if self.files is None else self.files.get(name)
        expected = blob.digest if blob else path.resolve().name
        found = local_file(path)
        return expected in (found.sha256, found.git) or not DIGEST.fullmatch(expected)


Store = Folder | Repository


def open_store(path: str | Path, kind: Kind, revision: str | None = None, probe: str = "README.md") -> Store:
    """A folder, or a repository of the Hub at a branch, tag or commit (by default `main`).

    A revision is looked up on the Hub each time. Where that cannot be reached, the commit that the revision had when
    it was last seen is taken from the cache, with a warning that says so.

    Args:
        probe: a file that such a repository always has.

    Raises:
        UserError: where there is no such folder, repository or revision that may be read.
        UnavailableError: where the Hub cannot be reached and the cache does not have it.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{path} is a local folder and has no revision {revision}; leave that out")
        return Folder(folder)
    return open_repository(str(path), kind, revision, probe)


def open_repository(repo_id: str, kind: Kind, revision: str | None, probe: str) -> Repository:
    """As `open_store`, of the Hub alone."""
    path = repo_id
    if repo_id.startswith(("/", ".", "~")) or repo_id.count("/") > 1:
        raise UserError(f"{path}: there is no such folder; a {kind} on the Hub is named namespace/name")
    try:
        state = retried(partial(look, repo_id, kind, revision), lambda _: None, waits=(1.0,))
    except UnavailableError as error:
        cached = _cached(repo_id, kind, revision or "main", probe)
        if cached is None:
            raise UnavailableError(f"{error}; {revision or 'main'} of {repo_id} is not in the cache") from error
        if cached.commit != revision:  # a commit does not change, what it is called may
            warnings.warn(
                f"{error}; using {repo_id} as it was when last seen here: {revision or 'main'} was commit "
                f"{cached.commit[:7]}",
                stacklevel=3,
            )
        return cached
    if state is None:
        raise UserError(_not_found(repo_id, kind, revision))
    if probe in state.files and state.files[probe].size > LARGEST_TEXT:
        raise UserError(f"{repo_id}: {probe} has {state.files[probe].size} bytes, more than {LARGEST_TEXT}")
    with spoken(f"{kind} {repo_id}"):  # by revision, so that the cache learns which commit that is
        try:
            file = Path(hf_hub_download(repo_id, probe, repo_type=kind, revision=revision))
        except EntryNotFoundError:
            where = "on main" if revision is None else f"at {revision}"
            raise UserError(f"{kind} {repo_id} has no {probe} {where}; its tags: {_tags(repo_id, kind)}") from None
    snapshot = file.parents[probe.count("/")]
    if snapshot.name != state.sha:
        snapshot = snapshot.with_name(state.sha)  # somebody pushed meanwhile
    return Repository(repo_id, kind, state.sha, state.files, snapshot)


def _cached(repo_id: str, kind: Kind, revision: str, probe: str) -> Repository | None:
    try:
        file = Path(hf_hub_download(repo_id, probe, repo_type=kind, revision=revision, local_files_only=True))
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
        f"{repo_id}: no local folder, and no {kind} on the Hub that you may read; check the spelling; if it is "
        f"private, {LOGIN}"
    )


def _tags(repo_id: str, kind: Kind) -> str:
    with spoken(f"{kind} {repo_id}"):
        return ", ".join(tag.name for tag in client().list_repo_refs(repo_id, repo_type=kind).tags) or "none"


def front_matter(store: Store) -> object:
    """The YAML at the head of a repository's README.md, from whomever it is: small, and small when written out.

    Raises:
        UserError: for what is no card, or no harmless one.
    """
    blob = store.blob("README.md")
    if blob is not None and blob.size > LARGEST_CARD:
        raise UserError(f"{store}: README.md has {blob.size} bytes, more than {LARGEST_CARD}: not a card of ours")
    text = store.fetch("README.md").read_text(encoding="utf-8", errors="replace")
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
    if found is None:
        raise UserError(f"{store}: README.md does not begin with metadata between two lines ---")
    try:
        root = yaml.compose(found[1], Loader=yaml.SafeLoader)
        if _nodes(root, {}) > MOST_YAML_NODES:
            raise UserError(f"{store}: README.md: its metadata unfolds to more than {MOST_YAML_NODES} values")
        return yaml.safe_load(found[1])
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's YAML makes its reader stumble over
        raise UserError(f"{store}: README.md: its metadata is no plain YAML ({type(error).__name__})") from None


def _nodes(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many nodes a YAML node has when its aliases are written out; the count stands for shared nodes."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_YAML_NODES + 1  # should it contain itself
        below = [child for pair in node.value for child in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(_nodes(child, known) for child in below)
    return known[id(node)]
