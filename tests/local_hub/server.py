"""The Hub's HTTP interface on a Store, with faults on demand and a log of requests.

    python tests/local_hub/server.py          prints its port

Faults and the log are set and read under /_test/, which is not part of the Hub's interface.
"""

import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


sys.path.insert(0, str(Path(__file__).parent.parent))

import yaml  # noqa: E402
from local_hub.store import DATE, TOKENS, Blob, Commit, RefusedError, Repo, Store, User, upload_mode  # noqa: E402


def load_licenses() -> frozenset[str]:
    """Return the identifiers of licenses. The package srel_hub is not imported: it would import the Hub's clients."""
    file = Path(__file__).parent.parent.parent / "srel_hub" / "config" / "licenses.py"
    spec = importlib.util.spec_from_file_location("licenses", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return frozenset(module.LICENSES)


LICENSES = load_licenses()
PAGE = 40  # entries of a tree page: small, so that every listing has several


@dataclass
class Fault:
    """A fault of the nth request from now that matches method and path.

    500, 503, 429: respond with this status. cut: close the connection. lost: process the request, then close the
    connection. hold: wait a minute without processing it. late: process it, then wait a minute. page: respond with a
    page that is not the Hub's. corrupt: flip one bit of the body. truncate: send half of the body.
    """

    kind: str
    nth: int = 1
    method: str = "."
    path: str = "."
    times: int = 1


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class World:
    """All state of one server."""

    def __init__(self) -> None:
        self.store = Store()
        self.lock = threading.Lock()
        self.faults: list[Fault] = []
        self.log: list[dict[str, Any]] = []
        self.storage = ""  # of large files: another origin, as on the Hub

    def reset(self) -> None:
        with self.lock:
            self.store.clear()
            self.faults, self.log = [], []

    def begin(self, method: str, path: str, user: str | None) -> tuple[dict[str, Any], str | None]:
        """Log a request and find the fault that befalls it."""
        with self.lock:
            entry = {"method": method, "path": path, "user": user, "status": None, "fault": None}
            self.log.append(entry)
            for fault in self.faults:
                if re.search(fault.method, method) and re.search(fault.path, path):
                    fault.nth -= 1
                    if fault.nth < 1 and fault.times > 0:
                        fault.times -= 1
                        entry["fault"] = fault.kind
                        return entry, fault.kind
        return entry, None


WORLD = World()
Route = Callable[["Request"], Answer]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(method: str, pattern: str) -> Callable[[Route], Route]:
    """Routes match the raw path: revisions and tree paths are one percent-encoded segment."""

    def add(function: Route) -> Route:
        ROUTES.append((method, re.compile(pattern + "$"), function))
        return function

    return add


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    parts: dict[str, str]
    base: str

    @property
    def store(self) -> Store:
        return WORLD.store

    @property
    def user(self) -> User | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return self.store.user(token if scheme == "Bearer" else None)

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def repo(self, write: bool = False, files: bool = False) -> Repo:
        kind = self.parts.get("kind") or "models"
        return self.store.repo(kind, self.parts["name"], self.user, write, files)

    @property
    def revision(self) -> str:
        return unquote(self.parts.get("rev") or "main")


NAME = r"(?P<name>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{NAME}"
WEB = rf"(?:/(?P<kind>datasets))?/{NAME}"
REV = r"/(?P<rev>[^/]+)"


# Accounts and repositories


@route("GET", "/api/agent-harnesses")
def agent_harnesses(_: Request) -> Answer:
    return Answer.of({})


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Answer:
    user = request.user
    if user is None:
        raise RefusedError(401, "Invalid username or password.")
    orgs = [{"name": name, "roleInOrg": role} for name, role in user.orgs.items()]
    access = {"accessToken": {"displayName": "test", "role": user.role}}
    return Answer.of({"type": "user", "name": user.name, "fullname": user.name, "orgs": orgs, "auth": access})


@route("POST", "/api/repos/create")
def create_repo(request: Request) -> Answer:
    requested, user = request.json, request.user
    kind = {"dataset": "datasets"}.get(requested.get("type", "model"), "models")
    name = f"{requested.get('organization') or (user.name if user else '')}/{requested['name']}"
    url = f"{request.base}/{'datasets/' if kind == 'datasets' else ''}{name}"
    try:
        request.store.create(kind, name, requested.get("visibility") == "private", user)
    except RefusedError as refused:
        if refused.status == 409:
            refused.body["url"] = url
        raise
    return Answer.of({"url": url, "name": name, "id": name})


@route("PUT", f"{API}/settings")
def settings(request: Request) -> Answer:
    repo, requested = request.repo(write=True), request.json
    if "visibility" in requested:
        repo.private = requested["visibility"] == "private"
    if "gated" in requested:
        repo.gated = bool(requested["gated"])
    return Answer.of({})


@route("GET", f"{API}(?:/revision{REV})?")
def repo_info(request: Request) -> Answer:
    repo = request.repo()
    commit = repo.at(request.revision)
    blobs = request.query.get("blobs", ["false"])[0].lower() in ("true", "1")
    siblings = [sibling(path, blob, blobs) for path, blob in sorted(commit.files.items())]
    readme = commit.files.get("README.md")
    card = front_matter(readme.content.decode()) if readme else {}
    return Answer.of(
        {
            "_id": repo.name,
            "id": repo.name,
            "author": repo.namespace,
            "sha": commit.sha,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "lastModified": DATE,
            "createdAt": DATE,
            "tags": card.get("tags", []),
            "cardData": card,
            "siblings": siblings,
        }
    )


def sibling(path: str, blob: Blob, metadata: bool) -> dict[str, Any]:
    if not metadata:
        return {"rfilename": path}
    large = {"lfs": {"sha256": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}}
    return {"rfilename": path, "size": len(blob.content), "blobId": blob.oid, **(large if blob.lfs else {})}


def front_matter(readme: str) -> dict[str, Any]:
    metadata = re.match(r"---\n(.*?)\n---\n", readme.replace("\r\n", "\n"), re.DOTALL)
    loaded = yaml.safe_load(metadata[1]) if metadata else {}
    return loaded if isinstance(loaded, dict) else {}


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    try:
        card = front_matter(request.json["content"])
        unlisted = card.get("license", "unknown") not in LICENSES
        errors = [{"message": '"license" must be one of the identifiers of the Hub'}] if unlisted else []
    except yaml.YAMLError as error:
        errors = [{"message": str(error)}]
    return Answer.of({"errors": errors, "warnings": []}, 400 if errors else 200)


# Files


def entry(path: str, blob: Blob) -> dict[str, Any]:
    large = {"lfs": {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}}
    return {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid, **(large if blob.lfs else {})}


def listing(commit: Commit, below: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{below}/" if below else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(commit.files.items()):
        if path == below:
            return [entry(path, blob)]
        if path.startswith(prefix):
            steps = path[len(prefix) :].split("/")
            for depth in range(1, len(steps)):
                folder = prefix + "/".join(steps[:depth])
                if recursive or depth == 1:
                    entries[folder] = {
                        "type": "directory",
                        "path": folder,
                        "oid": hashlib.sha1(folder.encode()).hexdigest(),
                    }
            if recursive or len(steps) == 1:
                entries[path] = entry(path, blob)
    if below and not entries:
        raise RefusedError(404, f"{below} does not exist", "EntryNotFound")
    return list(entries.values())


@route("GET", rf"{API}/tree{REV}(?:/(?P<below>.+))?")
def tree(request: Request) -> Answer:
    repo = request.repo(files=True)
    commit = repo.at(request.revision)
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries = listing(commit, unquote(request.parts.get("below") or ""), recursive)
    start = int(request.query.get("cursor", ["0"])[0])
    headers = {}
    if start + PAGE < len(entries):
        rest = "".join(f"&{key}={values[0]}" for key, values in request.query.items() if key != "cursor")
        headers["Link"] = f'<{request.base}{request.path}?cursor={start + PAGE}{rest}>; rel="next"'
    return Answer.of(entries[start : start + PAGE], headers=headers)


@route("POST", rf"{API}/paths-info{REV}")
def paths_info(request: Request) -> Answer:
    files = request.repo(files=True).at(request.revision).files
    requested = parse_qs(request.body.decode()).get("paths", [])
    return Answer.of([entry(path, files[path]) for path in requested if path in files])


@route("GET", f"{API}/refs")
def refs(request: Request) -> Answer:
    repo = request.repo()

    def describe(prefix: str, names: Mapping[str, Commit]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": one.sha} for name, one in names.items()]

    answer = {
        "branches": describe("refs/heads/", repo.branches),
        "tags": describe("refs/tags/", repo.tags),
        "converts": [],
    }
    if "include_prs" in request.query:
        answer["pullRequests"] = describe("", repo.pulls)
    return Answer.of(answer)


@route("GET", f"{API}/commits{REV}")
def commits(request: Request) -> Answer:
    history = request.repo().at(request.revision).history()
    return Answer.of(
        [{"id": c.sha, "title": c.title, "message": "", "date": DATE, "authors": [{"user": c.user}]} for c in history]
    )


@route("POST", f"{API}/tag{REV}")
def create_tag(request: Request) -> Answer:
    repo, name = request.repo(write=True), request.json["tag"]
    commit = repo.at(request.revision)
    if name in repo.tags:
        raise RefusedError(409, f"Tag {name} already exists")
    repo.tags[name] = commit
    return Answer.of({})


@route("POST", rf"{API}/branch/(?P<branch>[^/]+)")
def create_branch(request: Request) -> Answer:
    repo, name = request.repo(write=True), unquote(request.parts["branch"])
    if name in repo.branches:
        raise RefusedError(409, f"Reference already exists: {name}")
    repo.branches[name] = repo.at(request.json.get("startingPoint") or "main")
    return Answer.of({})


# Commits


@route("POST", f"{API}/preupload{REV}")
def preupload(request: Request) -> Answer:
    repo = request.repo(write="create_pr" not in request.query)
    files = repo.at(request.revision).files
    answers = []
    for requested in request.json["files"]:
        present = files.get(requested["path"])
        mode = upload_mode(requested["path"], requested["size"], base64.b64decode(requested.get("sample", "")))
        answer = {"path": requested["path"], "uploadMode": mode, "shouldIgnore": False}
        answers.append(answer | ({"oid": present.etag} if present else {}))
    return Answer.of({"files": answers})


@route("POST", rf"{WEB}\.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Answer:
    request.repo(write=True)
    objects = []
    for requested in request.json["objects"]:
        actions = {
            "upload": {"href": f"{WORLD.storage}/_lfs/{requested['oid']}?size={requested['size']}"},
            "verify": {"href": f"{request.base}/_lfs/verify"},
        }
        objects.append({**requested, **({} if requested["oid"] in request.store.objects else {"actions": actions})})
    return Answer.of({"transfer": "basic", "objects": objects})


@route("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})")
def lfs_put(request: Request) -> Answer:
    right = (request.parts["oid"], request.query["size"][0])
    if (hashlib.sha256(request.body).hexdigest(), str(len(request.body))) != right:
        raise RefusedError(400, "The content is not what its name says")
    request.store.objects[request.parts["oid"]] = request.body
    return Answer()


@route("POST", "/_lfs/verify")
def lfs_verify(request: Request) -> Answer:
    stored = request.store.objects.get(request.json["oid"])
    if stored is None or len(stored) != request.json["size"]:
        raise RefusedError(404, "no such object")
    return Answer.of({})


@route("POST", f"{API}/commit{REV}")
def commit(request: Request) -> Answer:
    pr = "create_pr" in request.query
    repo, user = request.repo(write=not pr), request.user
    if user is None or user.role != "write":
        raise RefusedError(403, "This token has no write role")
    lines = [json.loads(line) for line in request.body.splitlines()]
    made = request.store.commit(repo, request.revision, lines, user, pr)
    answer = {"success": True, "commitOid": made.sha, "commitUrl": f"{request.base}/{repo.name}/commit/{made.sha}"}
    if pr:
        answer["pullRequestUrl"] = f"{request.base}/{repo.name}/discussions/{len(repo.pulls)}"
    return Answer.of(answer)


# Downloads


@route("HEAD", rf"{WEB}/resolve{REV}/(?P<file>.+)")
@route("GET", rf"{WEB}/resolve{REV}/(?P<file>.+)")
def resolve(request: Request) -> Answer:
    commit = request.repo(files=True).at(request.revision)
    blob = commit.files.get(unquote(request.parts["file"]))
    if blob is None:
        raise RefusedError(404, "Entry not found", "EntryNotFound", {"headers": {"X-Repo-Commit": commit.sha}})
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if blob.lfs:
        headers |= {"X-Linked-Size": str(len(blob.content)), "X-Linked-ETag": f'"{blob.sha256}"'}
        return Answer(302, b"", {**headers, "Location": f"{WORLD.storage}/_cdn/{blob.sha256}"})
    return ranged(request, blob.content, headers)


@route("HEAD", "/_cdn/(?P<oid>[0-9a-f]{64})")
@route("GET", "/_cdn/(?P<oid>[0-9a-f]{64})")
def cdn(request: Request) -> Answer:
    return ranged(request, request.store.objects[request.parts["oid"]], {"ETag": f'"{request.parts["oid"]}"'})


def ranged(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    requested = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if requested is None:
        return Answer(200, content, headers)
    start, stop = int(requested[1]), min(int(requested[2]) + 1 if requested[2] else len(content), len(content))
    if start >= len(content):
        raise RefusedError(416, "Range Not Satisfiable")
    return Answer(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})


# Collections


@route("POST", "/api/collections")
def create_collection(request: Request) -> Answer:
    requested, user = request.json, request.user
    if user is None or not user.may_write(requested["namespace"]):
        raise RefusedError(403, "You don't have the rights to create a collection under this namespace")
    slug = f"{requested['namespace']}/{re.sub('[^a-z0-9]+', '-', requested['title'].lower())}-{'0' * 24}"
    if slug in request.store.collections:
        raise RefusedError(409, "This collection already exists", body={"slug": slug})
    request.store.collections[slug] = {
        "slug": slug,
        "title": requested["title"],
        "owner": {"name": requested["namespace"]},
        "items": [],
        "lastUpdated": DATE,
        "position": 0,
        "private": bool(requested.get("private")),
        "theme": "blue",
        "upvotes": 0,
    }
    return Answer.of(request.store.collections[slug])


@route("GET", "/api/collections/(?P<slug>[^/]+/[^/]+)")
def get_collection(request: Request) -> Answer:
    return Answer.of(found_collection(request))


@route("POST", "/api/collections/(?P<slug>[^/]+/[^/]+)/items")
def add_item(request: Request) -> Answer:
    collection, item, user = found_collection(request), request.json["item"], request.user
    if user is None or not user.may_write(collection["owner"]["name"]):
        raise RefusedError(403, "You don't have the rights to change this collection")
    if any(one["id"] == item["id"] and one["type"] == item["type"] for one in collection["items"]):
        raise RefusedError(409, "Item already in collection")
    count = len(collection["items"])
    collection["items"].append({"_id": f"{count:024d}", "position": count, **item})
    return Answer.of(collection)


def found_collection(request: Request) -> dict[str, Any]:
    collection = request.store.collections.get(request.parts["slug"])
    if collection is None:
        raise RefusedError(404, "Collection not found")
    return collection


# For the tests themselves


@route("POST", "/_test/reset")
def reset(_: Request) -> Answer:
    WORLD.reset()
    return Answer.of({})


@route("POST", "/_test/faults")
def set_faults(request: Request) -> Answer:
    WORLD.faults = [Fault(**fault) for fault in request.json]
    WORLD.log = []
    return Answer.of({})


@route("GET", "/_test/log")
def get_log(_: Request) -> Answer:
    return Answer.of(WORLD.log)


@route("GET", "/_test/state")
def state(_: Request) -> Answer:
    """Every repository: visibility, and for each branch, tag and pull request its commits and files."""

    def describe(commit: Commit) -> dict[str, Any]:
        files = {path: blob.sha256 for path, blob in sorted(commit.files.items())}
        return {"sha": commit.sha, "titles": [one.title for one in commit.history()], "files": files}

    def refs_of(repo: Repo) -> Iterator[tuple[str, Commit]]:
        yield from (*repo.branches.items(), *repo.tags.items(), *repo.pulls.items())

    repos = {
        f"{kind}/{name}": {"private": repo.private, "refs": {ref: describe(commit) for ref, commit in refs_of(repo)}}
        for (kind, name), repo in WORLD.store.repos.items()
    }
    return Answer.of({"repos": repos, "objects": len(WORLD.store.objects), "collections": WORLD.store.collections})


@route("POST", "/_test/file")
def tamper(request: Request) -> Answer:
    """Put any file into a repository, bypassing the interface; create the repository if needed."""
    requested = request.json
    kind, name = requested["kind"], requested["name"]
    user = User(name.split("/")[0], "write")
    repo = WORLD.store.repos.get((kind, name)) or WORLD.store.create(kind, name, requested.get("private", False), user)
    repo.gated = requested.get("gated", False)
    content = base64.b64decode(requested["content"])
    lines: list[dict[str, Any]] = [{"key": "header", "value": {"summary": "by the back door"}}]
    if upload_mode(requested["path"], len(content), content[:512]) == "lfs":
        oid = hashlib.sha256(content).hexdigest()
        WORLD.store.objects[oid] = content
        value = {"path": requested["path"], "oid": oid, "size": len(content)}
        lines.append({"key": "lfsFile", "value": value})
    else:
        lines.append(
            {
                "key": "file",
                "value": {"path": requested["path"], "content": requested["content"], "encoding": "base64"},
            }
        )
    return Answer.of({"sha": WORLD.store.commit(repo, "main", lines, user, pr=False).sha})


@route("POST", "/_test/tag")
def tag(request: Request) -> Answer:
    requested = request.json
    repo = WORLD.store.repos[requested["kind"], requested["name"]]
    repo.tags[requested["tag"]] = repo.branches["main"]
    return Answer.of({})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self.chunks())
        url = urlsplit(self.path)
        base = f"http://{self.headers['Host']}"
        request = Request(
            self.command,
            url.path,
            parse_qs(url.query, keep_blank_values=True),
            self.headers,  # case-insensitive
            body,
            {},
            base,
        )
        if url.path.startswith("/_test/") or url.path == "/api/agent-harnesses":
            return self.send(answer(request))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        entry, fault = WORLD.begin(self.command, self.path, TOKENS[token].name if token in TOKENS else None)
        if fault == "cut":
            return self.cut()
        if fault == "hold":
            time.sleep(60)
            return self.cut()
        given = answer(request) if fault not in ("500", "503", "429") else Answer.of({"error": "on demand"}, int(fault))
        entry["status"] = given.status
        if fault == "429":
            given.headers["Retry-After"] = "3"
        if fault == "late":
            time.sleep(60)
        if fault in ("lost", "late"):
            return self.cut()
        if fault == "page":
            given = Answer(200, b"<html>Please log in to this network</html>", {"Content-Type": "text/html"})
        if fault == "corrupt" and given.body:
            middle = len(given.body) // 2
            given.body = given.body[:middle] + bytes([given.body[middle] ^ 1]) + given.body[middle + 1 :]
        self.send(given, short=fault == "truncate")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def cut(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, given: Answer, short: bool = False) -> None:
        self.send_response(given.status)
        for name, value in {"Content-Length": str(len(given.body)), **given.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(given.body[: len(given.body) // 2] if short else given.body)
        if short:
            self.wfile.flush()
            self.cut()

    def log_message(self, *_: object) -> None:
        pass


def answer(request: Request) -> Answer:
    for method, pattern, function in ROUTES:
        match = pattern.match(request.path)
        if method == request.method and match:
            request.parts = match.groupdict()
            try:
                return function(request)
            except RefusedError as refused:
                headers = {"X-Error-Message": refused.message, **refused.body.pop("headers", {})}
                if refused.code:
                    headers["X-Error-Code"] = refused.code
                return Answer.of({"error": refused.message, **refused.body}, refused.status, headers)
    legacy = re.match("/api/(models|datasets)/[^/]+$", request.path)  # a name without a namespace
    headers = {"X-Error-Code": "RepoNotFound"} if legacy else {}
    return Answer.of({"error": f"no such endpoint: {request.method} {request.path}"}, 404, headers)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # a client that goes away is part of the tests


if __name__ == "__main__":
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with its starter
    hub, storage = Server(("127.0.0.1", 0), Handler), Server(("127.0.0.1", 0), Handler)
    WORLD.storage = f"http://127.0.0.1:{storage.server_address[1]}"
    threading.Thread(target=storage.serve_forever, daemon=True).start()
    print(hub.server_address[1], flush=True)
    hub.serve_forever()
