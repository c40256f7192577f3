"""Read and check the manifest of a condensed dataset.

A manifest may come from anyone. `read_manifest` rejects a manifest with names outside the repository or with numbers
that contradict each other.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from srel_hub.config import REF
from srel_hub.config.validation import describe_errors
from srel_hub.core.encodings import ENCODINGS
from srel_hub.errors import UserError
from srel_hub.hub.repository import LARGEST_TEXT
from srel_hub.labels.manifest import (
    FORMAT,
    OPTIONAL_TEACHER_FILES,
    PACKED_VERSION,
    TEACHER_FILES,
    VERSION,
    LabelFile,
    Manifest,
    Member,
    OtherFile,
    TeacherFacts,
)


LARGEST_COUNT = 2**31 - 1  # indices are stored as int32
LARGEST_SIDE = 32767  # pixels; boxes are stored as int16
MOST_PROBLEMS = 10  # that one error message lists
MOST_PARTS = 1_000_000  # epochs times parts of an epoch, in all packed files
LARGEST_GROUP = 1024  # images
PRECISIONS = ("float32", "bfloat16", "float16")


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        UserError: For an unknown format, an unsupported version or encoding, a field of the wrong type, or fields that
            contradict each other. The message lists up to 10 problems.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise UserError(f"{path}: the file has {path.stat().st_size} bytes; a manifest has at most {LARGEST_TEXT}")
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not a manifest: it is not valid JSON") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: not a manifest: it must be a JSON object, not {type(mapping).__name__}")
    supported = {"format": (FORMAT,), "version": (VERSION, PACKED_VERSION), "encoding": ENCODINGS}
    for key, allowed in supported.items():
        if mapping.get(key) not in allowed:
            choices = ", ".join(str(value) for value in allowed)
            raise UserError(
                f"{path}: {key} {mapping.get(key)!r} is not supported (supported: {choices}); update srel_hub"
            )
    _require_valid_entries(mapping, path)
    try:
        manifest = TypeAdapter(Manifest).validate_python(mapping)
    except ValidationError as error:
        raise UserError("\n".join([f"{path}: not a valid manifest", *describe_errors(error, Manifest)])) from None
    problems = list(_contradictions(manifest))
    if problems:
        raise UserError("\n".join([f"{path}: not a valid manifest", *problems[:MOST_PROBLEMS]]))
    return manifest


def _require_valid_entries(mapping: Mapping[str, Any], path: Path) -> None:
    """Check long lists entry by entry and stop at the first problem: a million problems would not fit into memory."""
    for key, kind in (("files", LabelFile), ("others", OtherFile), ("committee", Member), ("class_names", str)):
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        entries = mapping.get(key, [])
        if not isinstance(entries, list):
            raise UserError(f"{path}: not a valid manifest\n{key}: must be a list")
        for index, entry in enumerate(entries):
            try:
                adapter.validate_python(entry)
            except ValidationError as error:
                lines = [f"{key}.{index}.{line}" for line in describe_errors(error, kind)]
                raise UserError("\n".join([f"{path}: not a valid manifest", *lines])) from None


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yield one line for each field of a manifest that contradicts another or is out of range."""
    N, K = manifest.num_images, manifest.num_classes
    # First what the other checks allocate memory by.
    if not 1 <= N <= LARGEST_COUNT or not 1 <= K <= LARGEST_COUNT or not 0 <= manifest.epochs <= LARGEST_COUNT:
        yield f"num_images {N}, num_classes {K}, epochs {manifest.epochs}: out of range"
        return
    if any(not 1 <= file.epochs <= (1 if manifest.version == VERSION else MOST_PARTS) for file in manifest.files):
        yield f"files: a number of epochs is out of range for version {manifest.version}"
        return
    stored = sum(file.epochs for file in manifest.files)
    if manifest.epochs > stored or stored > max(MOST_PARTS, len(manifest.files)):
        yield f"epochs: {manifest.epochs}, but the {len(manifest.files)} files of labels hold {stored}"
        return
    yield from _wrong_images(manifest)
    yield from _wrong_teacher(manifest.teacher, K)
    yield from _wrong_labeling(manifest)
    yield from _wrong_files(manifest)


def _wrong_images(manifest: Manifest) -> Iterator[str]:
    """Yield problems of the class names, the image size and the normalization."""
    K, names, size, padding = manifest.num_classes, manifest.class_names, manifest.image_size, manifest.padding
    if not len(set(names)) == len(names) == K:
        yield f"num_classes: {K}, but class_names has {len(names)} names, {len(set(names))} of them different"
    if not all(1 <= side <= LARGEST_SIDE for side in size) or not 0 <= padding <= LARGEST_SIDE:
        yield f"image_size {list(size)}, padding {padding}: out of range"
    if not all(math.isfinite(value) for value in manifest.mean) or not all(0 < v < math.inf for v in manifest.std):
        yield f"mean {list(manifest.mean)}, std {list(manifest.std)}: must be finite, std positive"


