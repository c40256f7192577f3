"""A push to the Hub: its plan, what it sends, what it refuses, and what other people can load."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import HUB, SMALL, make_source, refused, write_recipe
from huggingface_hub import RepoCard, hf_hub_download
from local_hub.client import Hub
from test_condense import tree

from srel_hub import load_condensed
from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.errors import UnavailableError, UserError
from srel_hub.evaluate import evaluate
from srel_hub.hub import client as hub_module
from srel_hub.hub import push as push_module
from srel_hub.publish import publish
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.runs.stage_cli import cli


DATASET, TEACHER = "alice/colors-ipc3", "alice/colors-ipc3-teacher"


def push(run_folder: Path, *overrides: str) -> str:
    """Return what `srel-hub publish RUN OVERRIDES` prints; it runs in this process."""
    printed = io.StringIO()
    more = [f"run.root={run_folder.parent}", f"publish.repo_id={DATASET}", *overrides]
    with contextlib.redirect_stdout(printed):
        publish(Run(load_recipe(run_folder, more)))
    return printed.getvalue()


def not_pushed(capsys: pytest.CaptureFixture[str], run_folder: Path, *overrides: str) -> str:
    """Return the message of a refused push, whose exit status is 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli(publish, [str(run_folder), f"publish.repo_id={DATASET}", *overrides])
    message = capsys.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in message, message
    return message[message.index("error: ") :]


@pytest.fixture
def alice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Log in alice, and return the Hub."""
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    return hub


def repos(hub: Hub) -> dict[str, Any]:
    repositories: dict[str, Any] = hub.state()["repos"]
    return repositories


def lasting(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of a run but its log."""
    return {name: digest for name, digest in tree(folder).items() if name != "log.txt"}


def writes(hub: Hub) -> list[str]:
    """Return the requests since the last call of `faults` that change something."""
    paths = [f"{entry['method']} {entry['path'].split('?')[0]}" for entry in hub.log() if entry["method"] != "HEAD"]
    return [path for path in paths if re.search("PUT|create|/commit/|/tag/|/branch/|settings|items", path)]


# What is pushed


def test_both_folders_are_pushed_completely_tagged_and_private(alice: Hub, own: Path) -> None:
    printed = push(own)
    pushed = repos(alice)
    for name, folder in ((f"datasets/{DATASET}", "dataset"), (f"models/{TEACHER}", "teacher_repo")):
        assert pushed[name]["private"]
        assert pushed[name]["refs"]["v1.0"] == pushed[name]["refs"]["main"]
        assert len(pushed[name]["refs"]["main"]["titles"]) == 2  # the repository's first commit, and one of ours
        files = {path.relative_to(own / folder).as_posix() for path in (own / folder).rglob("*") if path.is_file()}
        assert set(pushed[name]["refs"]["main"]["files"]) == files
    commit = pushed[f"models/{TEACHER}"]["refs"]["main"]["sha"]
    assert pushed[f"datasets/{DATASET}"]["refs"]["main"]["titles"][0].endswith(f"Teacher: {TEACHER} at {commit}")
    assert f"published: {alice.endpoint}/datasets/{DATASET}/tree/v1.0" in printed
    assert f'load_condensed("{DATASET}", revision="v1.0")' in printed


@pytest.mark.long
def test_the_teacher_is_pushed_before_the_dataset(alice: Hub, own: Path) -> None:
    push(own)
    commits = [path for path in writes(alice) if "/commit/" in path]
    assert commits == [f"POST /api/models/{TEACHER}/commit/main", f"POST /api/datasets/{DATASET}/commit/main"]


def test_pushing_again_sends_nothing(alice: Hub, own: Path) -> None:
    push(own)
    before = repos(alice)
    alice.faults()
    printed = push(own)
    assert "the repository already has all files" in printed and "published: " in printed
    assert writes(alice) == [] and repos(alice) == before


