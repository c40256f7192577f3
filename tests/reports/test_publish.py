"""A push to the Hub: the plan, what is sent, what is refused, what other people then see."""

import contextlib
import io
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, make_source, refused, write_recipe
from local_hub.client import Hub
from test_condense import tree

from srel_hub import load_condensed
from srel_hub.condense import condense
from srel_hub.config import load_recipe
from srel_hub.errors import UserError
from srel_hub.evaluate import evaluate
from srel_hub.hub import client as hub_module
from srel_hub.hub import push as push_module
from srel_hub.hub.client import UnavailableError
from srel_hub.publish import publish
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.runs.stage_cli import cli


DATASET, TEACHER = "alice/colors-ipc3", "alice/colors-ipc3-teacher"


def push(run_folder: Path, *overrides: str) -> str:
    """What `srel-hub publish RUN OVERRIDES` prints, in this process."""
    told = io.StringIO()
    more = [f"run.root={run_folder.parent}", f"publish.repo_id={DATASET}", *overrides]
    with contextlib.redirect_stdout(told):
        publish(Run(load_recipe(run_folder, more)))
    return told.getvalue()


def not_pushed(capsys: pytest.CaptureFixture[str], run_folder: Path, *overrides: str) -> str:
    """What a refused push says; the exit status is 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli(publish, [str(run_folder), f"publish.repo_id={DATASET}", *overrides])
    said = capsys.readouterr().err
    assert caught.value.code == 2 and "Traceback" not in said, said
    return said[said.index("error: ") :]


@pytest.fixture
def alice(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The Hub, with alice logged in."""
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    return hub


def repos(hub: Hub) -> dict[str, Any]:
    found: dict[str, Any] = hub.state()["repos"]
    return found


def lasting(folder: Path) -> dict[str, str]:
    """sha256 of every file of a run but its log."""
    return {name: digest for name, digest in tree(folder).items() if name != "log.txt"}


def writes(hub: Hub) -> list[str]:
    """What the requests since the last `faults` changed."""
    paths = [f"{entry['method']} {entry['path'].split('?')[0]}" for entry in hub.log() if entry["method"] != "HEAD"]
    return [path for path in paths if re.search("PUT|create|/commit/|/tag/|/branch/|settings|items", path)]


# What is pushed


def test_both_folders_arrive_whole_tagged_and_private(alice: Hub, own: Path) -> None:
    told = push(own)
    found = repos(alice)
    for name, folder in ((f"datasets/{DATASET}", "dataset"), (f"models/{TEACHER}", "teacher_repo")):
        assert found[name]["private"]
        assert found[name]["refs"]["v1.0"] == found[name]["refs"]["main"]
        assert len(found[name]["refs"]["main"]["titles"]) == 2  # the repository's first commit, and one of ours
        files = {path.relative_to(own / folder).as_posix() for path in (own / folder).rglob("*") if path.is_file()}
        assert set(found[name]["refs"]["main"]["files"]) == files
    commit = found[f"models/{TEACHER}"]["refs"]["main"]["sha"]
    assert found[f"datasets/{DATASET}"]["refs"]["main"]["titles"][0].endswith(f"Teacher: {TEACHER} at {commit}")
    assert f"published: {alice.endpoint}/datasets/{DATASET}/tree/v1.0" in told
    assert f'load_condensed("{DATASET}", revision="v1.0")' in told


def test_the_teacher_is_there_before_the_dataset(alice: Hub, own: Path) -> None:
    push(own)
    commits = [path for path in writes(alice) if "/commit/" in path]
    assert commits == [f"POST /api/models/{TEACHER}/commit/main", f"POST /api/datasets/{DATASET}/commit/main"]


def test_pushing_again_sends_nothing(alice: Hub, own: Path) -> None:
    push(own)
    before = repos(alice)
    alice.faults()
    told = push(own)
    assert "everything is already there" in told and "published: " in told
    assert writes(alice) == [] and repos(alice) == before


def test_a_dry_run_shows_every_file_and_leaves_no_trace(alice: Hub, own: Path) -> None:
    kept, before = load_recipe(own).publish, lasting(own)
    told = push(own, "publish.dry_run=true")
    for folder in ("dataset", "teacher_repo"):
        for file in (path for path in (own / folder).rglob("*") if path.is_file()):
            assert re.search(rf"B  {re.escape(file.relative_to(own / folder).as_posix())}\n", told), file
    assert f"dataset {DATASET} (new, private); to branch main, tag v1.0" in told and "to send: " in told
    assert repos(alice) == {} and writes(alice) == []
    assert load_recipe(own).publish == kept and kept.repo_id is None
    assert lasting(own) == before


def test_two_versions_and_a_second_size_live_in_one_repository(alice: Hub, own: Path, finished: Path) -> None:
    """Old tags still load, each with its own rows; what the new state does not have is removed from the branch."""
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
    for each in (three, corrected, two):
        assert each.teacher() is not None
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
    found = repos(alice)
    assert set(found) == {f"datasets/{DATASET}", "models/lab/net"}
    assert found[f"datasets/{DATASET}"]["refs"]["main"]["files"] == {}
    assert found[f"datasets/{DATASET}"]["refs"]["next"]["titles"][0].startswith("For review")
    (collection,) = alice.state()["collections"].values()
    assert [item["id"] for item in collection["items"]] == ["lab/net", DATASET]
    push(own, *options)  # the collection and its items are there already
    assert len(alice.state()["collections"]) == 1


def test_a_new_branch_of_a_repository_that_is_there(alice: Hub, own: Path) -> None:
    push(own)
    told = push(own, "publish.revision=next", "publish.tag=v2.0", "source.terms=Corrected.")
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert refs["next"] == refs["v2.0"] != refs["main"] == refs["v1.0"] and "published: " in told
    card = (own / "dataset" / "README.md").read_text()
    assert f'load_dataset("{DATASET}", revision="v2.0")' in card and f"{DATASET} --revision v2.0" in card


