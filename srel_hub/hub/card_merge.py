"""Merge a new card with the README.md on the Hub, so that a push keeps what people wrote there.

A card is YAML metadata and a text. The text that srel_hub writes is between two HTML comments. The first one stores a
digest of the text, and one of each metadata value, so that the next push recognizes edits without the previous card:

    <!-- srel_hub:begin text=0f3a... license=77c1... tags=5b0d... -->
    ...
    <!-- srel_hub:end -->
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from srel_hub.errors import UserError
from srel_hub.hub.repository import METADATA, parse_metadata


BEGIN = re.compile(r"^<!-- srel_hub:begin((?: [a-z_-]+=[0-9a-f]+)*) -->\n", re.MULTILINE)
END = re.compile(r"^<!-- srel_hub:end -->(\n|$)", re.MULTILINE)
MARKER = "<!-- srel_hub:"
ADVICE = (
    "<!-- The next push keeps text above srel_hub:begin and below srel_hub:end. Do not edit the text in between. -->"
)
CARD_TAG = "srel_hub"  # marks a repository as one of srel_hub
FILE_KEYS = ("configs", "dataset_info")  # describe the data files; load_dataset fails if they are wrong
REPLACE = "set publish.replace_card=true to replace it"
DIGITS = 12  # of a digest

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """A README.md in parts.

    Attributes:
        yaml: The YAML text of the metadata, without its two lines `---`.
        metadata: The values in it.
        above: The text above our part, or all text if there is no such part.
        text: Our part, without its comments; None if there is none.
        below: The text below our part.
        digests: The digests in the first comment, by metadata key; `text` is that of our part.
    """

    yaml: str
    metadata: Metadata
    above: str
    text: str | None
    below: str
    digests: Mapping[str, str]


def marked_card(metadata: str, text: str) -> str:
    """Return a card from YAML metadata and the text that srel_hub writes, with comments around the text."""
    text = f"{ADVICE}\n\n{text.strip()}\n"
    values = parse_metadata(metadata, "the new card")
    assert isinstance(values, dict)
    digests = {"text": _digest(text.strip())} | {key: _digest(value) for key, value in values.items()}
    return _join(f"{metadata.strip()}\n", "\n", text, "", digests)


def merge_cards(new: str, old: str, replace: bool = False) -> tuple[str, list[str]]:
    """Merge a card of `marked_card` into the README.md on the Hub.

    Text outside of our part and metadata that people added or edited are kept. Text inside our part is replaced unless
    it was edited. Merging the result again returns the same result.

    Args:
        new: The new card.
        old: The README.md on the Hub.
        replace: Whether our text and our metadata replace those on the Hub, even if they were edited.

    Returns:
        The merged card, and the problems: edits that the merged card would lose, one message each.
    """
    is_crlf = "\r\n" in old
    ours = _parse(new)
    try:
        theirs = _parse(old.removeprefix("\ufeff").replace("\r\n", "\n"))
    except UserError as error:
        return new, [] if replace else [f"{error}; repair it on the Hub, or {REPLACE}"]
    above, text, below, problems = _merge_text(ours, theirs, replace)
    metadata, conflicts = _merge_metadata(ours, theirs, replace)
    merged = _join(metadata, above, text, below, ours.digests)
    return merged.replace("\n", "\r\n") if is_crlf else merged, [*problems, *conflicts]


def lost_edits(old: str) -> list[str]:
    """Return the edits in a README.md on the Hub that any push would lose, whatever the new card says."""
    try:
        theirs = _parse(old.removeprefix("\ufeff").replace("\r\n", "\n"))
    except UserError as error:
        return [f"{error}; repair it on the Hub, or {REPLACE}"]
    problems = _text_problems(theirs)
    if theirs.text is not None:
        problems += [_edited_key(key) for key in FILE_KEYS if _is_edited(theirs, key)]
    return problems


def _parse(readme: str) -> Card:
    """Split a README.md into its parts.

    Raises:
        UserError: If the metadata cannot be read, or the comments around our part are damaged.
    """
    front = METADATA.match(readme)
    source, body = (front[1], readme[front.end() :]) if front else ("", readme)
    metadata = parse_metadata(source, "README.md") or {}
    if not isinstance(metadata, dict):
        raise UserError("README.md: the metadata between its two lines --- is not a mapping")
    metadata = _by_text(metadata)
    if MARKER not in body:
        return Card(source, metadata, body, None, "", {})
    begins, ends = list(BEGIN.finditer(body)), list(END.finditer(body))
    if not len(begins) == len(ends) == 1 == body.count(MARKER) // 2 or begins[0].end() > ends[0].start():
        raise UserError(
            "README.md was edited by hand: the comments srel_hub:begin and srel_hub:end must occur once each, on lines "
            "of their own"
        )
    begin, end = begins[0], ends[0]
    digests = dict(pair.split("=") for pair in begin[1].split())
    text = body[begin.end() : end.start()]
    return Card(source, metadata, body[: begin.start()], text, body[end.end() :], digests)


def _join(metadata: str, above: str, text: str, below: str, digests: Mapping[str, str]) -> str:
    pairs = "".join(f" {key}={digest}" for key, digest in digests.items())
    return f"---\n{metadata}---\n{above}<!-- srel_hub:begin{pairs} -->\n{text}<!-- srel_hub:end -->\n{below}"


def _digest(value: Any) -> str:
    """Return a short digest of a metadata value, or of a text. Mappings may have keys of any type."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()[:DIGITS]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_plain(below) for below in value]
    return value if isinstance(value, str | int | float | None) else str(value)


