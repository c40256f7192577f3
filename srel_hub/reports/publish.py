"""Publish a run: assemble its two repositories, print the plan, push them to the Hub and read them back.

    srel-hub publish runs/quickstart publish.repo_id=my-name/my-dataset publish.dry_run=true
    srel-hub publish runs/quickstart publish.repo_id=my-name/my-dataset

`dataset/` and `teacher_repo/` in the run directory are pushed byte for byte. Only what people wrote into a README.md on
the Hub is added to it.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from srel_hub.config import EXAMPLE_ID, Publish
from srel_hub.data.sources import add_builtin_metadata
from srel_hub.errors import ErrorCollector, UnavailableError, UserError
from srel_hub.hub.client import LOGIN, Kind, account, retried, url
from srel_hub.hub.permission import license_problems, require_permission
from srel_hub.hub.push import collect, push
from srel_hub.hub.push_plan import Plan, part_of
from srel_hub.hub.push_plan import plan as make_plan
from srel_hub.hub.read_back import read_back
from srel_hub.reports.assemble import assemble, ensure_assembled
from srel_hub.reports.plots import REAL_PICTURE
from srel_hub.runs.run import Run


def publish(run: Run) -> tuple[Path, Path]:
    """Assemble both repositories, and push them if the recipe names them.

    With `publish.dry_run` only the plan is printed: neither the run directory nor the Hub is changed. Without network
    access the plan says what was not checked.

    Returns:
        The dataset's folder and the teacher's folder.

    Raises:
        UserError: If the recipe names no repository; see also `assemble` and `share`.
        UnavailableError: See `share`.
    """
    spec = run.recipe.publish
    if spec.repo_id is None:
        raise UserError(
            "publish.repo_id is not set, so there is nowhere to push to; set publish.repo_id=NAMESPACE/NAME, such as "
            f"publish.repo_id={EXAMPLE_ID}. `srel-hub condense {run.folder}` assembles the repositories without pushing"
        )
    if spec.dry_run:
        # In the run directory, so that tensors are hard links instead of copies.
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=run.folder) as folder:
            _plan(run, *assemble(run.folder, run.recipe, Path(folder), run.progress))
        run.print("publish: dry run, nothing was changed or pushed")
        return run.path("dataset"), run.path("teacher_repo")
    for remark in require_permission(spec, add_builtin_metadata(run.recipe.source), run.recipe.recover.images):
        run.print(remark)
    run.begin()  # stores settings that the cards show, such as source.terms
    dataset, teacher_repo = ensure_assembled(run.recipe, run.marks, run.locked, run.progress)
    run.print(f"publish: {dataset} and {teacher_repo} are assembled")
    share(run, dataset, teacher_repo)
    return dataset, teacher_repo


def share(run: Run, dataset: Path, teacher_repo: Path) -> None:
    """Push the assembled folders to the Hub if the recipe names repositories, and read them back.

    Args:
        run: The run, which has the recipe, the log and the progress bar.
        dataset: The dataset's folder.
        teacher_repo: The teacher's folder.

    Raises:
        UserError: If the push is impossible, the Hub refuses it, or the Hub returns bytes that differ from those sent.
        UnavailableError: If the Hub cannot be reached; the same command resumes the push.
    """
    spec = run.recipe.publish
    if spec.repo_id is None:
        return
    plans = _plan(run, dataset, teacher_repo)
    if spec.dry_run:
        run.print("publish: dry run, nothing was pushed")
        return
    # The teacher first, so that a published dataset never names a teacher that does not exist.
    teacher_commit = push(plans[0], f"The teacher of {spec.repo_id}", run.print, run.progress)
    dataset_commit = push(plans[1], f"Teacher: {spec.teacher} at {teacher_commit}", run.print, run.progress)
    parts = [plan.part for plan in plans]
    retried(partial(collect, spec, parts), run.print)
    commits: dict[Kind, str] = {"model": teacher_commit, "dataset": dataset_commit}
    read_back(parts[1], parts[0], commits, run.folder, run.print, run.progress)
    print(closing(spec, teacher_commit, dataset_commit))


def _plan(run: Run, dataset: Path, teacher_repo: Path) -> list[Plan]:
    """Print and return the plans of pushing the teacher and the dataset. A dry run also works without the Hub.

    Raises:
        UserError: If the push is impossible. The message lists all reasons.
        UnavailableError: If the Hub cannot be reached, and this is not a dry run.
    """
    spec = run.recipe.publish
    assert spec.repo_id is not None and spec.teacher is not None, "publish requires both"
    parts = (
        part_of(spec.teacher, "model", teacher_repo, run.progress),
        part_of(spec.repo_id, "dataset", dataset, run.progress),
    )
    try:
        plans = retried(lambda: [make_plan(part, spec) for part in parts], run.print)
        faults = _account_problems(spec, plans, run)
    except UnavailableError as error:
        if not spec.dry_run:
            raise
        reason = f"{error}. Not checked: your token, the repository and its tags, and its README.md"
        plans, faults = [Plan(rendered=part, part=part, spec=spec, unchecked=reason) for part in parts], []
    print("\n".join(["", f"plan: publish {run.folder}", *(line for plan in plans for line in plan.lines())]))
    source = add_builtin_metadata(run.recipe.source)
    if (dataset / "assets" / REAL_PICTURE).is_file():
        seen = "anyone who may read the repository" if spec.private else "everyone"
        run.print(
            f"note: assets/{REAL_PICTURE} shows real images to {seen}, which source.license={source.license} allows; "
            "set pictures=false to leave it out"
        )
    of_plans = [fault for plan in plans for fault in plan.faults()]
    faults = [*license_problems(spec, source, run.recipe.recover.images), *of_plans, *faults]
    if faults:
        raise UserError("nothing was pushed:\n" + "\n".join(faults))
    return plans


def _account_problems(spec: Publish, plans: Sequence[Plan], run: Run) -> list[str]:
    """Return why the token does not allow the push."""
    problems = ErrorCollector()
    user = None
    with problems.collect():
        user = retried(account, run.print)
    if problems.messages:
        return problems.messages
    if user is None:
        return [f"you are not logged in on the Hub; {LOGIN}, role write"]
    if spec.create_pr:
        return []
    refusals = {user.refusal(plan.part.repo_id.split("/")[0]) for plan in plans if plan.done is None}
    return [refusal for refusal in refusals if refusal]


def closing(spec: Publish, teacher_commit: str, dataset_commit: str) -> str:
    """Return the text printed after a push: the address of both repositories and the code to load them."""
    repo_id, teacher = str(spec.repo_id), str(spec.teacher)
    revision = spec.pinned or dataset_commit
    pulls = [f"pull requests: {url(repo_id, 'dataset')}/discussions, {url(teacher, 'model')}/discussions"]
    return "\n".join(
        [
            "",
            f"published: {url(repo_id, 'dataset', revision)} (commit {dataset_commit[:7]}), read back and verified",
            f"teacher:   {url(teacher, 'model', spec.pinned or teacher_commit)} (commit {teacher_commit[:7]})",
            *(pulls if spec.create_pr else []),
            "",
            "from datasets import load_dataset",
            f'dataset = load_dataset("{repo_id}", revision="{revision}")',
            "",
            "from srel_hub import load_condensed",
            f'condensed = load_condensed("{repo_id}", revision="{revision}")',
            "",
            f"srel-hub verify {repo_id} --revision {revision}",
        ]
    )
