"""The client of the Hugging Face Hub: timeouts, retries, error messages, accounts, and the content of repositories."""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_token, set_client_factory
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from srel_hub.errors import UnavailableError, UserError, first_line


TIMEOUT = 60.0  # seconds without a response or another byte; a large file may take any time in total
LOOK_TIMEOUT = 30.0  # seconds for a repository's list of files
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try
LONGEST_WAIT = 600.0
LOGIN = "log in with `hf auth login` or set HF_TOKEN"
WRITING_ROLES = ("admin", "write", "contributor")

Kind = Literal["dataset", "model"]
Result = TypeVar("Result")


class OfflineError(UnavailableError):
    """The environment forbids the use of the network (HF_HUB_OFFLINE)."""


@functools.cache
def client() -> HfApi:
    """Return the API client. Use it within `timeouts`, except for `repo_info`, which takes a timeout itself."""
    return HfApi(library_name="srel_hub")


def _client_with_timeouts() -> httpx2.Client:
    hooks: Mapping[str, Any] = {"request": [_http.hf_request_event_hook]}
    return httpx2.Client(timeout=httpx2.Timeout(TIMEOUT, connect=10.0), follow_redirects=True, event_hooks=hooks)


@contextlib.contextmanager
def timeouts() -> Iterator[None]:
    """Set timeouts for huggingface_hub's requests inside the `with` block, and restore its HTTP client factory.

    Most methods of huggingface_hub accept no timeout, and its default client waits forever. The factory is global, and
    replacing it closes open connections, so use this for pushes, not for downloads: `hf_hub_download` has timeouts of
    its own.
    """
    previous = _http._GLOBAL_CLIENT_FACTORY  # there is no public way to read it
    if previous is _client_with_timeouts:
        yield
        return
    set_client_factory(_client_with_timeouts)
    try:
        yield
    finally:
        set_client_factory(previous)


@contextlib.contextmanager
def hide_progress_bars() -> Iterator[None]:
    """Hide huggingface_hub's progress bars inside the `with` block, where one bar counts all files."""
    were_hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_hidden:
            enable_progress_bars()


