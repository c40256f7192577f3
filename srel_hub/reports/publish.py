"""Publish a run: assemble its two repositories, print the plan, push them to the Hub and read them back.

    srel-hub publish runs/quickstart publish.repo_id=my-name/my-dataset publish.dry_run=true
    srel-hub publish runs/quickstart publish.repo_id=my-name/my-dataset

`dataset/` and `teacher_repo/` in the run directory are pushed byte for byte. Without `publish.repo_id` both folders are
assembled, but nothing is pushed.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from srel_hub.config import Publish
from srel_hub.data.sources import add_builtin_metadata
from srel_hub.errors import ErrorCollector, UserError
from srel_hub.hub.client import LOGIN, Kind, account, retried, url
from srel_hub.hub.permission import require_license, require_permission
from srel_hub.hub.push import collect, push
from srel_hub.hub.push_plan import Plan, part_of
from srel_hub.hub.push_plan import plan as make_plan
from srel_hub.hub.read_back import read_back
from srel_hub.reports.assemble import assemble, ensure_assembled
from srel_hub.reports.plots import REAL_PICTURE
from srel_hub.runs.run import Run


def publish(run: Run) -> tuple[Path, Path]:
    """Assemble both repositories, and push them if the recipe names them.

    With `publish.dry_run` only the plan is printed: neither the run directory nor the Hub is changed.

    Returns:
        The dataset's folder and the teacher's folder.

    Raises:
        UserError: See `assemble` and `share`.
        UnavailableError: See `share`.
    """
    spec = run.recipe.publish
    if spec.dry_run:
        # In the run directory, so that tensors are hard links instead of copies.
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=run.folder) as folder:
            _plan(run, *assemble(run.folder, run.recipe, Path(folder)))
        run.print("publish: dry run, nothing was changed or pushed")
        return run.path("dataset"), run.path("teacher_repo")
    require_permission(spec, add_builtin_metadata(run.recipe.source).license)
    run.begin()  # stores settings that the cards show, such as source.terms
    dataset, teacher_repo = ensure_assembled(run.recipe, run.marks, run.locked)
    run.print(f"publish: {dataset} and {teacher_repo} are assembled")
    if spec.repo_id is None:
        run.print("publish: publish.repo_id is not set, so nothing is pushed")
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
    if (dataset / "assets" / REAL_PICTURE).is_file():
        license = add_builtin_metadata(run.recipe.source).license
        run.print(
            f"note: assets/{REAL_PICTURE} shows real images, which source.license={license} allows; "
            "set pictures=false to leave it out"
        )
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
    """Print and return the plans of pushing the teacher and the dataset.

    Raises:
        UserError: If the push is impossible. The message lists all reasons.
    """
    spec = run.recipe.publish
    if spec.repo_id is None or spec.teacher is None:
        raise UserError(
            "publish.dry_run=true: publish.repo_id is not set, so there is nothing to plan; set publish.repo_id"
        )
    parts = (
        part_of(spec.teacher, "model", teacher_repo, run.progress),
        part_of(spec.repo_id, "dataset", dataset, run.progress),
    )
    plans = retried(lambda: [make_plan(part, spec) for part in parts], run.print)
    print("\n".join(["", f"plan: publish {run.folder}", *(line for plan in plans for line in plan.lines())]))
    _require(run, plans)
    return plans


def _require(run: Run, plans: Sequence[Plan]) -> None:
    """Raise one error with all reasons for which the Hub would refuse the plans."""
    spec = run.recipe.publish
    collector = ErrorCollector()
    with collector.collect():
        require_license(spec, add_builtin_metadata(run.recipe.source).license)
    faults = [*collector.messages, *(fault for plan in plans for fault in plan.faults())]
    user = retried(account, run.print)
    if user is None:
        faults.append(f"you are not logged in on the Hub; {LOGIN}, role write")
    elif not spec.create_pr:
        refusals = {user.refusal(plan.part.repo_id.split("/")[0]) for plan in plans if plan.done is None}
        faults += [refusal for refusal in refusals if refusal]
    if faults:
        raise UserError("nothing was pushed:\n" + "\n".join(faults))


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
