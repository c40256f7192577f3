"""The checks before a push: license, token, role and the target repositories."""

from huggingface_hub import constants

from srel_hub.config import Publish
from srel_hub.errors import ErrorCollector, UserError
from srel_hub.hub.client import LOGIN, Account, Kind, account, look, timeouts
from srel_hub.hub.push_plan import Part, Plan


@timeouts()
def require_permission(spec: Publish, license: str) -> list[str]:
    """Check the license, the token, its role and the repositories, before the stages run.

    Args:
        spec: The recipe's section `publish`; without a repository there is nothing to check.
        license: The license of the source.

    Returns:
        Notes for the user.

    Raises:
        UserError: If the push is not allowed. The message lists all problems.
        UnavailableError: If the Hub cannot be reached.
    """
    if spec.repo_id is None or spec.teacher is None:
        return []
    if constants.is_offline_mode():
        raise UserError(
            f"publish.repo_id={spec.repo_id}: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or remove "
            "publish.repo_id"
        )
    faults, notes = ErrorCollector(), list[str]()
    with faults.collect():
        require_license(spec, license)
    with faults.collect():
        owner = account()
        if owner is None:
            raise UserError(f"publish.repo_id={spec.repo_id}: you are not logged in on the Hub; {LOGIN}, role write")
        repositories: dict[tuple[str, Kind], str] = {
            (spec.teacher, "model"): "teacher_repo_id",
            (spec.repo_id, "dataset"): "repo_id",
        }
        for (repo_id, kind), field in repositories.items():
            with faults.collect():
                notes += _require_repository(spec, repo_id, kind, field, owner)
    faults.raise_all()
    return notes


def require_license(spec: Publish, license: str) -> None:
    """Reject a public push if the license of the source is unknown.

    Raises:
        UserError: If the push is public and the license is unknown. The message names the fields to set.
    """
    if not spec.private and license == "unknown":
        raise UserError(
            "publish.private=false: source.license is unknown, and a public dataset needs a license; set "
            "source.license (and source.terms) to those of the source, or set publish.private=true"
        )


def _require_repository(spec: Publish, repo_id: str, kind: Kind, field: str, owner: Account) -> list[str]:
    refused = None if spec.create_pr else owner.refusal(repo_id.split("/")[0])
    if refused is not None:
        raise UserError(f"publish.{field}={repo_id}: {refused}")
    repo = look(repo_id, kind)
    problems = Plan(Part(repo_id, kind, {}), spec, repo, repo, None, None).faults()
    if problems:
        raise UserError("\n".join(problems))
    if repo is not None and spec.pinned is not None and look(repo_id, kind, spec.pinned) is not None:
        return [
            f"note: {kind} {repo_id} already has the tag {spec.pinned}; a tag never moves, so the push will fail "
            "unless the content is the same. For a new version set publish.tag to a new name"
        ]
    return []
