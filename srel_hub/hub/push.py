"""Push a folder to a repository of the Hub in one commit, after reading the content of the repository.

A push is safe to repeat: files that the repository already has are not sent, an unchanged state is not committed, and a
tag never moves. Large files are uploaded first, then one commit makes all files visible, then the tag is set.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from srel_hub.config import Publish
from srel_hub.errors import UserError
from srel_hub.hub.client import State, client, hide_progress_bars, hub_errors, look, retried, timeouts
from srel_hub.hub.push_plan import Part, Plan, Progress, plan


NEW_FILES = {".gitattributes"}  # that the Hub writes into a new repository
UPLOADED_TOGETHER = 20  # files; after each group the progress bar moves

Say = Callable[[str], None]


@timeouts()
@hide_progress_bars()
def push(first: Plan, description: str, say: Say, progress: Progress) -> str:
    """Push the files of the plan to the repository, and retry while the Hub is unavailable.

    Args:
        first: The plan as it was shown to the user. If others changed the repository since then, nothing is
            overwritten.
        description: The commit message below its title.
        say: Prints a message before a retry.
        progress: Shows a progress bar.

    Returns:
        The commit.

    Raises:
        UserError: If the plan has faults or the Hub refuses the push. The message lists the reasons.
        UnavailableError: If the Hub stays unavailable; the same call resumes the push.
    """
    return retried(partial(_push, first, description, progress), say)


def _push(first: Plan, description: str, progress: Progress) -> str:
    rendered, spec = first.rendered, first.spec
    now = plan(rendered, spec)
    if now.repo is None:
        with hub_errors(f"creating {rendered}"):
            client().create_repo(rendered.repo_id, repo_type=rendered.kind, private=spec.private, exist_ok=True)
        now = plan(rendered, spec)
    if now.target is None and not now.faults():
        with hub_errors(f"branch {spec.revision} of {rendered}"):
            client().create_branch(rendered.repo_id, branch=str(spec.revision), repo_type=rendered.kind, exist_ok=True)
        now = plan(rendered, spec)
    if now.faults():
        raise UserError("\n".join(now.faults()))
    if now.done is not None:
        return now.done
    assert now.target is not None
    part = now.part
    sha = now.target.sha if part.is_at(now.target) else _commit(now, now.target, first, description, progress)
    if spec.pinned is not None:
        with hub_errors(f"tag {spec.pinned} of {part}"):
            client().create_tag(part.repo_id, tag=spec.pinned, revision=sha, repo_type=part.kind, exist_ok=True)
        tagged = look(part.repo_id, part.kind, spec.pinned)
        if tagged is None or tagged.sha != sha:
            raise UserError(
                f"tag {spec.pinned} of {part}: someone else set this tag in the meantime; set publish.tag to another "
                "name"
            )
    return sha


def _commit(now: Plan, target: State, first: Plan, description: str, progress: Progress) -> str:
    """Make one commit on top of the state that was shown to the user."""
    part, spec = now.part, now.spec
    seen = first.target or first.repo  # a new branch starts at the head of main
    is_changed = target.sha != seen.sha if seen is not None else not set(target.files) <= NEW_FILES
    if is_changed:
        raise UserError(
            f"{part}: someone else changed the repository in the meantime; check the change, then run the same "
            "command again"
        )
    where: dict[str, Any] = {"repo_id": part.repo_id, "repo_type": part.kind, "create_pr": spec.create_pr}
    where["revision"] = spec.revision
    additions = [CommitOperationAdd(name, part.files[name].source) for name in now.sent]
    groups = [additions[start : start + UPLOADED_TOGETHER] for start in range(0, len(additions), UPLOADED_TOGETHER)]
    with hub_errors(f"uploading to {part}"):
        for group in progress(groups, len(groups), f"upload {part}", "group"):
            client().preupload_lfs_files(additions=group, **where)
    with hub_errors(f"committing to {part}"):
        made = client().create_commit(
            operations=[*additions, *(CommitOperationDelete(name) for name in now.removed)],
            commit_message=spec.commit_message or "Publish with srel_hub",
            commit_description=description,
            parent_commit=target.sha or None,
            **where,
        )
    return str(made.oid)


@timeouts()
def collect(spec: Publish, parts: Iterable[Part]) -> None:
    """Add repositories to the recipe's collection; a title creates one if needed, a slug names an existing one.

    Raises:
        UserError, UnavailableError: See `hub_errors`.
    """
    if spec.collection is None:
        return
    with hub_errors(f"collection {spec.collection}"):
        slug = spec.collection
        if "/" not in slug:
            namespace = str(spec.repo_id).split("/")[0]
            made = client().create_collection(slug, namespace=namespace, private=spec.private, exists_ok=True)
            slug = made.slug
        for part in parts:
            client().add_collection_item(slug, part.repo_id, part.kind, exists_ok=True)