def _wrong_teacher(teacher: TeacherFacts, num_classes: int) -> Iterator[str]:
    """Yield problems of the teacher's name, tag, digests and accuracy."""
    repo_id = teacher.repo_id
    if repo_id is not None and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo_id, re.A):
        yield f"teacher.repo_id {repo_id[:100]!r}: must be namespace/name"
    if teacher.tag is not None and not re.fullmatch(REF, teacher.tag):
        yield f"teacher.tag {teacher.tag[:100]!r}: must be the name of a tag"
    if not 0 <= teacher.accuracy <= 1:
        yield f"teacher.accuracy {teacher.accuracy}: must be in [0, 1]"
    yield from _wrong_columns(teacher, num_classes)
    if not _names_teacher_files(teacher.sha256):
        yield f"teacher.sha256: must name {', '.join(TEACHER_FILES)}, got {', '.join(teacher.sha256)[:200]}"


def _wrong_columns(teacher: TeacherFacts, num_classes: int) -> Iterator[str]:
    """Yield problems of the selection of a teacher's classes."""
    total, columns = teacher.num_classes, teacher.columns
    if total is None and columns is None:
        return
    if total is None or columns is None:
        yield "teacher: num_classes and columns belong together"
    elif len(columns) != num_classes or len(set(columns)) != num_classes or not all(0 <= c < total for c in columns):
        yield f"teacher.columns: must list {num_classes} different classes of the teacher's {total}"


def _names_teacher_files(digests: Mapping[str, str]) -> bool:
    return set(TEACHER_FILES) <= set(digests) <= {*TEACHER_FILES, *OPTIONAL_TEACHER_FILES}


def _wrong_labeling(manifest: Manifest) -> Iterator[str]:
    """Yield problems of how labels were computed and are stored."""
    K, k, size = manifest.num_classes, manifest.top_k, manifest.group_size
    if manifest.precision not in PRECISIONS:
        yield f"precision {manifest.precision[:50]!r}: must be one of {', '.join(PRECISIONS)}"
    if manifest.encoding == "topk" and not (isinstance(k, int) and 1 <= k <= K):
        yield f"top_k {k}: must be in [1, {K}], the number of classes"
    if manifest.encoding == "topk" and manifest.top_values not in ("float16", "uint8"):
        yield f"top_values {str(manifest.top_values)[:50]!r}: must be float16 or uint8"
    if manifest.encoding == "none" and manifest.epochs:
        yield f"epochs: {manifest.epochs}, but the encoding none stores nothing"
    if manifest.pool not in ("cycle", "draw"):
        yield f"pool {manifest.pool[:50]!r}: must be cycle or draw"
    if size is not None and not 2 <= size <= LARGEST_GROUP:
        yield f"group_size {size}: must be in [2, {LARGEST_GROUP}]"
    if not all(re.fullmatch("[0-9]{1,4}", T) for T in manifest.kl_error or {}):
        yield "kl_error: its keys must be temperatures, integers of up to 4 digits"
    for member in manifest.committee:
        if not re.fullmatch(r"committee-[0-9]+", member.folder):
            yield f"committee: the folder {member.folder[:100]!r} must be named committee-N"
        if not _names_teacher_files(member.sha256):
            yield f"committee: sha256 of {member.folder[:100]} must name {', '.join(TEACHER_FILES)}"


def _wrong_files(manifest: Manifest) -> Iterator[str]:
    """Yield names that leave the repository, and epochs whose files do not hold every row once."""
    for other in manifest.others:
        if not _is_relative(other.name) or other.bytes < 0:
            yield f"others: {other.name!r} is not a path inside the repository"
    rows: dict[int, list[tuple[int, int]]] = {epoch: [] for epoch in range(manifest.epochs)}
    for file in manifest.files:
        last = file.epoch + file.epochs - 1
        if not re.fullmatch(r"epochs?(-[0-9]{5,}){1,3}\.safetensors", file.name) or file.bytes < 0:
            yield f"files: {file.name!r} is not the name of a label file"
        elif file.epoch not in rows or last not in rows:
            yield f"files: {file.name} is of epoch {last}, but epochs is {manifest.epochs}"
        else:
            for epoch in range(file.epoch, last + 1):
                rows[epoch].append(file.rows)
    for epoch, parts in rows.items():
        if not _covers(sorted(parts), manifest.num_images):
            yield f"files: epoch {epoch} has the rows {sorted(parts)[:3]}, not all of [0, {manifest.num_images})"
    if len({file.name for file in manifest.files}) != len(manifest.files):
        yield "files: a name is listed twice"


def _covers(parts: Sequence[tuple[int, int]], count: int) -> bool:
    """Return whether the ranges [start, stop), taken in order, cover every row of [0, count) exactly once."""
    expected = 0
    for start, stop in parts:
        if start != expected:
            return False
        expected = stop
    return expected == count


def _is_relative(name: str) -> bool:
    """Return whether a path stays inside the folder that it is joined to, on every operating system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and "/".join(parts) == name and not re.search(r"[\\:\x00-\x1f]", name) and ".." not in parts
