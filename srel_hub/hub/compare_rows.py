"""Whether `load_dataset` gives the same rows from the Hub as from a folder. A program of its own, so that it starts
with an empty cache: where the cache lies is decided when the libraries are imported.

    python -m srel_hub.hub.compare_rows REPO_ID COMMIT FOLDER
"""

import sys
from collections.abc import Sequence

import datasets

from srel_hub.hub.client import client


DIFFERENT = 3  # exit status; others mean that it could not be found out


def difference(repo_id: str, commit: str, folder: str) -> str | None:
    """The first difference between the two, None where there is none."""
    there, here = datasets.load_dataset(repo_id, revision=commit), datasets.load_dataset(folder)
    if list(there) != list(here):
        return f"splits {', '.join(there)} instead of {', '.join(here)}"
    for split in here:
        if there[split].features != here[split].features or len(there[split]) != len(here[split]):
            return f"split {split}: {len(there[split])} rows of {there[split].features} instead of {len(here[split])}"
        ours, theirs = (side[split].cast_column("image", datasets.Image(decode=False)) for side in (here, there))
        for index, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            if own["label"] != other["label"] or own["image"]["bytes"] != other["image"]["bytes"]:
                return f"split {split}: row {index} is another"
    return None


def main(arguments: Sequence[str]) -> int:
    client()  # with timeouts
    datasets.disable_progress_bars()
    found = difference(*arguments)
    if found is not None:
        print(found)
        return DIFFERENT
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
