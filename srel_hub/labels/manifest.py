"""labels.manifest."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from srel_hub.config import REF, Augment
from srel_hub.config.validation import describe_errors
from srel_hub.core.encodings import ENCODINGS, Encoding, encoding_of
from srel_hub.core.seeds import generator
from srel_hub.errors import UserError
from srel_hub.hub.repository import LARGEST_TEXT


FORMAT = "srel-soft-labels"
VERSION = 1
LARGEST_GROUP = 1024
LARGEST_COUNT = 2**31 - 1  # indices are int32
PRECISIONS = ("float32", "bfloat16", "float16")
MOST_FAULTS = 10
TEACHER_FILES = ("model.safetensors", "config.json")


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """Which teacher labeled. `sha256` has one entry per file; `accuracy` is top-1 on the full stored images."""

    repo_id: str | None
    tag: str | None
    sha256: dict[str, str]
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Member:
    """Another network whose logits are averaged with the teacher's, in a folder of the teacher's repository."""

    folder: str
    sha256: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LabelFile:
    """One safetensors file: which epoch, which rows [start, stop), its size and sha256."""

    name: str
    epoch: int
    rows: tuple[int, int]
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class OtherFile:
    """A file of the dataset's repository that holds no labels, by its path there."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """soft_labels/manifest.json.

    Attributes:
        group_size: images that shared BatchNorm statistics as they were labeled; None: the teacher was in eval mode.
        top_k, top_values: of the encoding 'topk': logits of a row that are kept, and what they are stored as.
        pool: how a student that trains more epochs than are stored uses them: 'cycle' or 'draw' (`pool_epoch`).
        kl_error: mean KL(softmax(z / T) || softmax(z' / T)) of the teacher's logits z and the stored z', by T.
        others: all files of the assembled repository but the labels, README.md and the manifest itself.
    """

    num_images: int
    num_classes: int
    epochs: int
    image_size: tuple[int, int]
    padding: int
    augment: Augment
    seed: int
    encoding: str
    group_size: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]
    teacher: TeacherFacts
    precision: str
    device: str
    torch: str
    image_table_sha256: str
    files: tuple[LabelFile, ...]
    others: tuple[OtherFile, ...] = ()  # not told before version 0.3.0
    top_k: int | None = None  # this and the next four not before 0.6.0
    top_values: str | None = None
    pool: str = "cycle"
    committee: tuple[Member, ...] = ()
    kl_error: dict[str, float] | None = None
    format: str = FORMAT
    version: int = VERSION

    @property
    def coding(self) -> Encoding:
        """How each row of labels is stored."""
        return encoding_of(self.encoding, self.num_classes, self.top_k, self.top_values)

    @property
    def losses(self) -> list[tuple[int, float]]:
        """What the encoding loses, by rising temperature; empty where that is not known."""
        return sorted((int(T), value) for T, value in (self.kl_error or {}).items())

    def pool_epoch(self, epoch: int) -> int:
        """The stored epoch that is a student's epoch `epoch`; where none is stored, that itself."""
        return pool_epoch(self.pool, self.epochs, self.seed, epoch)


def pool_epoch(pool: str, stored: int, seed: int, epoch: int) -> int:
    """The stored epoch that is a student's epoch: in turn, or, of a pool 'draw', drawn with replacement."""
    if stored == 0:
        return epoch
    if pool == "cycle":
        return epoch % stored
    return int(torch.randint(stored, (), generator=generator(seed, "pool", epoch)))


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; whoever wrote it, its names stay in the repository and its numbers agree.

    Raises:
        UserError: for another format, an unknown version or encoding (by name), a field of the wrong type, or fields
            that contradict each other.
    """
    if path.stat().st_size > LARGEST_TEXT:
        raise UserError(f"{path}: {path.stat().st_size} bytes; a manifest has at most {LARGEST_TEXT}")
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not a manifest, since it is no JSON") from None
    if not isinstance(mapping, dict):
        raise UserError(f"{path}: not a manifest, but {type(mapping).__name__}")
    known = {"format": (FORMAT,), "version": (VERSION,), "encoding": ENCODINGS}
    for key, allowed in known.items():
        if mapping.get(key) not in allowed:
            choices = ", ".join(str(value) for value in allowed)
            raise UserError(f"{path}: {key} {mapping.get(key)!r} is unknown here (known: {choices}); update srel_hub")
    _require_entries(mapping, path)
    try:
        manifest = TypeAdapter(Manifest).validate_python(mapping)
    except ValidationError as error:
        raise UserError("\n".join([f"{path}: not a valid manifest", *describe_errors(error, Manifest)])) from None
    faults = list(_contradictions(manifest))
    if faults:
        raise UserError("\n".join([f"{path}: not a valid manifest", *faults[:MOST_FAULTS]]))
    return manifest


def _require_entries(mapping: Mapping[str, Any], path: Path) -> None:
    """Check long lists one by one, up to the first fault: a million faults would not fit into memory."""
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
    """What in a manifest cannot be, a line each."""
    N, K = manifest.num_images, manifest.num_classes
    if not 1 <= N <= LARGEST_COUNT or not 1 <= K <= LARGEST_COUNT or not 0 <= manifest.epochs <= LARGEST_COUNT:
        yield f"num_images {N}, num_classes {K}, epochs {manifest.epochs}: out of range"
        return
    if manifest.epochs > len(manifest.files):
        yield f"epochs: {manifest.epochs}, but there are {len(manifest.files)} files of labels"
        return
    if manifest.precision not in PRECISIONS:
        yield f"precision {manifest.precision[:50]!r}: must be one of {', '.join(PRECISIONS)}"
    yield from _wrong_labeling(manifest)
    teacher = manifest.teacher
    if teacher.repo_id is not None and not re.fullmatch(
        r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", teacher.repo_id, re.A
    ):
        yield f"teacher.repo_id {teacher.repo_id[:100]!r}: must be namespace/name"
    if teacher.tag is not None and not re.fullmatch(REF, teacher.tag):
        yield f"teacher.tag {teacher.tag[:100]!r}: is no tag"
    names = manifest.class_names
    if not len(set(names)) == len(names) == K:
        yield f"num_classes: {K}, but class_names has {len(names)} names, {len(set(names))} of them different"
    if not all(1 <= side <= 32767 for side in manifest.image_size) or not 0 <= manifest.padding <= 32767:
        yield f"image_size {list(manifest.image_size)}, padding {manifest.padding}: out of range"
    if not all(math.isfinite(value) for value in manifest.mean) or not all(0 < v < math.inf for v in manifest.std):
        yield f"mean {list(manifest.mean)}, std {list(manifest.std)}: no normalization"
    if not 0 <= manifest.teacher.accuracy <= 1:
        yield f"teacher.accuracy {manifest.teacher.accuracy}: must be in [0, 1]"
    if not set(TEACHER_FILES) <= set(manifest.teacher.sha256) <= {*TEACHER_FILES, "preprocessor_config.json"}:
        yield f"teacher.sha256: must name {', '.join(TEACHER_FILES)}, got {', '.join(manifest.teacher.sha256)[:200]}"
    for other in manifest.others:
        if not _is_plain(other.name) or other.bytes < 0:
            yield f"others: {other.name!r} is no path inside the repository"
    rows: dict[int, list[tuple[int, int]]] = {epoch: [] for epoch in range(manifest.epochs)}
    for file in manifest.files:
        if not re.fullmatch(r"epoch-[0-9]{5,}(-[0-9]{5,})?\.safetensors", file.name) or file.bytes < 0:
            yield f"files: {file.name!r} is no name of a label file"
        elif file.epoch not in rows:
            yield f"files: {file.name} is of epoch {file.epoch}, epochs are {manifest.epochs}"
        else:
            rows[file.epoch].append(file.rows)
    for epoch, parts in rows.items():
        bounds = [bound for part in sorted(parts) for bound in part]
        if not bounds or bounds[0] != 0 or bounds[-1] != N or bounds[1:-1:2] != bounds[2:-1:2]:
            yield f"files: epoch {epoch} has the rows {sorted(parts)[:3]}, not all of [0, {N})"
    if len({file.name for file in manifest.files}) != len(manifest.files):
        yield "files: a name is listed twice"


def _wrong_labeling(manifest: Manifest) -> Iterator[str]:
    """What cannot be of how, and by whom, labels were made and stored."""
    K, k, size = manifest.num_classes, manifest.top_k, manifest.group_size
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
        yield "kl_error: its keys must be temperatures"
    for member in manifest.committee:
        if not re.fullmatch(r"committee-[0-9]+", member.folder):
            yield f"committee: {member.folder[:100]!r} is no name of a member's folder"
        if not set(TEACHER_FILES) <= set(member.sha256) <= {*TEACHER_FILES, "preprocessor_config.json"}:
            yield f"committee: sha256 of {member.folder[:100]} must name {', '.join(TEACHER_FILES)}"


def _is_plain(name: str) -> bool:
    """Whether a name stays inside the folder it is joined to, on every system."""
    parts = PurePosixPath(name).parts
    return bool(parts) and "/".join(parts) == name and not re.search(r"[\\:\x00-\x1f]", name) and ".." not in parts