# Text


def _merge_text(ours: Card, theirs: Card, replace: bool) -> tuple[str, str, str, list[str]]:
    """Return the text above, in and below our part, and the problems."""
    assert ours.text is not None
    problems = [] if replace else _text_problems(theirs)
    if theirs.text is None:
        is_ours = _is_tagged(theirs)  # the whole text is our card, from a version without comments
        kept = "" if is_ours else theirs.above.strip()
        return ours.above, ours.text, f"\n{kept}\n" if kept else "", problems
    same = _digest(theirs.text.strip()), _digest(ours.text.strip())
    # An edit is kept if there is nothing to replace it by: our text is still the one that was edited.
    has_news = same[0] != same[1] and ours.digests["text"] != theirs.digests.get("text")
    text = ours.text if has_news or replace else theirs.text
    return theirs.above, text, theirs.below, problems if has_news else []


def _text_problems(theirs: Card) -> list[str]:
    if theirs.text is None and _is_tagged(theirs):
        return [
            "README.md was written by srel_hub 0.9 or earlier, which did not mark its part, or its comments "
            "srel_hub:begin and srel_hub:end were removed, so text that was edited by hand cannot be recognized; save "
            f"your own text, {REPLACE}, then add your text above or below the new comments"
        ]
    if theirs.text is not None and _digest(theirs.text.strip()) != theirs.digests.get("text"):
        return [
            "README.md was edited by hand inside the part that srel_hub writes, and the push would lose this edit; on "
            f"the Hub, move the edit above the comment srel_hub:begin or below srel_hub:end, or {REPLACE}"
        ]
    return []


def _is_tagged(card: Card) -> bool:
    tags = card.metadata.get("tags")
    return isinstance(tags, list) and CARD_TAG in tags


# Metadata


def _by_text(values: Mapping[Any, Any]) -> Metadata:
    """Return metadata with keys that are text. YAML allows keys of other types."""
    return {str(key): value for key, value in values.items()}


def _merge_metadata(ours: Card, theirs: Card, replace: bool) -> tuple[str, list[str]]:
    """Return the merged YAML text, and the problems. Each value is merged on its own."""
    own_blocks, kept_blocks = _blocks(ours.yaml), _blocks(theirs.yaml)
    values, blocks, problems = Metadata(), dict[str, str](), list[str]()
    for key in [*ours.metadata, *(key for key in theirs.metadata if key not in ours.metadata)]:
        owner, problem = _owner(key, ours, theirs)
        is_forced = replace and key in ours.metadata
        if (problem or is_forced) and key == "tags" and isinstance(theirs.metadata.get(key), list):
            united = [*ours.metadata[key], *(tag for tag in theirs.metadata[key] if tag not in ours.metadata[key])]
            values[key], blocks[key] = united, _dump({key: united})
            continue
        if is_forced:
            owner = ours
        elif problem is not None:
            problems.append(problem)
        if key in owner.metadata:
            values[key] = owner.metadata[key]
            lines = own_blocks if owner is ours else kept_blocks
            blocks[key] = lines.get(key) or _dump({key: values[key]})
    text = kept_blocks.get("", "") + "".join(blocks.values())
    try:
        is_intact = _by_text(yaml.safe_load(text)) == values
    except yaml.YAMLError:  # an alias, whose anchor was in a replaced block
        is_intact = False
    return text if is_intact else _dump(values), problems


def _owner(key: str, ours: Card, theirs: Card) -> tuple[Card, str | None]:
    """Return the card whose value of a metadata key is used, and the problem if the other value would be lost."""
    missing = object()
    own, kept = ours.metadata.get(key, missing), theirs.metadata.get(key, missing)
    is_known = theirs.text is not None
    if own == kept:
        return theirs, None
    if is_known and not _is_edited(theirs, key):
        return ours, None
    if own is missing:  # a key that only people use, or one that we no longer write and that was edited
        return theirs, None
    if not is_known and (kept is missing or _is_tagged(theirs)):
        return ours, None  # a card without digests is a problem already
    if key in FILE_KEYS:
        return ours, _edited_key(key)
    if is_known and theirs.digests.get(key) == ours.digests.get(key):
        return theirs, None  # edited by hand, and we write what we wrote before
    shown = "no value" if kept is missing else repr(kept)[:200]
    return ours, (
        f"README.md has {key}: {shown}, which was written by hand, but the new card has {key}: {repr(own)[:200]}; make "
        f"them equal, or {REPLACE}"
    )


def _is_edited(theirs: Card, key: str) -> bool:
    """Return whether a metadata value differs from the one that srel_hub wrote."""
    if key in theirs.metadata:
        return _digest(theirs.metadata[key]) != theirs.digests.get(key)
    return key in theirs.digests


def _edited_key(key: str) -> str:
    return (
        f"README.md: the metadata {key}, which describes the data files, was edited by hand; restore it on the Hub, or "
        f"{REPLACE}"
    )


def _blocks(source: str) -> dict[str, str]:
    """Return the lines of each top-level key of a YAML mapping, with their comments, and under '' the lines above."""
    root = yaml.compose(source, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style or not root.value:
        return {}
    starts = [key.start_mark.index for key, _ in root.value]
    stops = [*starts[1:], len(source)]
    keys = [str(key.value) for key, _ in root.value]
    blocks = {key: source[start:stop] for key, start, stop in zip(keys, starts, stops, strict=True)}
    return {"": source[: starts[0]], **blocks}


def _dump(values: Metadata) -> str:
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