def test_a_dry_run_shows_every_file_and_leaves_no_trace(alice: Hub, own: Path) -> None:
    kept, before = load_recipe(own).publish, lasting(own)
    printed = push(own, "publish.dry_run=true")
    for folder in ("dataset", "teacher_repo"):
        for file in (path for path in (own / folder).rglob("*") if path.is_file()):
            assert re.search(rf"B  {re.escape(file.relative_to(own / folder).as_posix())}\n", printed), file
    assert f"dataset {DATASET} (new, private); to branch main, tag v1.0" in printed and "to send: " in printed
    assert repos(alice) == {} and writes(alice) == []
    assert load_recipe(own).publish == kept and kept.repo_id is None
    assert lasting(own) == before


@pytest.mark.long
def test_two_versions_and_a_second_size_live_in_one_repository(alice: Hub, own: Path, finished: Path) -> None:
    """Old tags still load with their own rows; files that the new version lacks are removed from the branch."""
    push(own, "publish.tag=ipc3-v1")
    push(own, "publish.tag=ipc3-v2", "source.terms=Corrected.")
    other = own.parent / "smaller" / "colors"
    for part in ("teacher", "units/squeeze"):
        shutil.copytree(finished / part, other / part)
    settings = [f"run.root={other.parent}", "recover.ipc=2", "relabel.epochs=1", "publish.tag=ipc2-v1"]
    smaller = Run(load_recipe(finished / "recipe.yaml", [*settings, f"publish.repo_id={DATASET}"]))
    recover(smaller)
    relabel(smaller)
    evaluate(smaller)
    publish(smaller)
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert "soft_labels/epoch-00001.safetensors" in refs["ipc3-v2"]["files"]
    assert "soft_labels/epoch-00001.safetensors" not in refs["main"]["files"]
    three, corrected, two = (load_condensed(DATASET, revision=tag) for tag in ("ipc3-v1", "ipc3-v2", "ipc2-v1"))
    assert (len(three.pixels), len(corrected.pixels), len(two.pixels), len(load_condensed(DATASET).pixels)) == (
        9,
        9,
        6,
        6,
    )
    assert (len(three), len(two)) == (2, 1)
    assert three.manifest.teacher.tag == "ipc3-v1" and corrected.manifest.teacher.tag == "ipc3-v2"
    for condensed in (three, corrected, two):
        assert condensed.teacher() is not None
    with pytest.raises(UserError, match="has no revision v9; its tags: ipc3-v1, ipc3-v2, ipc2-v1"):
        load_condensed(DATASET, revision="v9")


@pytest.mark.long
def test_a_branch_a_message_and_a_collection(alice: Hub, own: Path) -> None:
    options = [
        "publish.revision=next",
        "publish.commit_message=For review",
        "publish.collection=Condensed sets",
        "publish.teacher_repo_id=lab/net",
    ]
    push(own, *options)
    pushed = repos(alice)
    assert set(pushed) == {f"datasets/{DATASET}", "models/lab/net"}
    assert pushed[f"datasets/{DATASET}"]["refs"]["main"]["files"] == {}
    assert pushed[f"datasets/{DATASET}"]["refs"]["next"]["titles"][0].startswith("For review")
    (collection,) = alice.state()["collections"].values()
    assert [item["id"] for item in collection["items"]] == ["lab/net", DATASET]
    push(own, *options)  # the collection and its items are there already
    assert len(alice.state()["collections"]) == 1


@pytest.mark.long
def test_a_new_branch_of_an_existing_repository(alice: Hub, own: Path) -> None:
    push(own)
    printed = push(own, "publish.revision=next", "publish.tag=v2.0", "source.terms=Corrected.")
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert refs["next"] == refs["v2.0"] != refs["main"] == refs["v1.0"] and "published: " in printed
    card = (own / "dataset" / "README.md").read_text()
    assert f'load_dataset("{DATASET}", revision="v2.0")' in card and f"{DATASET} --revision v2.0" in card


