"""Compare the rows that `load_dataset` returns from the Hub with those of a folder.

    python -m srel_hub.hub.compare_rows REPO_ID COMMIT FOLDER

It is a process of its own, so that it starts with an empty cache: the libraries read the cache's place when they are
imported.
"""

import sys
from collections.abc import Sequence

import datasets

from srel_hub.hub.client import timeouts


DIFFERENT = 3  # exit status; any other but 0 means that the comparison failed


def difference(repo_id: str, commit: str, folder: str) -> str | None:
    """Return the first difference in splits, features, labels or image bytes; None if there is none."""
    remote, local = datasets.load_dataset(repo_id, revision=commit), datasets.load_dataset(folder)
    if list(remote) != list(local):
        return f"the splits are {', '.join(remote)} instead of {', '.join(local)}"
    for split in local:
        count = len(local[split])
        if remote[split].features != local[split].features or len(remote[split]) != count:
            return f"split {split} has {len(remote[split])} rows of {remote[split].features} instead of {count}"
        undecoded = (side[split].cast_column("image", datasets.Image(decode=False)) for side in (local, remote))
        for index, (expected, row) in enumerate(zip(*undecoded, strict=True)):
            if expected["label"] != row["label"] or expected["image"]["bytes"] != row["image"]["bytes"]:
                return f"split {split}: row {index} differs"
    return None


def main(arguments: Sequence[str]) -> int:
    """Print the first difference and return the exit status."""
    datasets.disable_progress_bars()
    with timeouts():
        message = difference(*arguments)
    if message is None:
        return 0
    print(message)
    return DIFFERENT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
