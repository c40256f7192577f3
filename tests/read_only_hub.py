"""The least of the Hub that downloads of public dataset and model repositories need, on 127.0.0.1, from a folder.

python read_only_hub.py FOLDER      serves FOLDER/datasets/org/name and FOLDER/org/name; prints its port
"""

import hashlib
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:  # noqa: N802
        self.answer()

    def do_GET(self) -> None:  # noqa: N802
        self.answer()

    def do_POST(self) -> None:  # noqa: N802
        """paths-info: those of the asked paths that exist."""
        form = unquote(self.rfile.read(int(self.headers["Content-Length"])).decode().replace("+", " "))
        asked = [pair.split("=", 1)[1] for pair in form.split("&") if pair.startswith("paths=")]
        repo = self.repo(unquote(self.path).split("/paths-info/")[0])
        self.send(json.dumps([entry(repo, repo / name) for name in asked if (repo / name).exists()]).encode())

    def repo(self, path: str) -> Path:
        return ROOT / path.replace("/api/models/", "/").replace("/api/", "/").lstrip("/")

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        refused = self.refused(path)
        if refused is not None:
            return self.send(b"{}", 401, {"X-Error-Code": refused})
        if "/resolve/" in path:
            repo, _, rest = path.partition("/resolve/")
            return self.file(self.repo(repo) / rest.split("/", 1)[1])
        if "/tree/" in path:
            repo, _, rest = path.partition("/tree/")
            below = self.repo(repo).joinpath(*rest.split("/")[1:])
            if not below.is_dir():
                return self.missing("EntryNotFound")
            found = below.rglob("*") if "recursive=" in self.path.lower() else below.iterdir()
            return self.send(json.dumps([entry(self.repo(repo), item) for item in sorted(found)]).encode())
        repo = self.repo(path.split("/revision/")[0])
        if path.startswith("/api/") and repo.is_dir() and repo != ROOT:
            files = [file for file in sorted(repo.rglob("*")) if file.is_file()]
            siblings = [{"rfilename": file.relative_to(repo).as_posix()} for file in files]
            name = "/".join(repo.parts[-2:])
            return self.send(json.dumps({"id": name, "sha": COMMIT, "private": False, "siblings": siblings}).encode())
        return self.missing("RepoNotFound")

    def refused(self, path: str) -> str | None:
        """How the Hub turns a stranger away from a repository that holds a file .gated or .private."""
        parts = self.repo(path).relative_to(ROOT).parts
        repo = ROOT.joinpath(*parts[: 3 if parts[:1] == ("datasets",) else 2])
        kinds = {".gated": "GatedRepo", ".private": "RepoNotFound"}
        return next((code for name, code in kinds.items() if (repo / name).is_file()), None)

    def file(self, file: Path) -> None:
        if not file.is_file():
            return self.missing("EntryNotFound")
        content = file.read_bytes()
        status, total = 200, len(content)
        wanted = self.headers.get("Range")
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), int(last) + 1 if last else total
            content, status = content[start:stop], 206
            headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{total}"
        self.send(content, status, headers)

    def missing(self, code: str) -> None:
        self.send(b"{}", 404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def entry(repo: Path, path: Path) -> dict[str, object]:
    name = path.relative_to(repo).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": COMMIT}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": hashlib.sha1(name.encode()).hexdigest()}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
