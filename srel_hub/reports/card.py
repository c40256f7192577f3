"""Render the cards of a dataset and its teacher from `cards/*.jinja`.

Every number on a card is read from a file that the run wrote. A card holds no time, host, path of the machine or
process count, so that equal runs have equal cards.
"""

import functools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import jinja2
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from srel_hub.config import Recipe, Source, is_local, published
from srel_hub.config.protocols import protocol_title
from srel_hub.config.resources import CARDS
from srel_hub.data.sources import add_builtin_metadata
from srel_hub.hub.card_merge import marked_card
from srel_hub.labels.manifest import PACKED_VERSION, Manifest
from srel_hub.labels.read_manifest import read_manifest
from srel_hub.reports.plots import CAPTIONS, REAL_PICTURE
from srel_hub.reports.tables import write_csv
from srel_hub.stages.evaluate.summary import percent, student_title
from srel_hub.stages.recover.optimize import stages
from srel_hub.storage.condensed_table import hide_progress_bars
from srel_hub.storage.files import format_bytes, read_json, total_bytes


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# The Hub's tags for the number of images, by upper limit
SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
LOCAL_DATASET, LOCAL_TEACHER = "path/to/dataset", "path/to/teacher_repo"  # a card holds no path of the machine
ROW_TITLES = {
    "condensed": "condensed images, soft labels",
    "random-real": "random real images, soft labels from the same teacher",
    "random-real-hard": "the same random real images, hard labels",
    "condensed-hard": "condensed images, hard labels",
    "real-hard": "all real images, hard labels",
    "condensed-whole": "condensed images without augmentation, soft labels",
    "random-real-whole": "random real images without augmentation, soft labels from the same teacher",
}
HARD_TITLES = {  # if evaluate.loss is hard, no training set has soft labels
    "condensed": "condensed images, hard labels",
    "random-real": "random real images, hard labels",
    "condensed-whole": "condensed images without augmentation, hard labels",
    "random-real-whole": "random real images without augmentation, hard labels",
}


@dataclass(frozen=True)
class ClassRow:
    """A line of the class table.

    Attributes:
        index: The label.
        name: The name of the class.
        real: Real training images of the class; None if the training split was not opened.
        random: Images of the class in a random real subset; None if `real` is None.
        condensed: Condensed images of the class.
    """

    index: int
    name: str
    real: int | None
    random: int | None
    condensed: int


def dataset_card(run_folder: Path, recipe: Recipe, tree: Path) -> str:
    """Return the card of the dataset repository that is assembled in the folder `tree`.

    The sizes on the card are those of the files in `tree`. All other facts come from the run directory.
    """
    facts = card_facts(run_folder, recipe)
    sizes = {
        "images": total_bytes(tree / "data"),
        "labels": total_bytes(tree / "soft_labels"),
        "teacher": sum((run_folder / name / "model.safetensors").stat().st_size for name in recipe.label_folders),
    }
    count = facts["manifest"].num_images
    data = DatasetCardData(
        pretty_name=facts["heading"] if facts["given"] else f"{facts['heading']} with SRe2L",
        **({"license": facts["given"]["license"]} if facts["given"] else _license(facts["source"])),
        task_categories=["image-classification"],
        size_categories=[next((name for limit, name in SIZE_CATEGORIES.items() if count < limit), "1M<n<10M")],
        annotations_creators=["machine-generated"],
        tags=["dataset-condensation", "dataset-distillation", "sre2l", "soft-labels", "srel_hub"],
    )
    images = recipe.recover.images
    data.source_datasets = _hub_ids(recipe.source.path, None if images is None else images.path) or None
    splits = [{"split": "train", "path": "data/train-*"}]
    MetadataConfigs({"default": {"data_files": splits}}).to_dataset_card_data(data)
    DatasetInfosDict({"default": dataset_info(tree / "data")}).to_dataset_card_data(data)
    pictures = [(f"assets/{name}", caption) for name, caption in CAPTIONS.items() if (tree / "assets" / name).is_file()]
    has_real = (tree / "assets" / REAL_PICTURE).is_file()
    is_packed = read_manifest(tree / "soft_labels" / "manifest.json").version == PACKED_VERSION
    body = {**facts, "pictures": pictures, "has_real_picture": has_real, "sizes": sizes, "is_packed": is_packed}
    return _render("dataset.md.jinja", data.to_yaml(), body)