def test_what_one_command_says_does_not_stick_to_the_run(alice: Hub, own: Path) -> None:
    push(own, "publish.private=false", "publish.teacher_repo_id=alice/other", "publish.tag=v7")
    push(own, "publish.repo_id=alice/second")
    found = repos(alice)
    assert set(found) == {
        f"datasets/{DATASET}",
        "models/alice/other",
        "datasets/alice/second",
        "models/alice/second-teacher",
    }
    assert found["datasets/alice/second"]["private"] and "v1.0" in found["datasets/alice/second"]["refs"]
    assert load_recipe(own).publish.repo_id is None and load_recipe(own).run.root != str(own.parent)


def test_somebody_elses_model_is_not_taken_over(alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("README.md", "config.json", "metrics.json", "model.safetensors", "train.py"):
        alice.put_file("models", "alice/mine", name, b"{}", private=True)
    before = repos(alice)
    said = not_pushed(capsys, own, "publish.teacher_repo_id=alice/mine")
    assert "model alice/mine already exists and holds files that are not srel_hub's (config.json, metrics.json" in said
    assert repos(alice) == before


def test_the_folder_in_a_run_is_not_the_run(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli(publish, [str(own / "dataset")])
    assert caught.value.code == 2 and f"is inside a run; pass the run directory: {own}" in capsys.readouterr().err


@pytest.mark.long
def test_a_pull_request_is_opened_once_and_gets_no_tag(alice: Hub, own: Path) -> None:
    push(own)
    more = ["publish.create_pr=true", "source.terms=Corrected."]
    told = push(own, *more)
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert set(refs) == {"main", "v1.0", "refs/pr/1"} and refs["main"] == refs["v1.0"] != refs["refs/pr/1"]
    assert refs["refs/pr/1"]["sha"][:7] in told
    push(own, *more)
    assert set(repos(alice)[f"datasets/{DATASET}"]["refs"]) == set(refs)


def test_nothing_published_tells_where_who_or_with_what(alice: Hub, tmp_path: Path) -> None:
    """Planted: a telling folder, user, host and token; every file that reaches the Hub is searched for them."""
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


# What is refused, and when


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
        "bob may only read in lab (role read); ask its owners for write",
    ),
    "no license in public": (
        "hf_alice",
        ["publish.private=false", "source.license=unknown"],
        "source.license is unknown, and a public dataset needs one",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_may_not_push_hears_it_before_anything_is_spent(
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
    said = refused(capsys, str(recipe), f"run.root={tmp_path}/runs", f"publish.repo_id={DATASET}", *overrides)
    assert message in said, said
    assert not (tmp_path / "runs").exists() and repos(hub) == {}


def test_all_faults_of_a_push_and_of_the_source_are_told_at_once(
    alice: Hub, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alice.put_file("datasets", DATASET, "data/train.csv", b"a,b", private=True)
    said = refused(
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
        assert message in said, said


@pytest.mark.parametrize("private", [False, True])
def test_a_repository_of_the_other_visibility_is_refused(
    alice: Hub, own: Path, capsys: pytest.CaptureFixture[str], private: bool
) -> None:
    alice.put_file("models", TEACHER, "README.md", b"# Mine", private=private)
    asked = f"publish.private={str(private).lower()}"
    other = f"publish.private={str(not private).lower()}"
    said = not_pushed(capsys, own, other)
    assert f"{other}: model {TEACHER} already exists" in said and f"set {asked}" in said
    assert list(repos(alice)) == [f"models/{TEACHER}"]
    push(own, asked)
    assert len(repos(alice)) == 2


def test_a_tag_never_moves(alice: Hub, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    push(own)
    before = repos(alice)
    said = not_pushed(capsys, own, "source.terms=Corrected.")
    assert f"publish.tag=v1.0: dataset {DATASET} has this tag with other content, and a tag never moves" in said
    assert repos(alice) == before


def test_a_private_repository_of_somebody_else_is_no_name_to_take(
    hub: Hub, own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put_file("datasets", DATASET, "README.md", b"# Mine", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_carol")
    assert "carol is not a member of alice" in not_pushed(capsys, own)


def test_what_somebody_else_pushed_meanwhile_is_not_overwritten(
    alice: Hub, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two publishers: the second looked before the first one's commit."""
    push(own)
    upload = push_module.client().preupload_lfs_files

    def meanwhile(*arguments: Any, **named: Any) -> None:
        upload(*arguments, **named)
        alice.put_file("datasets", DATASET, "NOTES.md", b"by another hand", private=True)

    monkeypatch.setattr(push_module.client(), "preupload_lfs_files", meanwhile)
    with pytest.raises(UserError, match="it was changed by someone else in the meantime"):
        push(own, "publish.tag=v1.1", "source.terms=Corrected.")
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert "NOTES.md" in refs["main"]["files"] and "v1.1" not in refs
    monkeypatch.undo()
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    push(own, "publish.tag=v1.1", "source.terms=Corrected.")
    refs = repos(alice)[f"datasets/{DATASET}"]["refs"]
    assert refs["v1.1"] == refs["main"] and "NOTES.md" in refs["main"]["files"]


def test_what_comes_back_otherwise_is_not_called_published(alice: Hub, own: Path) -> None:
    alice.faults({"kind": "corrupt", "method": "GET", "path": "_cdn", "times": 99})
    with pytest.raises(UserError, match="model.safetensors was read back as .* Do not use commit"):
        push(own)
    alice.faults()
    assert "published: " in push(own)


def test_a_hub_that_hangs_is_not_waited_for(
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