@contextlib.contextmanager
def hub_errors(action: str) -> Iterator[None]:
    """Translate the errors of huggingface_hub and its HTTP client; messages begin with the action.

    Raises:
        UnavailableError: If the same request may succeed later: no connection, a timeout, the statuses 408, 429 and
            500 or above.
        UserError: If the same request would fail again.
    """
    try:
        yield
    except UserError:
        raise
    except OfflineModeIsEnabled:
        raise OfflineError(
            f"{action}: HF_HUB_OFFLINE is set, so the Hub is not contacted; unset it to use the Hub"
        ) from None
    except (HfHubHTTPError, httpx2.RequestError, ConnectionError, RuntimeError, LocalEntryNotFoundError) as error:
        # Uploads wrap any error in a RuntimeError, downloads in an error that says that the file is not cached.
        response_error = next((cause for cause in _causes(error) if isinstance(cause, HfHubHTTPError)), None)
        if response_error is None:
            raise UnavailableError(f"{action}: the Hub cannot be reached: {first_line(error)}") from error
        raise _translate(action, response_error) from error
    except json.JSONDecodeError as error:
        raise UnavailableError(
            f"{action}: unexpected response (not from the Hub); are you behind a proxy or a login page?"
        ) from error
    except ValueError as error:
        raise UserError(f"{action}: {error}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the chain of its causes, the outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _translate(action: str, error: HfHubHTTPError) -> Exception:
    status, reason = error.response.status_code, error.server_message or first_line(error)
    if status in (408, 429) or status >= 500:
        wait = error.response.headers.get("Retry-After", "")
        pause = min(float(wait), LONGEST_WAIT) if wait.isdecimal() else 0.0
        return UnavailableError(f"{action}: the Hub responded with status {status}", pause)
    if isinstance(error, GatedRepoError):
        return UserError(f"{action}: the repository is gated; request access on its page on the Hub, then {LOGIN}")
    messages = {
        401: f"the Hub rejected your token ({reason}); {LOGIN}",
        403: f"your token does not allow this ({reason}); use a token that does",
        404: f"not found on the Hub, or you may not read it ({reason})",
        412: "someone else changed the repository in the meantime; check the change, then run the same command again",
    }
    return UserError(f"{action}: {messages.get(status, f'the Hub responded with status {status}: {reason}')}")


def retried(work: Callable[[], Result], say: Callable[[str], None], waits: Sequence[float] = WAITS) -> Result:
    """Call a function that is safe to repeat, and call it again after a pause while the Hub is unavailable.

    Args:
        work: The function to call; its result is returned.
        say: Prints a message before each pause.
        waits: The pauses in seconds; the Hub may ask for longer ones.

    Raises:
        UnavailableError: If the last try fails too, or HF_HUB_OFFLINE is set.
    """
    for wait in waits:
        try:
            return work()
        except OfflineError:
            raise
        except UnavailableError as error:
            pause = max(wait, error.retry_after)
            say(f"{error}; retrying in {pause:.0f} s")
            time.sleep(pause)
    return work()


@dataclass(frozen=True)
class Account:
    """The owner of the token.

    Attributes:
        name: The user name.
        role: The token's role: 'read', 'write', 'fineGrained', ...
        orgs: The user's role in each organization, by its name.
    """

    name: str
    role: str
    orgs: Mapping[str, str]

    def refusal(self, namespace: str) -> str | None:
        """Return why this account may not write to a namespace; None if the Hub reports no reason."""
        if self.role == "read":
            return f"the token of {self.name} has the role read; create one with the role write, then {LOGIN}"
        if namespace != self.name and namespace not in self.orgs:
            own = ", ".join([self.name, *self.orgs])
            return f"{self.name} is not a member of {namespace}; namespaces to choose from: {own}"
        if namespace != self.name and self.orgs[namespace] not in WRITING_ROLES:
            return (
                f"{self.name} may only read in {namespace} (role {self.orgs[namespace]}); ask its owners for the role "
                "write"
            )
        return None


@timeouts()
def account() -> Account | None:
    """Return the account of the token; None without a token.

    Raises:
        UserError: If the Hub rejects the token.
        UnavailableError: If the Hub cannot be reached.
    """
    if get_token() is None:
        return None
    with hub_errors("the Hub token"):
        user = client().whoami()
    orgs = {org["name"]: str(org.get("roleInOrg", "write")) for org in user.get("orgs", [])}
    return Account(user["name"], user.get("auth", {}).get("accessToken", {}).get("role", "write"), orgs)


@dataclass(frozen=True)
class Blob:
    """A file on the Hub: its size in bytes and its digest (sha256 for a large file, git's sha1 for a small one)."""

    size: int
    digest: str


@dataclass(frozen=True)
class State:
    """The content of a repository at one commit.

    Attributes:
        sha: The commit; empty if there is none yet.
        private: Whether the repository is private.
        files: Every file, by its path.
        tags: The tags of its card.
    """

    sha: str
    private: bool
    files: Mapping[str, Blob]
    tags: frozenset[str] = frozenset()


def look(repo_id: str, kind: Kind, revision: str | None = None) -> State | None:
    """Return the content of a repository; None if the repository or revision does not exist or may not be read.

    Raises:
        UserError, UnavailableError: See `hub_errors`.
    """
    with hub_errors(f"{kind} {repo_id}"):
        try:
            info = client().repo_info(
                repo_id, repo_type=kind, revision=revision, files_metadata=True, timeout=min(TIMEOUT, LOOK_TIMEOUT)
            )
        except GatedRepoError:
            raise  # it is a RepositoryNotFoundError too
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return None
    files = {
        file.rfilename: Blob(file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in getattr(info, "siblings", None) or []
    }
    card = getattr(info, "card_data", None)
    tags = frozenset(str(tag) for tag in [*(getattr(info, "tags", None) or []), *((card and card.get("tags")) or [])])
    return State(info.sha or "", bool(info.private), files, tags)


def url(repo_id: str, kind: Kind, revision: str | None = None) -> str:
    """Return the address of a repository's page."""
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    return page if revision is None else f"{page}/tree/{revision}"


@dataclass(frozen=True)
class LocalFile:
    """A file to push, with the two digests that the Hub may use for it.

    Attributes:
        source: Its path, or its content.
        sha256: The digest that the Hub has for a large file.
        git: git's sha1 of the blob, which the Hub has for a small file.
    """

    source: Path | bytes
    size: int
    sha256: str
    git: str

    def equals(self, blob: Blob | None) -> bool:
        """Return whether a file on the Hub has the same content."""
        return blob is not None and self.size == blob.size and blob.digest in (self.sha256, self.git)


def local_file(path: Path) -> LocalFile:
    """Read a file once and return its size and digests."""
    with path.open("rb") as file:
        return _hashed(path, path.stat().st_size, iter(lambda: file.read(1 << 20), b""))


def file_of(content: bytes) -> LocalFile:
    """Return a file to push that exists in memory only."""
    return _hashed(content, len(content), [content])


def _hashed(source: Path | bytes, size: int, blocks: Iterable[bytes]) -> LocalFile:
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    for block in blocks:
        sha256.update(block)
        git.update(block)
    return LocalFile(source, size, sha256.hexdigest(), git.hexdigest())
