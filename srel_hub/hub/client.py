"""The Hub: a client that does not wait for ever, errors in a person's words, who we are, what a repository holds."""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from huggingface_hub.utils._http import hf_request_event_hook

from srel_hub.errors import UserError, first_line


TIMEOUT = 60.0  # seconds without an answer or another byte; large files may take as long as they like
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before another try
LONGEST_WAIT = 600.0
LOGIN = "log in with `hf auth login` or set HF_TOKEN"
WRITING_ROLES = ("admin", "write", "contributor")

Kind = Literal["dataset", "model"]
Result = TypeVar("Result")


class UnavailableError(OSError):
    """The Hub cannot be reached or cannot answer now: the same request may succeed later."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OfflineError(UnavailableError):
    """The user asked not to use the network."""


@functools.cache
def client() -> HfApi:
    """The Hub's own client, with timeouts: without them a Hub that hangs would hang us."""
    timeout = httpx2.Timeout(TIMEOUT, connect=10.0)
    hooks: Mapping[str, Any] = {"request": [hf_request_event_hook]}
    set_client_factory(lambda: httpx2.Client(timeout=timeout, follow_redirects=True, event_hooks=hooks))
    return HfApi(library_name="srel_hub")


@contextlib.contextmanager
def spoken(doing: str) -> Iterator[None]:
    """The clients' errors as ours, led by what was being done.

    Raises:
        UnavailableError: for what may pass: no connection, a timeout, statuses 408, 429 and from 500 on.
        UserError: for what will not pass by itself.
    """
    try:
        yield
    except UserError:
        raise
    except OfflineModeIsEnabled:
        raise OfflineError(f"{doing}: HF_HUB_OFFLINE is set, so the Hub is not asked") from None
    except (HfHubHTTPError, httpx2.RequestError, ConnectionError, RuntimeError, LocalEntryNotFoundError) as error:
        # Uploads wrap whatever happened in a RuntimeError, downloads in one that says that nothing is cached.
        answered = next((one for one in _causes(error) if isinstance(one, HfHubHTTPError)), None)
        if answered is None:
            raise UnavailableError(f"{doing}: the Hub cannot be reached: {first_line(error)}") from error
        raise _refusal(doing, answered) from error
    except json.JSONDecodeError as error:
        raise UnavailableError(f"{doing}: the answer is not a Hub's; is there another page in between?") from error
    except ValueError as error:
        raise UserError(f"{doing}: {error}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refusal(doing: str, error: HfHubHTTPError) -> Exception:
    status, said = error.response.status_code, error.server_message or first_line(error)
    if status in (408, 429) or status >= 500:
        wait = error.response.headers.get("Retry-After", "")
        pause = min(float(wait), LONGEST_WAIT) if wait.isdecimal() else 0.0
        return UnavailableError(f"{doing}: the Hub answers {status}", pause)
    if isinstance(error, GatedRepoError):
        return UserError(f"{doing}: it is gated. Ask for access on its page on the Hub, then {LOGIN}")
    reasons = {
        401: f"the Hub does not know who you are ({said}); {LOGIN}",
        403: f"your token may not do that ({said})",
        404: f"it is not on the Hub, or you may not see it ({said})",
        412: "somebody else changed it meanwhile; look at what is there now, then run the same command again",
    }
    return UserError(f"{doing}: {reasons.get(status, f'the Hub answers {status}: {said}')}")


def retried(work: Callable[[], Result], say: Callable[[str], None], waits: Sequence[float] = WAITS) -> Result:
    """Do work that may be done twice, again after a while where the Hub was not available.

    Raises:
        UnavailableError: where the last try fails too.
    """
    for wait in waits:
        try:
            return work()
        except OfflineError:
            raise
        except UnavailableError as error:
            pause = max(wait, error.retry_after)
            say(f"{error}; again in {pause:.0f} s")
            time.sleep(pause)
    return work()


@dataclass(frozen=True)
class Account:
    """Whose token it is, its role (read, write, fineGrained, ...), the user's role in each organization."""

    name: str
    role: str
    orgs: Mapping[str, str]

    def refusal(self, namespace: str) -> str | None:
        """Why this account may not write there; None if it may, as far as can be told."""
        if self.role == "read":
            return f"the token of {self.name} has the role read; make one with the role write, then {LOGIN}"
        if namespace != self.name and namespace not in self.orgs:
            own = ", ".join([self.name, *self.orgs])
            return f"{self.name} is no member of {namespace}; namespaces to choose from: {own}"
        if namespace != self.name and self.orgs[namespace] not in WRITING_ROLES:
            return f"{self.name} may only read in {namespace} (role {self.orgs[namespace]}); ask its owners for write"
        return None


def account() -> Account | None:
    """Who we are on the Hub; None without a token.

    Raises:
        UserError: where the token is not accepted.
        UnavailableError: where the Hub is.
    """
    if get_token() is None:
        return None
    with spoken("the Hub token"):
        told = client().whoami()
    orgs = {org["name"]: str(org.get("roleInOrg", "write")) for org in told.get("orgs", [])}
    return Account(told["name"], told.get("auth", {}).get("accessToken", {}).get("role", "write"), orgs)


@dataclass(frozen=True)
class Blob:
    """A file on the Hub: its size and digest, sha256 where it is a large file, else git's sha1."""

    size: int
    digest: str


@dataclass(frozen=True)
class State:
    """What a repository holds at one commit."""

    sha: str
    private: bool
    files: Mapping[str, Blob]
    tags: frozenset[str] = frozenset()  # of its card


def look(repo_id: str, kind: Kind, revision: str | None = None) -> State | None:
    """A repository as it is now; None where there is no such repository or revision that we may see.

    Raises:
        UserError, UnavailableError: as `spoken`.
    """
    with spoken(f"{kind} {repo_id}"):
        try:
            info = client().repo_info(
                repo_id, repo_type=kind, revision=revision, files_metadata=True, timeout=min(TIMEOUT, 30.0)
            )
        except GatedRepoError:
            raise
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
    """The page of a repository."""
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo_id}"
    return page if revision is None else f"{page}/tree/{revision}"


@dataclass(frozen=True)
class LocalFile:
    """A file of ours, with the two digests by which the Hub may know it."""

    path: Path
    size: int
    sha256: str
    git: str

    def equals(self, blob: Blob | None) -> bool:
        return blob is not None and self.size == blob.size and blob.digest in (self.sha256, self.git)


def local_file(path: Path) -> LocalFile:
    size = path.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            git.update(block)
    return LocalFile(path, size, sha256.hexdigest(), git.hexdigest())
