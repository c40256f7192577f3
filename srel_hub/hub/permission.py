"""The checks before a push: license, token, role and the target repositories."""

from huggingface_hub import constants

from srel_hub.config import GivenImages, Publish, Source
from srel_hub.config.licenses import LICENSES, LIST_DATE, nearest_license
from srel_hub.errors import ErrorCollector, UserError
from srel_hub.hub.card_merge import lost_edits
from srel_hub.hub.client import LOGIN, Account, Kind, account, look, timeouts
from srel_hub.hub.push_plan import README, Part, Plan, readme_of


@timeouts()
def require_permission(spec: Publish, source: Source, images: GivenImages | None) -> list[str]:
    """Check the license, the token, its role and the repositories, before the stages run.

    Args:
        spec: The recipe's section `publish`; without a repository only the spelling of the license is checked.
        source: The recipe's section `source`, whose license the cards state.
        images: The recipe's section `recover.images`, if there are given images. They have a license of their own.

    Returns:
        Notes for the user.

    Raises:
        UserError: If the push is not allowed. The message lists all problems.
        UnavailableError: If the Hub cannot be reached.
    """
    if spec.repo_id is None or spec.teacher is None:
        return [f"note: {problem}" for problem in _unlisted_license("source", source)]
    if constants.is_offline_mode():
        raise UserError(
            f"publish.repo_id={spec.repo_id}: HF_HUB_OFFLINE is set, so nothing can be pushed; unset it, or remove "
            "publish.repo_id"
        )
    faults, notes = ErrorCollector(), list[str]()
    faults.extend(license_problems(spec, source, images))
    notes += _license_notes(source)
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


def license_problems(spec: Publish, source: Source, images: GivenImages | None) -> list[str]:
    """Return why a license does not allow a push: the Hub does not list it, or it is unknown and the push public."""
    licensed: dict[str, Source | GivenImages] = {"source": source}
    if images is not None:
        licensed["recover.images"] = images
    problems = []
    for field, section in licensed.items():
        if not spec.private and section.license == "unknown":
            problems.append(
                f"publish.private=false: {field}.license is unknown, and a public dataset needs a license; set "
                f"{field}.license (and {field}.terms) to those of the source, or set publish.private=true"
            )
        else:
            problems += _unlisted_license(field, section)
    return problems


def _license_notes(source: Source) -> list[str]:
    """Return notes about the name and the link of a license that the Hub does not list."""
    if source.license == "other" and source.license_name is None:
        return [
            "note: source.license=other, but source.license_name is not set, so the Hub shows no name for the license; "
            "set source.license_name (and source.license_link)"
        ]
    if source.license != "other" and (source.license_name or source.license_link):
        return [
            f"note: source.license={source.license}: the Hub lists this license, so the cards do not show "
            "source.license_name and source.license_link"
        ]
    return []


def _unlisted_license(field: str, section: Source | GivenImages) -> list[str]:
    """Return a message if the Hub would reject a card because it does not list the license."""
    if section.license in LICENSES:
        return []
    named = " with source.license_name and source.license_link" if isinstance(section, Source) else ""
    nearest = nearest_license(section.license)
    meant = "." if nearest is None else f"; did you mean {nearest}?"
    return [
        f"{field}.license={section.license}: the Hub does not list this license{meant} Its identifiers are on "
        f"https://huggingface.co/docs/hub/repositories-licenses (checked against the list of {LIST_DATE}). For another "
        f"license, set {field}.license=other{named}"
    ]


def _require_repository(spec: Publish, repo_id: str, kind: Kind, field: str, owner: Account) -> list[str]:
    refused = None if spec.create_pr else owner.refusal(repo_id.split("/")[0])
    if refused is not None:
        raise UserError(f"publish.{field}={repo_id}: {refused}")
    part, repo = Part(repo_id, kind, {}), look(repo_id, kind)
    target = repo if repo is None or spec.revision is None else look(repo_id, kind, spec.revision) or repo
    problems = Plan(rendered=part, part=part, spec=spec, repo=repo, target=target).faults()
    if target is not None and README in target.files and not spec.replace_card:
        text, unreadable = readme_of(part, target)
        problems += [f"{part}: {edit}" for edit in ([unreadable] if unreadable else lost_edits(text))]
    if problems:
        raise UserError("\n".join(problems))
    if repo is not None and spec.pinned is not None and look(repo_id, kind, spec.pinned) is not None:
        return [
            f"note: {kind} {repo_id} already has the tag {spec.pinned}; a tag never moves, so the push will fail "
            "unless the content is the same. For a new version set publish.tag to a new name"
        ]
    return []
