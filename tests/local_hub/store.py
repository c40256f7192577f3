"""What a Hub holds: users with tokens and roles, repositories of commits, objects named by their sha256.

No git: a commit is a mapping of paths to blobs. Commits are atomic; one names its parent or is refused.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


LARGE = 10 * 1024**2
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png", ".zip")
DATE = "2026-01-01T00:00:00.000Z"


class RefusedError(Exception):
    """An answer other than 200, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str | None = None, body: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, dict(body or {})


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def oid(self) -> str:
        """The git oid: of the pointer where the content is an LFS object."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    user: str
    parent: "Commit | None"
    files: Mapping[str, Blob]

    def history(self) -> "list[Commit]":
        return [self, *(self.parent.history() if self.parent else [])]


@dataclass
class Repo:
    kind: str  # models, datasets
    name: str  # namespace/name
    private: bool
    gated: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    pulls: dict[str, Commit] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.name.split("/")[0]

    def at(self, revision: str) -> Commit:
        for refs in (self.branches, self.tags, self.pulls):
            if revision in refs:
                return refs[revision]
        heads = [*self.branches.values(), *self.tags.values(), *self.pulls.values()]
        for commit in (one for head in heads for one in head.history()):
            if commit.sha == revision:
                return commit
        raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass(frozen=True)
class User:
    name: str
    role: str  # of the token: read, write
    orgs: Mapping[str, str] = field(default_factory=dict)

    def may_write(self, namespace: str) -> bool:
        return self.role == "write" and (
            namespace == self.name or self.orgs.get(namespace) in ("admin", "write", "contributor")
        )


TOKENS = {
    "hf_alice": User("alice", "write", {"lab": "write"}),
    "hf_alice_read": User("alice", "read", {"lab": "write"}),
    "hf_bob": User("bob", "write", {"lab": "read"}),
    "hf_my-name": User("my-name", "write"),  # of the README
    "hf_carol": User("carol", "write"),
}


class Store:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, Any]] = {}

    def user(self, token: str | None) -> User | None:
        if token is None:
            return None
        if token not in TOKENS:
            raise RefusedError(401, "Invalid user token.", "InvalidToken")
        return TOKENS[token]

    def repo(self, kind: str, name: str, user: User | None, write: bool = False, read_files: bool = False) -> Repo:
        repo = self.repos.get((kind, name))
        member = user is not None and repo is not None and (user.name == repo.namespace or repo.namespace in user.orgs)
        if repo is None or (repo.private and not member):
            raise RefusedError(404 if user else 401, "Repository not found", "RepoNotFound")
        if read_files and repo.gated and not member:
            raise RefusedError(403 if user else 401, f"Access to {name} is restricted.", "GatedRepo")
        if write and (user is None or not user.may_write(repo.namespace)):
            raise RefusedError(403, "You don't have the rights to write to this repository")
        return repo

    def create(self, kind: str, name: str, private: bool, user: User | None) -> Repo:
        with self.lock:
            if user is None:
                raise RefusedError(401, "Invalid username or password.")
            if not user.may_write(name.split("/")[0]):
                raise RefusedError(403, f"You don't have the rights to create a {kind[:-1]} under this namespace")
            if (kind, name) in self.repos:
                raise RefusedError(409, f"You already created this {kind[:-1]} repo")
            repo = self.repos[kind, name] = Repo(kind, name, private)
            repo.branches["main"] = self._commit(None, "initial commit", user.name, {})
            return repo

    def commit(self, repo: Repo, revision: str, lines: Iterable[Mapping[str, Any]], user: User, pr: bool) -> Commit:
        """Apply a whole commit, or reject it as a whole."""
        with self.lock:
            head = repo.at(revision)
            if revision not in repo.branches and revision not in repo.pulls:
                raise RefusedError(400, f"{revision} is not a branch")
            files, header = dict(head.files), dict[str, Any]()
            for line in lines:
                key, value = line["key"], line["value"]
                if key == "header":
                    header = value
                elif key == "file":
                    files[value["path"]] = Blob(_decoded(value), lfs=False)
                elif key == "lfsFile":
                    content = self.objects.get(value["oid"])
                    if content is None or len(content) != value["size"]:
                        raise RefusedError(400, f"{value['path']}: LFS object {value['oid']} was never uploaded")
                    files[value["path"]] = Blob(content, lfs=True)
                elif key == "deletedFile":
                    if value["path"] not in files:
                        raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
                    del files[value["path"]]
            if header.get("parentCommit") not in (None, head.sha):
                raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
            commit = self._commit(head, header["summary"], user.name, files, header.get("description", ""))
            if pr:
                repo.pulls[f"refs/pr/{len(repo.pulls) + 1}"] = commit
            else:
                (repo.branches if revision in repo.branches else repo.pulls)[revision] = commit
            return commit

    def _commit(
        self, parent: Commit | None, title: str, user: str, files: Mapping[str, Blob], description: str = ""
    ) -> Commit:
        identity = json.dumps(
            [parent and parent.sha, title, description, user, {path: files[path].oid for path in sorted(files)}]
        )
        sha = hashlib.sha1(identity.encode()).hexdigest()
        return Commit(sha, f"{title}\n\n{description}".strip(), user, parent, dict(files))


def _decoded(value: Mapping[str, Any]) -> bytes:
    return base64.b64decode(value["content"]) if value.get("encoding") == "base64" else value["content"].encode()


def upload_mode(path: str, size: int, sample: bytes) -> str:
    return "lfs" if path.endswith(LFS_SUFFIXES) or size > LARGE or b"\0" in sample else "regular"
