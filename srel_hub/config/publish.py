"""config.publish."""

import re
from dataclasses import dataclass

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from srel_hub.config.fields import EXAMPLE_ID, STRICT, Line, Ref, _require


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Where the dataset and its teacher go on the Hub; without a `repo_id` nothing is pushed."""

    __pydantic_config__ = STRICT
    repo_id: str | None = None  # the dataset, as namespace/name; null: nothing is pushed
    teacher_repo_id: str | None = None  # null: repo_id with '-teacher' appended
    private: bool = True  # false: for all to see, which needs source.license
    revision: Ref | None = None  # branch to push to; null: main
    create_pr: bool = False  # open a pull request on each repository; it gets no tag
    tag: Ref | None = "v1.0"  # of both repositories; a tag never moves
    commit_message: Line | None = None  # null: "Publish with srel_hub"
    collection: Line | None = None  # title, or slug, of a collection to add both repositories to
    dry_run: bool = False  # show the plan, push nothing

    def __post_init__(self) -> None:
        for field_name, repo_id in (("repo_id", self.repo_id), ("teacher_repo_id", self.teacher_repo_id)):
            if repo_id is not None:
                _require(
                    repo_id.count("/") == 1, f"{field_name}={repo_id}: must be namespace/name, such as {EXAMPLE_ID}"
                )
                try:
                    validate_repo_id(repo_id)
                except HFValidationError as error:
                    raise ValueError(f"{field_name}={repo_id}: {error}") from error
        _require(
            not (self.create_pr and self.revision),
            f"create_pr=true and revision={self.revision}: a pull request makes its own branch; leave one of them out",
        )
        for name, ref in (("tag", self.tag), ("revision", self.revision)):
            _require(not re.fullmatch("[0-9a-f]{40}", ref or ""), f"{name}={ref}: would be taken for a commit")
        _require(self.tag != (self.revision or "main"), f"tag={self.tag}: is the branch's name")

    @property
    def teacher(self) -> str | None:
        """The teacher's repository."""
        return self.teacher_repo_id or (self.repo_id and f"{self.repo_id}-teacher")

    @property
    def pinned(self) -> str | None:
        """The tag that the push makes; none on a pull request."""
        return None if self.create_pr else self.tag
