"""The Hub of the tests as a process. It imports no Hugging Face library: these read their environment on import."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any


SERVER = Path(__file__).with_name("server.py")
OWN_FOLDERS = (  # each follows HF_HOME unless it is set
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_ASSETS_CACHE",
    "HF_XET_CACHE",
    "HF_MODULES_CACHE",
    "HF_TOKEN_PATH",
    "HF_STORED_TOKENS_PATH",
    "HUGGINGFACE_HUB_CACHE",
    "TRANSFORMERS_CACHE",
    "XDG_CACHE_HOME",
)


class Hub:
    """A Hub in its own process, on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        command = [sys.executable, str(SERVER)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def environment(self, home: Path | str, token: str | None = None) -> dict[str, str]:
        """Return the environment of a user of this Hub, with this home and token."""
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith("HF_") and key not in OWN_FOLDERS
        }
        return {
            **inherited,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            **({"HF_TOKEN": token} if token else {}),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "HF_HUB_DISABLE_SHARED_BLOBS": "1",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def reset(self) -> None:
        """Remove all repositories and faults."""
        self._post("reset", {})

    def faults(self, *faults: Mapping[str, Any]) -> None:
        """Set the faults (server.Fault) of the next requests, and clear the log."""
        self._post("faults", list(faults))

    def log(self) -> list[dict[str, Any]]:
        """Return the requests since the last call of `reset` or `faults`."""
        entries: list[dict[str, Any]] = self._get("log")
        return entries

    def state(self) -> dict[str, Any]:
        """Return the content of the Hub: `repos` by kind and name, the number of `objects`, `collections`."""
        state: dict[str, Any] = self._get("state")
        return state

    def put(self, kind: str, name: str, folder: Path, private: bool = False) -> None:
        """Put the files of a folder into a repository, bypassing the interface; kind is datasets or models."""
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put_file(kind, name, file.relative_to(folder).as_posix(), file.read_bytes(), private)

    def put_file(
        self, kind: str, name: str, path: str, content: bytes, private: bool = False, gated: bool = False
    ) -> None:
        """Put one file into a repository, bypassing the interface."""
        fields = {"kind": kind, "name": name, "path": path, "private": private, "gated": gated}
        self._post("file", {**fields, "content": base64.b64encode(content).decode()})

    def tag(self, kind: str, name: str, tag: str) -> None:
        """Tag the main branch, bypassing the interface."""
        self._post("tag", {"kind": kind, "name": name, "tag": tag})

    def _get(self, name: str) -> Any:
        return self._request(f"/_test/{name}")

    def _post(self, name: str, value: Any) -> Any:
        return self._request(f"/_test/{name}", value, "POST")

    def _request(self, path: str, value: Any = None, method: str = "GET") -> Any:
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self.endpoint + path, data, method=method)
        with self._open(request, timeout=30) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
