"""What people write into a README.md on the Hub stays there, or the push is refused; nothing is lost silently."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from srel_hub.hub.card_merge import lost_edits, marked_card, merge_cards


METADATA = "license: mit\ntags:\n- images\n- srel_hub\nconfigs:\n- config_name: default\n"
OLD = marked_card(METADATA, "# Colors\n\nVersion v1.0.\n\n## Limits\n\nNone.\n")
NEW = marked_card(METADATA.replace("default", "other"), "# Colors\n\nVersion v1.1.\n\n## Limits\n\nNone.\n")
LINES = st.lists(
    st.sampled_from(["# My title", "Some words.", "", "---", "| a | b |", "Grüße – 图", "license: x"]), max_size=5
)


def merged(new: str, old: str, replace: bool = False) -> str:
    """Merge without problems, and check that merging again changes nothing."""
    text, problems = merge_cards(new, old, replace)
    assert problems == [] and merge_cards(new, text, replace) == (text, [])
    return text


def metadata(card: str) -> dict[str, object]:
    values: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return values


def test_a_card_that_nobody_edited_is_replaced_byte_for_byte() -> None:
    assert merged(NEW, OLD) == NEW


@settings(max_examples=30)
@given(above=LINES, below=LINES, is_crlf=st.booleans())
def test_text_around_our_part_is_kept(above: list[str], below: list[str], is_crlf: bool) -> None:
    first, rest = OLD.split("<!-- srel_hub:begin")
    around = "".join(f"{line}\n" for line in above), "\n".join(below)
    text = f"{first}{around[0]}<!-- srel_hub:begin{rest}{around[1]}"
    after = merged(NEW, text.replace("\n", "\r\n") if is_crlf else text)
    assert ("\r\n" in after) == is_crlf
    head, ours, tail = after.replace("\r\n", "\n").partition(NEW.partition("\n\n")[2].removesuffix("\n"))
    assert (
        ours and head.endswith("".join(f"{line}\n" for line in above)) and tail.removeprefix("\n") == "\n".join(below)
    )


@settings(max_examples=30)
@given(st.integers(min_value=0), st.sampled_from(["insert", "delete", "change"]))
def test_every_edit_inside_our_part_is_a_problem(position: int, kind: str) -> None:
    lines = OLD.splitlines(keepends=True)
    first, last = (next(i for i, line in enumerate(lines) if f"srel_hub:{name} " in line) for name in ("begin", "end"))
    inside = [i for i in range(first + 1, last) if lines[i].strip()]
    index = inside[position % len(inside)]
    edited = {"insert": f"Mine.\n{lines[index]}", "delete": "", "change": f"No {lines[index]}"}[kind]
    old = "".join([*lines[:index], edited, *lines[index + 1 :]])
    text, problems = merge_cards(NEW, old)
    assert len(problems) == 1 and "edited by hand inside the part that srel_hub writes" in problems[0]
    assert problems == lost_edits(old)
    assert merged(NEW, old, replace=True) == NEW
    assert merged(OLD, old) == old  # there is nothing new to replace it by


def test_an_edit_inside_can_be_moved_out() -> None:
    edited = OLD.replace("## Limits", "## Bias\n\nMine.\n\n## Limits")
    assert lost_edits(edited)
    moved = edited.replace("## Bias\n\nMine.\n\n", "") + "\n## Bias\n\nMine.\n"
    assert merged(NEW, moved) == NEW + "\n## Bias\n\nMine.\n"


def test_metadata_that_people_added_or_changed_is_kept_with_its_comments() -> None:
    old = OLD.replace("license: mit\n", "# agreed\nlicense: apache-2.0  # by mail\nlanguage: en\n").replace(
        "- images\n", ""
    )
    after = merged(NEW, old)
    assert "# agreed\nlicense: apache-2.0  # by mail\n" in after and "language: en\n" in after
    assert metadata(after) == metadata(NEW) | {"license": "apache-2.0", "language": "en", "tags": ["srel_hub"]}
    later = marked_card("license: mit\ntags:\n- images\n- srel_hub\n- new\n", "# Colors\n")
    assert metadata(merged(later, after.replace("language: en", "language: de")))["tags"] == [
        "images",
        "srel_hub",
        "new",
    ]


def test_metadata_that_was_changed_on_both_sides_is_a_problem() -> None:
    old = OLD.replace("license: mit", "license: apache-2.0")
    new = marked_card(METADATA.replace("mit", "cc-by-4.0"), "# Colors\n")
    (problem,) = merge_cards(new, old)[1]
    assert "license: 'apache-2.0', which was written by hand, but the new card has license: 'cc-by-4.0'" in problem
    assert metadata(merged(new, old, replace=True))["license"] == "cc-by-4.0"


@pytest.mark.parametrize("edit", ["config_name: mine", "config_name: default\n  x: 1"])
def test_metadata_that_describes_the_files_must_not_be_edited(edit: str) -> None:
    old = OLD.replace("config_name: default", edit)
    (problem,) = merge_cards(NEW, old)[1]
    assert "the metadata configs, which describes the data files, was edited by hand" in problem
    assert lost_edits(old) == [problem] and merged(NEW, old, replace=True) == NEW


FOREIGN = {  # a repository that somebody created with a README.md of their own
    "a license from the web form": ("---\nlicense: mit\n---\n", NEW),
    "no metadata": ("# Mine\n\nWords.\n", f"{NEW}\n# Mine\n\nWords.\n"),
    "an empty file": ("", NEW),
    "empty metadata": ("---\n---\n# Mine\n", f"{NEW}\n# Mine\n"),
    "a byte order mark": ("\ufeff---\nlicense: mit\n---\n# Mine", f"{NEW}\n# Mine\n"),
    "metadata on one line": ("---\n{license: mit}\n---\n# Mine", f"{NEW}\n# Mine\n"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_readme_without_our_part_is_kept_below_it(case: str) -> None:
    old, expected = FOREIGN[case]
    assert merged(NEW, old) == expected and lost_edits(old) == []


def test_foreign_metadata_is_merged() -> None:
    old = "---\nlanguage: [en]  # only\ntags: [mine]\n1: a\ndate: 2024-01-01\n---\n# Mine\n"
    after = merged(NEW, old)
    assert metadata(after)["tags"] == ["images", "srel_hub", "mine"] and "language: [en]  # only\n" in after
    assert after.endswith("# Mine\n")
    (problem,) = merge_cards(NEW, old.replace("tags", "license: gpl-3.0\ntags"))[1]
    assert "license: 'gpl-3.0', which was written by hand" in problem


BROKEN = {
    "earlier version": (f"---\n{METADATA}---\n\n# Colors\n", "srel_hub 0.9 or earlier"),
    "no comments": (
        OLD.replace("<!--", "").replace("-->", ""),
        "its comments srel_hub:begin and srel_hub:end were removed",
    ),
    "no end": (OLD.replace("<!-- srel_hub:end -->", ""), "must occur once each"),
    "no begin": (OLD.replace("<!-- srel_hub:begin", "<!-- "), "must occur once each"),
    "twice": (OLD + OLD, "must occur once each"),
    "in a line": (OLD.replace("<!-- srel_hub:begin", "Words <!-- srel_hub:begin"), "must occur once each"),
    "no YAML": (OLD.replace("license: mit", "license: ["), "is not plain YAML"),
    "a list": ("---\n- a\n---\n", "is not a mapping"),
    "metadata removed": (OLD.partition("---\n\n")[2], "the metadata configs, which describes the data files"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_readme_that_cannot_be_merged_is_refused_with_the_way_on(case: str) -> None:
    old, message = BROKEN[case]
    problems = merge_cards(NEW, old)[1]
    assert len(problems) == 1 and message in problems[0] and "publish.replace_card=true" in problems[0]
    assert lost_edits(old) == problems
    assert metadata(merged(NEW, old, replace=True)) == metadata(NEW)
