"""Publish: assemble the two repositories, show the plan, push them, read them back.

    accelerate launch -m srel_hub.publish runs/quickstart publish.repo_id=my-name/my-dataset
    accelerate launch -m srel_hub.publish runs/quickstart publish.repo_id=my-name/my-dataset publish.dry_run=true

Leaves `dataset/` and `teacher_repo/`, which are byte for byte what the Hub gets; without `publish.repo_id` no more.
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
from srel_hub.hub.push_plan import Plan, part_of, plan
from srel_hub.hub.read_back import read_back
from srel_hub.reports.assemble import assemble, assembled
from srel_hub.reports.plots import REAL_PICTURE
from srel_hub.runs.run import Run


def publish(run: Run) -> tuple[Path, Path]:
    """Assemble both repositories and, where the recipe names them, push them. A dry run leaves everything as it is.

    Returns:
        the dataset's folder and the teacher's.

    Raises:
        UserError, UnavailableError: as `assemble` and `share`.
    """
    spec = run.recipe.publish
    if spec.dry_run:
        with tempfile.TemporaryDirectory(prefix=".plan-", dir=run.folder) as place:
            _plan(run, *assemble(run, Path(place)))
        run.print("publish: dry run, nothing was changed or pushed")
        return run.path("dataset"), run.path("teacher_repo")
    require_permission(spec, add_builtin_metadata(run.recipe.source).license)
    run.begin()  # what the cards say may have changed
    dataset, teacher_repo = assembled(run)
    run.print(f"publish: {dataset} and {teacher_repo} are complete")
    if spec.repo_id is None:
        run.print("publish: publish.repo_id is not set, so nothing is pushed")
    share(run, dataset, teacher_repo)
    return dataset, teacher_repo


def share(run: Run, dataset: Path, teacher_repo: Path) -> None:
    """Push the assembled folders to the Hub, if the recipe says where, and read them back.

    Raises:
        UserError: for what the plan finds, the Hub refuses, or does not come back as it was sent.
        UnavailableError: where the Hub cannot be reached; the same command goes on from there.
    """
    spec = run.recipe.publish
    if spec.repo_id is None:
        return
    plans = _plan(run, dataset, teacher_repo)
    if (dataset / "assets" / REAL_PICTURE).is_file():
        terms = f"source.license={add_builtin_metadata(run.recipe.source).license} lets anybody show them"
        run.print(f"note: assets/{REAL_PICTURE} shows real images; {terms}. pictures=false leaves it out")
    if spec.dry_run:
        run.print("publish: dry run, nothing was pushed")
        return
    teacher_commit = push(plans[0], f"The teacher of {spec.repo_id}", run.print, run.progress)
    dataset_commit = push(plans[1], f"Teacher: {spec.teacher} at {teacher_commit}", run.print, run.progress)
    parts = [each.part for each in plans]
    retried(partial(collect, spec, parts), run.print)
    commits: dict[Kind, str] = {"model": teacher_commit, "dataset": dataset_commit}
    read_back(parts[1], parts[0], commits, run.folder, run.print, run.progress)
    print(closing(spec, teacher_commit, dataset_commit))


def _plan(run: Run, dataset: Path, teacher_repo: Path) -> list[Plan]:
    """Look at both repositories and show what a push would do.

    Raises:
        UserError: where it cannot be made.
    """
    spec = run.recipe.publish
    if spec.repo_id is None or spec.teacher is None:
        raise UserError("publish.dry_run=true: publish.repo_id is not set, so there is nothing to plan")
    parts = (
        part_of(spec.teacher, "model", teacher_repo, run.progress),
        part_of(spec.repo_id, "dataset", dataset, run.progress),
    )
    plans = retried(lambda: [plan(part, spec) for part in parts], run.print)
    print("\n".join(["", f"plan: publish {run.folder}", *(line for each in plans for line in each.lines())]))
    _require(run, plans)
    return plans


def _require(run: Run, plans: Sequence[Plan]) -> None:
    """Refuse what the plan shows to be impossible, all of it at once."""
    spec = run.recipe.publish
    found = ErrorCollector()
    with found.collect():
        require_license(spec, add_builtin_metadata(run.recipe.source).license)
    faults = [*found.messages, *(fault for each in plans for fault in each.faults())]
    who = retried(account, run.print)
    if who is None:
        faults.append(f"you are not logged in on the Hub; {LOGIN}, role write")
    elif not spec.create_pr:
        refusals = {who.refusal(each.part.repo_id.split("/")[0]) for each in plans if each.done is None}
        faults += [refusal for refusal in refusals if refusal]
    if faults:
        raise UserError("nothing was pushed:\n" + "\n".join(faults))


def closing(spec: Publish, teacher_commit: str, dataset_commit: str) -> str:
    """What the user is told when it is there: where, and how to load it."""
    repo_id, teacher = str(spec.repo_id), str(spec.teacher)
    revision = spec.pinned or dataset_commit
    pulls = [f"pull requests: {url(repo_id, 'dataset')}/discussions, {url(teacher, 'model')}/discussions"]
    return "\n".join(
        [
            "",
            f"published: {url(repo_id, 'dataset', revision)} (commit {dataset_commit[:7]}), read back and equal",
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
