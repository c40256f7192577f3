"""What is a local path and what an id on the Hub, and which existing path a mistyped one suggests."""

from pathlib import Path

import pytest

from srel_hub.config.places import expanded, missing_local, missing_place, nearest_place, unreachable
from srel_hub.errors import UnavailableError, UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with runs/quickstart/dataset and images/flowers."""
    (tmp_path / "runs" / "quickstart" / "dataset").mkdir(parents=True)
    (tmp_path / "images" / "flowers").mkdir(parents=True)
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "path",
    ["runs/quickstart", "./runs", "runs/quickstart/dataset", "mine.yaml", "org/name", "images/nothing", "mnist"],
)
def test_what_exists_or_may_be_an_id_is_not_missing(path: str) -> None:
    assert missing_place(path) is None


@pytest.mark.parametrize(
    ("path", "similar"),
    [
        ("runs/quikstart/dataset", "runs/quickstart/dataset"),
        ("runs/quikstart/datset", "runs/quickstart"),
        ("runs/quickstart/datset", "runs/quickstart/dataset"),
        ("./run", "runs"),
        ("rnus/quickstart/dataset", "runs/quickstart/dataset"),
        ("./images/flower", "images/flowers"),
        ("/nowhere/at/all", None),
        ("~/nowhere-at-all", None),
        ("~no-such-user/images", None),
        ("a/b/c", None),
        ("mine.yaml/x/y", None),
    ],
)
def test_a_mistyped_path_suggests_the_nearest(path: str, similar: str | None) -> None:
    found = missing_place(path)
    assert found is not None and found.startswith("there is no such folder")
    assert (f"did you mean {similar}?" in found) if similar else ("did you mean" not in found)


def test_a_mistyped_name_beside_a_local_folder_is_a_path_unless_the_hub_has_it() -> None:
    error = unreachable("source.path=images/flower", "images/flower", "the Hub cannot be reached")
    assert isinstance(error, UserError) and str(error) == (
        "source.path=images/flower: there is no such folder (did you mean images/flowers?); it may also be a name on "
        "the Hub, but the Hub cannot be reached"
    )


def test_without_the_hub_both_possibilities_are_named() -> None:
    error = unreachable("dataset imges/flowers", "imges/flowers", "the Hub cannot be reached")
    assert isinstance(error, UnavailableError) and str(error) == (
        "dataset imges/flowers: the Hub cannot be reached; there is no local folder imges/flowers either (did you mean "
        "images/flowers?); check the network and the spelling"
    )
    assert isinstance(unreachable("x", "mnist", "no network"), UnavailableError)


def test_where_ids_have_a_namespace_a_single_word_is_a_path() -> None:
    assert missing_place("quickstart") is None
    assert missing_place("run", namespace=True) == "there is no such folder (did you mean runs?)"


def test_where_no_id_is_allowed_everything_is_a_path() -> None:
    assert missing_local("org/name") == "there is no such folder"
    assert missing_local("runs/quickstart") is None
    assert missing_local("mine.yml", "folder or file") == "there is no such folder or file (did you mean mine.yaml?)"


def test_what_exists_or_resembles_nothing_suggests_nothing() -> None:
    assert nearest_place("runs") == "" == nearest_place("zzz/yyy")
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")
