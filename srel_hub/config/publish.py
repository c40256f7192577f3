"""The recipe's section `publish`: the repositories on the Hugging Face Hub."""

import re
from dataclasses import dataclass, field

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from srel_hub.config.fields import EXAMPLE_ID, SPARSE, STRICT, Line, Ref, require


@dataclass(frozen=True, kw_only=True)
class Publish:
    """Where to push the dataset and its teacher on the Hub."""

    __pydantic_config__ = STRICT

    repo_id: str | None = None
    """Dataset repository, as namespace/name. null: push nothing."""

    teacher_repo_id: str | None = None
    """Model repository of the teacher, as namespace/name. null: `repo_id` followed by `-teacher`."""

    private: bool = True
    """Whether to create private repositories. false: public, which requires `source.license`."""

    revision: Ref | None = None
    """Branch to push to. null: main."""

    create_pr: bool = False
    """Whether to open a pull request on each repository instead of pushing to a branch. Pull requests get no tag."""

    tag: Ref | None = "v1.0"
    """Tag of the pushed state in both repositories. An existing tag is never moved. null: no tag."""

    commit_message: Line | None = None
    """Message of the commits. null: 'Publish with srel_hub'."""

    replace_card: bool = field(default=False, metadata=SPARSE)
    """Whether to replace text in a README.md on the Hub that cannot be kept: edits inside the part that srel_hub
    writes. false: such a push is refused."""

    collection: Line | None = None
    """Title or slug of a collection to add both repositories to. null: none."""

    dry_run: bool = False
    """Whether to print what would be pushed, without pushing."""

    def __post_init__(self) -> None:
        for name, repo_id in (("repo_id", self.repo_id), ("teacher_repo_id", self.teacher_repo_id)):
            if repo_id is not None:
                require(repo_id.count("/") == 1, f"{name}={repo_id}: must be namespace/name, such as {EXAMPLE_ID}")
                try:
                    validate_repo_id(repo_id)
                except HFValidationError as error:
                    raise ValueError(f"{name}={repo_id}: {error}") from error
        require(
            not (self.create_pr and self.revision),
            f"create_pr=true and revision={self.revision}: a pull request has its own branch; remove one of the two",
        )
        for name, ref in (("tag", self.tag), ("revision", self.revision)):
            # The Hub reads 40 hexadecimal digits as a commit, so such a branch or tag could not be loaded.
            require(
                not re.fullmatch("[0-9a-f]{40}", ref or ""), f"{name}={ref}: looks like a commit; choose another name"
            )
        require(
            self.tag != (self.revision or "main"),
            f"tag={self.tag}: is also the name of the branch; choose another tag",
        )

    @property
    def teacher(self) -> str | None:
        """The teacher's repository, or None if nothing is pushed."""
        return self.teacher_repo_id or (self.repo_id and f"{self.repo_id}-teacher")

    @property
    def pinned(self) -> str | None:
        """The tag that the push creates. None for a pull request."""
        return None if self.create_pr else self.tag