@pytest.mark.long
def test_options_of_one_command_are_not_stored_in_the_run(alice: Hub, own: Path) -> None:
    push(own, "publish.private=false", "publish.teacher_repo_id=alice/other", "publish.tag=v7")
    push(own, "publish.repo_id=alice/second")
    pushed = repos(alice)
    assert set(pushed) == {
        f"datasets/{DATASET}",
        "models/alice/other",
        "datasets/alice/second",
        "models/alice/second-teacher",
    }
    assert pushed["datasets/alice/second"]["private"] and "v1.0" in pushed["datasets/alice/second"]["refs"]
    assert load_recipe(own).publish.repo_id is None and load_recipe(own).run.root != str(own.parent)


def test_a_model_of_another_origin_is_not_overwritten(
    alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("README.md", "config.json", "metrics.json", "model.safetensors", "train.py"):
        alice.put_file("models", "alice/mine", name, b"{}", private=True)
    before = repos(alice)
    message = not_pushed(capsys, own, "publish.teacher_repo_id=alice/mine")
    assert (
        "model alice/mine already exists and holds files that are not srel_hub's (config.json, metrics.json" in message
    )
    assert repos(alice) == before


def test_the_folder_in_a_run_is_not_the_run(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli(publish, [str(own / "dataset")])
    assert caught.value.code == 2 and f"is inside a run; pass the run directory: {own}" in capsys.readouterr().err


@pytest.mark.long
def test_a_pull_request_is_opened_once_and_gets_no_tag(alice: Hub, own: Path) -> None:
    push(own)
    more = ["publish.create_pr=true", "source.terms=Corrected."]
    printed = push(own, *more)
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert set(refs) == {"main", "v1.0", "refs/pr/1"} and refs["main"] == refs["v1.0"] != refs["refs/pr/1"]
    assert refs["refs/pr/1"]["sha"][:7] in printed
    push(own, *more)
    assert set(repos(alice)[f"datasets/{DATASET}"]["refs"]) == set(refs)


def test_published_files_name_no_place_person_or_machine(alice: Hub, tmp_path: Path) -> None:
    """Search every file that reaches the Hub for the folder, user, host and token of the run."""
    folder = tmp_path / "home-of-zaphod" / "secret-project"
    file = write_recipe(tmp_path / "colors.yaml", make_source(folder / "source", (8, 8), ["red", "green", "blue"]))
    environment = {"SECRET_SETTING": "heart-of-gold", "USER": "zaphod", "HOSTNAME": "magrathea"}
    overrides = [*SMALL, f"run.root={folder}/runs", f"publish.repo_id={DATASET}"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        condense(Run(load_recipe(file, overrides)))
    words = ["zaphod", "secret-project", "magrathea", "heart-of-gold", "hf_alice", str(tmp_path)]
    run = folder / "runs" / "colors"
    pushed = [path for part in ("dataset", "teacher_repo") for path in (run / part).rglob("*") if path.is_file()]
    assert len(pushed) > 10 and set(repos(alice)) == {f"datasets/{DATASET}", f"models/{TEACHER}"}
    for path in pushed:
        assert not [word for word in words if word.encode() in path.read_bytes()], path


# What people wrote into a README.md on the Hub


def readme(kind: str = "dataset", repo_id: str = DATASET) -> str:
    file = hf_hub_download(repo_id, "README.md", repo_type=kind, force_download=True)
    return Path(file).read_bytes().decode()


def test_text_and_metadata_that_people_added_survive_a_push(
    alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(own)
    for kind, folder, name in (("dataset", "datasets", DATASET), ("model", "models", TEACHER)):
        edited = readme(kind, name).replace("license: mit", "license: mit\nlanguage: en") + "\n## Bias\n\nMy warning.\n"
        alice.put_file(folder, name, "README.md", edited.replace("\n", "\r\n").encode())
    more = ["publish.tag=v1.1", "source.terms=Corrected."]
    printed = push(own, *more, "publish.dry_run=true")
    assert printed.count("README.md  (replaces the present file, keeps what was added by hand)") == 2
    assert "published: " in push(own, *more)
    for kind, name in (("dataset", DATASET), ("model", TEACHER)):
        card = readme(kind, name)
        assert (
            card.endswith("\r\n\r\n## Bias\r\n\r\nMy warning.\r\n") and "language: en" in card and "Corrected." in card
        )
    assert load_condensed(DATASET).manifest.teacher.tag == "v1.1"
    alice.faults()
    assert "there is nothing to do" in push(own, *more) and writes(alice) == []
    assert "My warning." not in (own / "dataset" / "README.md").read_text()


def test_an_edit_inside_our_part_is_refused_before_anything_is_computed(
    alice: Hub, own: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(own)
    edited = readme().replace("## Limits", "## Bias\n\nMy warning.\n\n## Limits")
    alice.put_file("datasets", DATASET, "README.md", edited.encode())
    expected = f"dataset {DATASET}: README.md was edited by hand inside the part that srel_hub writes"
    before = repos(alice)
    assert expected in not_pushed(capsys, own, "publish.tag=v1.1")
    assert expected in refused(capsys, str(recipe), f"run.root={tmp_path}/new", f"publish.repo_id={DATASET}")
    assert repos(alice) == before and not (tmp_path / "new").exists()
    assert "My warning." in readme()
    push(own, "publish.tag=v1.1", "publish.replace_card=true")
    assert "My warning." not in readme() and 'revision="v1.1"' in readme()


def test_the_readme_of_a_new_repository_is_kept_and_its_license_must_agree(
    alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.put_file("datasets", DATASET, "README.md", b"---\nlicense: gpl-3.0\n---\n# My careful words\n", True)
    message = not_pushed(capsys, own)
    assert "README.md has license: 'gpl-3.0', which was written by hand, but the new card has license: 'mit'" in message
    alice.put_file("datasets", DATASET, "README.md", b"---\nlicense: mit\n---\n# My careful words\n", True)
    push(own)
    assert readme().endswith("<!-- srel_hub:end -->\n\n# My careful words\n")


@pytest.mark.long
def test_a_card_of_an_earlier_version_is_replaced_only_if_the_user_says_so(
    alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(own)
    unmarked = re.sub("<!-- srel_hub:.*\n", "", readme())
    alice.put_file("datasets", DATASET, "README.md", unmarked.encode())
    message = not_pushed(capsys, own, "publish.tag=v1.1")
    assert "srel_hub 0.9 or earlier" in message and "publish.replace_card=true" in message
    push(own, "publish.tag=v1.1", "publish.replace_card=true")
    assert readme().count("<!-- srel_hub:") == 2


@pytest.mark.long
def test_a_readme_that_changes_during_the_push_is_not_overwritten(
    alice: Hub, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(own)
    upload = push_module.client().preupload_lfs_files

    def meanwhile(*arguments: Any, **named: Any) -> None:
        upload(*arguments, **named)
        alice.put_file("models", TEACHER, "README.md", readme("model", TEACHER).encode() + b"\nMine.\n")

    monkeypatch.setattr(push_module.client(), "preupload_lfs_files", meanwhile)
    with pytest.raises(UserError, match="someone else changed the repository in the meantime"):
        push(own, "publish.tag=v1.1", "source.terms=Corrected.")
    assert readme("model", TEACHER).endswith("\nMine.\n")


def test_a_deleted_readme_is_written_again_or_refused_with_the_way_on(
    alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(own)
    push_module.client().delete_file("README.md", DATASET, repo_type="dataset")
    assert "restore the tag srel_hub in the metadata of README.md" in not_pushed(capsys, own, "publish.tag=v1.1")


# What is refused, and when


def test_without_a_repository_the_missing_field_is_named(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = lasting(own)
    for more in ([], ["publish.dry_run=true"]):
        with pytest.raises(SystemExit) as caught:
            cli(publish, [str(own), *more])
        assert caught.value.code == 2 and "set publish.repo_id=NAMESPACE/NAME" in capsys.readouterr().err
    assert lasting(own) == before


@pytest.mark.long
def test_a_dry_run_without_network_prints_the_plan(own: Path, tmp_path: Path) -> None:
    command = ["-m", "srel_hub.publish", str(own), f"publish.repo_id={DATASET}", "publish.dry_run=true"]
    environment = HUB.environment(tmp_path / "home") | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert f"dataset {DATASET} (not checked, private); to branch main, tag v1.0" in done.stdout
    assert "soft_labels/epoch-00001.safetensors" in done.stdout and "to send: at most " in done.stdout
    assert "HF_HUB_OFFLINE is set" in done.stdout and "Not checked: your token, the repository" in done.stdout


def test_an_existing_tag_is_reported_before_anything_is_computed(
    alice: Hub, own: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    push(own)
    options = [f"run.root={tmp_path}/new", f"publish.repo_id={DATASET}", "source.path=./nowhere"]
    with pytest.raises(SystemExit):
        cli(condense, [str(recipe), *options])
    printed = capsys.readouterr().err
    for kind, name in (("model", TEACHER), ("dataset", DATASET)):
        assert f"note: {kind} {name} already has the tag v1.0; a tag never moves" in printed


def test_a_license_that_the_hub_does_not_list_is_refused(
    alice: Hub, own: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = "source.license=CC BY 4.0: the Hub does not list this license; did you mean cc-by-4.0?"
    for more in ([], ["publish.private=false", "publish.dry_run=true"]):
        assert expected in not_pushed(capsys, own, "source.license=CC BY 4.0", *more)
    options = [f"run.root={tmp_path}/new", f"publish.repo_id={DATASET}", "source.license=CC BY 4.0"]
    assert expected in refused(capsys, str(recipe), *options)
    assert repos(alice) == {} and not (tmp_path / "new").exists()
    push(own, "source.license=other", "source.license_name=my-terms", "source.license_link=https://example.org/terms")
    for card in (readme(), readme("model", TEACHER)):
        data = RepoCard(card).data
        assert (data.license, data.license_name) == ("other", "my-terms")
        assert data.license_link == "https://example.org/terms"
        assert "License of the source: `my-terms` (https://example.org/terms)." in card


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    return write_recipe(folder / "colors.yaml", make_source(folder / "source", (8, 8), ["red", "green", "blue"]))


REFUSED = {
    "anonymous": (None, [], "publish.repo_id=alice/colors-ipc3: you are not logged in on the Hub; log in with"),
    "a token that is none": ("hf_nobody", [], "the Hub rejected your token"),
    "a token that may read": (
        "hf_alice_read",
        [],
        "the token of alice has the role read; create one with the role write",
    ),
    "another's namespace": ("hf_carol", [], "carol is not a member of alice; namespaces to choose from: carol"),
    "an organization to read in": (
        "hf_bob",
        ["publish.repo_id=lab/colors"],
        "bob may only read in lab (role read); ask its owners for the role write",
    ),
    "no license in public": (
        "hf_alice",
        ["publish.private=false", "source.license=unknown"],
        "source.license is unknown, and a public dataset needs a license",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_user_without_permission_is_refused_before_anything_is_computed(
    hub: Hub,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    token, overrides, message = REFUSED[case]
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    error = refused(capsys, str(recipe), f"run.root={tmp_path}/runs", f"publish.repo_id={DATASET}", *overrides)
    assert message in error, error
    assert not (tmp_path / "runs").exists() and repos(hub) == {}


def test_all_faults_of_a_push_and_of_the_source_are_reported_together(
    alice: Hub, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.put_file("datasets", DATASET, "data/train.csv", b"a,b", private=True)
    error = refused(
        capsys,
        str(recipe),
        f"run.root={tmp_path}/runs",
        f"publish.repo_id={DATASET}",
        "publish.teacher_repo_id=bob/net",
        "publish.private=false",
        "source.license=unknown",
        "source.path=./nowhere",
    )
    for message in (
        "source.license is unknown",
        "publish.teacher_repo_id=bob/net: alice is not a member of bob",
        f"publish.private=false: dataset {DATASET} already exists and is private, not public",
        f"dataset {DATASET} already exists and holds files that are not srel_hub's (data/train.csv)",
        "source.path=./nowhere: there is no such folder",
    ):
        assert message in error, error


@pytest.mark.parametrize("private", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_repository_of_the_other_visibility_is_refused(
    alice: Hub, own: Path, capsys: pytest.CaptureFixture[str], private: bool
) -> None:
    alice.put_file("models", TEACHER, "README.md", b"# Mine", private=private)
    setting = f"publish.private={str(private).lower()}"
    other = f"publish.private={str(not private).lower()}"
    message = not_pushed(capsys, own, other)
    assert f"{other}: model {TEACHER} already exists" in message and f"set {setting}" in message
    assert list(repos(alice)) == [f"models/{TEACHER}"]
    push(own, setting)
    assert len(repos(alice)) == 2


def test_a_tag_never_moves(alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(own)
    before = repos(alice)
    message = not_pushed(capsys, own, "source.terms=Corrected.")
    assert f"publish.tag=v1.0: dataset {DATASET} has this tag with other content, and a tag never moves" in message
    assert repos(alice) == before


def test_the_name_of_a_private_repository_of_another_user_is_refused(
    hub: Hub, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put_file("datasets", DATASET, "README.md", b"# Mine", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_carol")
    assert "carol is not a member of alice" in not_pushed(capsys, own)


@pytest.mark.long
def test_a_push_of_another_user_in_the_meantime_is_not_overwritten(
    alice: Hub, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two publishers: the second looked before the first one's commit."""
    push(own)
    upload = push_module.client().preupload_lfs_files

    def meanwhile(*arguments: Any, **named: Any) -> None:
        upload(*arguments, **named)
        alice.put_file("datasets", DATASET, "NOTES.md", b"by another hand", private=True)

    monkeypatch.setattr(push_module.client(), "preupload_lfs_files", meanwhile)
    with pytest.raises(UserError, match="someone else changed the repository in the meantime"):
        push(own, "publish.tag=v1.1", "source.terms=Corrected.")
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert "NOTES.md" in refs["main"]["files"] and "v1.1" not in refs
    monkeypatch.undo()
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    push(own, "publish.tag=v1.1", "source.terms=Corrected.")
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert refs["v1.1"] == refs["main"] and "NOTES.md" in refs["main"]["files"]


def test_files_that_the_hub_returns_changed_are_not_reported_as_published(alice: Hub, own: Path) -> None:
    alice.faults({"kind": "corrupt", "method": "GET", "path": "_cdn", "times": 99})
    with pytest.raises(UserError, match="model.safetensors was read back as .* Do not use this commit"):
        push(own)
    alice.faults()
    assert "published: " in push(own)


def test_a_hub_that_does_not_respond_times_out(
    alice: Hub, own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.5)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub_module.client.cache_clear()
    try:
        alice.faults({"kind": "hold", "path": "repos/create", "times": 9})
        with pytest.raises(UnavailableError, match=f"creating model {TEACHER}: the Hub cannot be reached"):
            push(own)
    finally:
        monkeypatch.undo()
        hub_module.client.cache_clear()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("publish.repo_id=colors", "publish: repo_id=colors: must be namespace/name"),
        ("publish.repo_id=alice/a--b", "repo_id=alice/a--b: "),
        ("publish.tag=main", "tag=main: is also the name of the branch"),
        ("publish.tag=v 1", "publish.tag: "),
        ("publish={repo_id: a/b, create_pr: true, revision: dev}", "create_pr=true and revision=dev"),
        ("publish.token=hf_x", "publish.token: unknown field"),
    ],
)
def test_a_bad_publish_section_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert message in refused(capsys, str(recipe), f"run.root={tmp_path}/runs", override)