def teacher_card(run_folder: Path, recipe: Recipe) -> str:
    """Return the card of the teacher's repository."""
    facts = card_facts(run_folder, recipe)
    results = []
    if facts["teacher"]["top1"] is not None:
        results.append(
            EvalResult(
                task_type="image-classification",
                # `EvalResult` requires a dataset id. A local folder has none, so the task stands in for it.
                dataset_type=(_hub_ids(recipe.source.path) or ["image-classification"])[0],
                dataset_name=facts["title"],
                dataset_split=recipe.source.eval_split if recipe.source.eval_fraction is None else "train",
                metric_type="accuracy",
                metric_value=facts["teacher"]["top1"],
            )
        )
    data = ModelCardData(
        **_license(facts["source"]),
        library_name="transformers",
        pipeline_tag="image-classification",
        base_model=_base_model(facts["teacher"]),
        datasets=_hub_ids(recipe.source.path) or None,
        tags=["sre2l", "dataset-condensation", "srel_hub"],
        model_name=(recipe.publish.teacher or f"{recipe.name}-teacher").split("/")[-1],
        eval_results=results or None,
    )
    return _render("teacher.md.jinja", data.to_yaml(), facts)


def _render(template: str, metadata: str, facts: Mapping[str, Any]) -> str:
    """Return a card with YAML metadata and a rendered text."""
    return marked_card(metadata, _templates().get_template(template).render(**facts))


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the templates of the cards. A missing fact is an error, and not rendered as ''."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARDS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "amount": _amount,
        "bytes": format_bytes,
        "student": student_title,
        "cell": _cell,
        "bibtex": _bibtex,
    }
    return environment


def _license(source: Source) -> dict[str, Any]:
    """Return the license as metadata. The Hub reads name and link only of a license that it does not list."""
    names = ("license", "license_name", "license_link") if source.license == "other" else ("license",)
    return {name: value for name in names if (value := getattr(source, name)) is not None}


def _license_text(source: Source) -> str:
    """Return the license in Markdown: its identifier on the Hub, or the name and link of another license."""
    if source.license != "other" or source.license_name is None:
        return f"`{source.license}`"
    return f"`{source.license_name}`{f' ({source.license_link})' if source.license_link else ''}"


def _base_model(teacher: Mapping[str, Any]) -> str | None:
    """Return the Hub id of a pretrained teacher; None for a local one or one that squeeze trained."""
    origin = teacher["pretrained"]
    is_on_hub = origin is not None and origin["revision"] is not None  # a local path has no commit
    return str(origin["path"]) if is_on_hub else None


def card_facts(run_folder: Path, recipe: Recipe) -> dict[str, Any]:
    """Read the facts for both templates from the files of the run, and return them by their name in the templates."""
    manifest = read_manifest(run_folder / "soft_labels" / "manifest.json")
    squeezed, *matched = (_teacher_facts(run_folder / folder) for folder in recipe.recover_folders)
    teacher, *committee = (_teacher_facts(run_folder / folder) for folder in recipe.label_folders)
    source = add_builtin_metadata(recipe.source)
    title = source.title or published(recipe)["source"]["path"]
    return {
        "recipe": recipe,
        "source": source,
        "license": _license_text(source),
        "title": title,
        "heading": heading(recipe, title),
        "given": given_facts(recipe),
        "manifest": manifest,
        "squeezed": squeezed,
        "matched": matched,
        "teacher": teacher,
        "committee": committee,
        "processor": read_json(run_folder / recipe.label_folder / "preprocessor_config.json"),
        "two_teachers": recipe.relabel.teacher is not None,
        "summary": read_json(run_folder / "evaluate" / "summary.json"),
        "row_titles": row_titles(recipe),
        "protocol": protocol_title(recipe),
        "unscored": [manifest.class_names[index] for index in teacher.get("classes_without_eval_images", [])],
        "classes": class_table(manifest, recipe, squeezed["class_images"]),
        "published": recipe.publish.repo_id is not None,
        "dataset_at": recipe.publish.repo_id or LOCAL_DATASET,
        "teacher_at": recipe.publish.teacher or LOCAL_TEACHER,
        "off_main": recipe.publish.revision and (recipe.publish.pinned or recipe.publish.revision),
        "flops": stage_flops(recipe, manifest, [squeezed, *matched], [teacher, *committee]),
        "versions": read_json(run_folder / "versions.json"),
    }


def heading(recipe: Recipe, title: str) -> str:
    """Return the heading of the dataset's card, for a source with this title."""
    count = f"{recipe.recover.ipc} image{'s' if recipe.recover.ipc > 1 else ''} per class"
    given = given_facts(recipe)
    return f"{title}, condensed to {count}" if given is None else f"{given['title']}, {count} with soft labels"


def given_facts(recipe: Recipe) -> dict[str, Any] | None:
    """Return the facts about given images; None if the images were recovered."""
    images = published(recipe)["recover"].get("images")
    return None if images is None else {**images, "title": images["title"] or images["path"]}


def _teacher_facts(folder: Path) -> dict[str, Any]:
    """Return the metrics that squeeze measured for a teacher.

    Some are only in the metrics of a teacher with more classes than the dataset, or with an eval split that was made.
    """
    return {"network_classes": None, "made_eval": None, **read_json(folder / "metrics.json")}


