"""Whether the Hub can be reached for a dataset, found out in seconds.

`datasets` asks the Hub six times, for up to six minutes in a network that drops packets, and prints a warning each
time. A dataset in its cache is used only after that.
"""

import contextlib
import time
from collections.abc import Iterator

import datasets
import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from srel_hub.errors import first_line


TIMEOUT = 10.0  # seconds for one of the two tries
PAUSE = 1.0  # seconds between them


@contextlib.contextmanager
def cache_if_unreachable(repo_id: str, revision: str | None) -> Iterator[str | None]:
    """Let `datasets` use only its cache inside the `with` block if the Hub does not respond.

    Yields:
        Why the Hub cannot be reached; None if it can.
    """
    reason = None if datasets.config.HF_HUB_OFFLINE else _unreachable(repo_id, revision)
    if reason is None:
        yield "HF_HUB_OFFLINE is set" if datasets.config.HF_HUB_OFFLINE else None
        return
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield reason
    finally:
        datasets.config.HF_HUB_OFFLINE = False


def _unreachable(repo_id: str, revision: str | None) -> str | None:
    reason = _ask(repo_id, revision)
    if reason is not None:
        time.sleep(PAUSE)
        reason = _ask(repo_id, revision)
    return reason


def _ask(repo_id: str, revision: str | None) -> str | None:
    """Ask the Hub for a dataset once. An answer that it does not exist is an answer."""
    try:
        HfApi(library_name="srel_hub").dataset_info(repo_id, revision=revision, timeout=TIMEOUT, expand=["sha"])
    except OfflineModeIsEnabled:
        return "HF_HUB_OFFLINE is set"
    except HfHubHTTPError as error:
        status = error.response.status_code
        return f"it responded with status {status}" if status == 429 or status >= 500 else None
    except (httpx2.RequestError, ConnectionError) as error:
        return first_line(error)
    except ValueError:  # the id has a wrong form, or the response is not the Hub's; `datasets` reports it
        return None
    return None