def row_titles(recipe: Recipe) -> dict[str, str]:
    """Return the title of each training set of evaluate, by its name in `metrics.json`."""
    titles = ROW_TITLES | (HARD_TITLES if recipe.evaluate.loss == "hard" else {})
    if recipe.recover.images is None:
        return titles
    return {name: title.replace("condensed images", "given images") for name, title in titles.items()}


def class_table(manifest: Manifest, recipe: Recipe, real: Sequence[int] | None) -> list[ClassRow]:
    """Return one row per class, in the order of the labels.

    Args:
        manifest: The manifest of the soft labels, which has the class names.
        recipe: The recipe of the run.
        real: Real training images per class; None if the training split was not opened.
    """
    ipc = recipe.recover.ipc
    counts: Sequence[int | None] = real or [None] * manifest.num_classes
    return [
        ClassRow(index, name, count, None if count is None else min(ipc, count), ipc)
        for index, (name, count) in enumerate(zip(manifest.class_names, counts, strict=True))
    ]


def write_class_table(file: Path, run_folder: Path, recipe: Recipe) -> None:
    """Write the class table as CSV, with empty cells for counts that are not known."""
    manifest = read_manifest(run_folder / "soft_labels" / "manifest.json")
    squeezed = _teacher_facts(run_folder / recipe.recover_folders[0])
    rows = class_table(manifest, recipe, squeezed["class_images"])
    write_csv(file, [field.name for field in fields(ClassRow)], [astuple(row) for row in rows])


def stage_flops(
    recipe: Recipe,
    manifest: Manifest,
    matched: Sequence[Mapping[str, Any]],
    labelers: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Return the floating-point operations of squeeze, recover and relabel; a multiply-add counts as two.

    With F for one forward pass of one image, training costs 3 F per image and epoch, recovering 2 F per image and
    iteration (the weights are frozen, so their gradients are not computed), and labeling F per view. The training of a
    pretrained teacher is not counted because its cost is unknown. Scoring candidate patches is not counted either.

    Args:
        recipe: The recipe of the run.
        manifest: The manifest of the soft labels.
        matched: Metrics of the teachers that the images are recovered from, squeeze's teacher first.
        labelers: Metrics of the teachers that label the images.
    """
    count, squeezed, spec = manifest.num_images, matched[0], recipe.recover
    height, width = manifest.image_size
    # Iterations at a smaller size cost less: a convolution's operations grow with the pixels.
    looks = sum(len(s.iterations) * s.size[0] * s.size[1] for s in stages(spec, (height, width))) / (height * width)
    # `cycle` runs one teacher per iteration, `committee` all of them.
    per_look = sum(teacher["forward_flops"] for teacher in matched) / (len(matched) if spec.turns == "cycle" else 1)
    return {
        "squeeze": 3.0 * squeezed["forward_flops"] * (squeezed["train_images"] or 0) * recipe.squeeze.epochs,
        "recover": 0.0 if spec.images is not None else 2.0 * per_look * count * looks,
        "relabel": 1.0 * sum(teacher["forward_flops"] for teacher in labelers) * count * manifest.epochs,
    }


def dataset_info(data: Path) -> datasets.DatasetInfo:
    """Return the `dataset_info` of the parquet files in `data`: features, split sizes and bytes."""
    # In a temporary cache, so that no second copy of the images stays in the user's.
    with tempfile.TemporaryDirectory() as cache, hide_progress_bars():
        files = sorted(str(file) for file in data.glob("*.parquet"))
        loaded = datasets.load_dataset("parquet", data_files={"train": files}, cache_dir=cache)
        info = loaded["train"].info
    split = info.splits["train"]
    # `info` also names the parquet reader, which says nothing about this dataset.
    size = datasets.SplitInfo("train", num_bytes=split.num_bytes, num_examples=split.num_examples)
    return datasets.DatasetInfo(
        features=info.features,
        splits=datasets.SplitDict({"train": size}),
        download_size=info.download_size,
        dataset_size=info.dataset_size,
    )


def _hub_ids(*paths: str | None) -> list[str]:
    """Return the paths that are Hub ids. A folder of another machine may look like one."""
    return [path for path in paths if path is not None and not is_local(path) and HUB_ID.fullmatch(path)]


def _cell(text: str) -> str:
    """Escape text for a cell of a Markdown table: one line, with no Markdown or HTML in effect."""
    # Class names come from other people's data and may hold HTML or a `|`.
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", printable)


def _bibtex(text: str) -> str:
    """Remove the characters that have a meaning in BibTeX."""
    return re.sub(r"([\\{}$&%#_^~])", "", text)


def _amount(value: float) -> str:
    """Format a count: '24,202', or '1.45e+15' if it has too many digits to read."""
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2e}"
