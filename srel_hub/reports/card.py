"""Cards: facts read from a run's artifacts, rendered through `cards/*.jinja`. No number on a card is typed in."""

import csv
import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import jinja2
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from srel_hub.config import Recipe, published
from srel_hub.config.protocols import protocol_title
from srel_hub.config.resources import CARDS
from srel_hub.data.sources import add_builtin_metadata
from srel_hub.labels.manifest import Manifest, read_manifest
from srel_hub.reports.plots import CAPTIONS, REAL_PICTURE
from srel_hub.runs.machine import library_versions
from srel_hub.stages.evaluate.summary import percent, student_title
from srel_hub.stages.recover.optimize import stages
from srel_hub.storage.condensed_table import hide_progress_bars
from srel_hub.storage.files import format_bytes, read_json, total_bytes


SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
ROW_TITLES = {
    "condensed": "condensed images, soft labels",
    "random-real": "random real images, the same teacher's labels",
    "random-real-hard": "the same random real images, hard labels",
    "condensed-hard": "condensed images, hard labels",
    "real-hard": "all real images, hard labels",
    "condensed-whole": "condensed images not augmented, soft labels",
    "random-real-whole": "random real images not augmented, the same teacher's labels",
}
HARD_TITLES = {"condensed": "condensed images, hard labels", "random-real": "random real images, hard labels"}


def render(template: str, metadata: str, facts: Mapping[str, Any]) -> str:
    """A card: YAML front matter and a rendered body. A fact that is missing is an error, not an empty string."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(CARDS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "amount": amount,
        "bytes": format_bytes,
        "student": student_title,
        "cell": cell,
        "bibtex": bibtex,
    }
    return f"---\n{metadata.strip()}\n---\n\n{environment.get_template(template).render(**facts)}"


def facts(run_folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What both cards say, each number read from the run's own files."""
    manifest = read_manifest(run_folder / "soft_labels" / "manifest.json")
    squeezed, *others = (teacher_facts(run_folder / folder) for folder in recipe.recover_folders)
    teacher = teacher_facts(run_folder / recipe.label_folder)
    committee = [teacher_facts(run_folder / folder) for folder in recipe.label_folders[1:]]
    summary = read_json(run_folder / "evaluate" / "summary.json")
    local = f"runs/{recipe.name}"
    return {
        "recipe": recipe,
        "source": add_builtin_metadata(recipe.source),
        "title": add_builtin_metadata(recipe.source).title or published(recipe)["source"]["path"],
        "manifest": manifest,
        "squeezed": squeezed,
        "matched": others,
        "teacher": teacher,
        "processor": read_json(run_folder / recipe.label_folder / "preprocessor_config.json"),
        "two_teachers": recipe.relabel.teacher is not None,
        "summary": summary,
        "row_titles": ROW_TITLES | (HARD_TITLES if recipe.evaluate.loss == "hard" else {}),
        "protocol": protocol_title(recipe),
        "committee": committee,
        "classes": class_table(manifest, recipe, squeezed["class_images"]),
        "published": recipe.publish.repo_id is not None,
        "dataset_at": recipe.publish.repo_id or f"{local}/dataset",
        "teacher_at": recipe.publish.teacher or f"{local}/teacher_repo",
        "off_main": recipe.publish.revision and (recipe.publish.pinned or recipe.publish.revision),
        "flops": flops(recipe, manifest, [squeezed, *others], [teacher, *committee]),
        "versions": read_json(told) if (told := run_folder / "versions.json").is_file() else library_versions(),
    }


def teacher_facts(folder: Path) -> dict[str, Any]:
    """What squeeze measured of a teacher. Runs of version 0.1.0 always trained it, and counted no classes."""
    architecture = read_json(folder / "config.json")["architectures"][0]
    measured = read_json(folder / "metrics.json")
    return {"architecture": architecture, "pretrained": None, "class_images": None, **measured}


def class_table(manifest: Manifest, recipe: Recipe, real: Sequence[int] | None) -> list[dict[str, Any]]:
    """A row a class: real images, those that a random real subset takes of them, condensed images."""
    ipc = recipe.recover.ipc
    return [
        {
            "index": index,
            "name": name,
            "real": real[index] if real else None,
            "random": min(ipc, real[index]) if real else None,
            "condensed": ipc,
        }
        for index, name in enumerate(manifest.class_names)
    ]


def classes_csv(run_folder: Path, recipe: Recipe) -> str:
    """The class table as CSV; empty cells where the training split was not opened."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["index", "name", "real", "random", "condensed"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(facts(run_folder, recipe)["classes"])
    return text.getvalue()


def flops(
    recipe: Recipe,
    manifest: Manifest,
    matched: Sequence[Mapping[str, Any]],
    labellers: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Floating-point operations of the stages: 3 F an image to train, 2 F to recover (weights frozen), F to label.

    A pretrained teacher's training is not counted: nobody here knows it; nor are looks at candidate patches.

    Args:
        matched: the teachers that the images are recovered from, squeeze's first.
    """
    count, squeezed, spec = manifest.num_images, matched[0], recipe.recover
    height, width = manifest.image_size
    looks = sum(len(s.iterations) * s.size[0] * s.size[1] for s in stages(spec, (height, width))) / (height * width)
    asked = sum(each["forward_flops"] for each in matched) / (len(matched) if spec.turns == "cycle" else 1)
    return {
        "squeeze": 3.0 * squeezed["forward_flops"] * (squeezed["train_images"] or 0) * recipe.squeeze.epochs,
        "recover": 2.0 * asked * count * looks,
        "relabel": 1.0 * sum(each["forward_flops"] for each in labellers) * count * manifest.epochs,
    }


def dataset_card(run_folder: Path, recipe: Recipe, tree: Path) -> str:
    """The card of the dataset repository assembled at `tree`."""
    known = facts(run_folder, recipe)
    sizes = {
        "images": total_bytes(tree / "data"),
        "labels": total_bytes(tree / "soft_labels"),
        "teacher": sum((run_folder / each / "model.safetensors").stat().st_size for each in recipe.label_folders),
    }
    count = known["manifest"].num_images
    data = DatasetCardData(
        pretty_name=f"{known['title']}, condensed to {recipe.recover.ipc} images per class with SRe2L",
        license=known["source"].license,
        task_categories=["image-classification"],
        size_categories=[next((name for limit, name in SIZE_CATEGORIES.items() if count < limit), "1M<n<10M")],
        annotations_creators=["machine-generated"],
        tags=["dataset-condensation", "dataset-distillation", "sre2l", "soft-labels", "srel_hub"],
    )
    data.source_datasets = hub_ids(recipe.source.path) or None
    MetadataConfigs({"default": {"data_files": [{"split": "train", "path": "data/train-*"}]}}).to_dataset_card_data(
        data
    )
    DatasetInfosDict({"default": dataset_info(tree / "data")}).to_dataset_card_data(data)
    pictures = [(f"assets/{name}", told) for name, told in CAPTIONS.items() if (tree / "assets" / name).is_file()]
    shown = {"pictures": pictures, "has_real_picture": (tree / "assets" / REAL_PICTURE).is_file()}
    return render("dataset.md.jinja", data.to_yaml(), {**known, **shown, "sizes": sizes})


def teacher_card(run_folder: Path, recipe: Recipe) -> str:
    """The card of the teacher's repository."""
    known = facts(run_folder, recipe)
    results = []
    if known["teacher"]["top1"] is not None:
        results.append(
            EvalResult(
                task_type="image-classification",
                dataset_type=(hub_ids(recipe.source.path) or ["image-classification"])[0],
                dataset_name=known["title"],
                dataset_split=recipe.source.eval_split,
                metric_type="accuracy",
                metric_value=known["teacher"]["top1"],
            )
        )
    data = ModelCardData(
        license=known["source"].license,
        library_name="transformers",
        pipeline_tag="image-classification",
        datasets=hub_ids(recipe.source.path, recipe.publish.repo_id) or None,
        tags=["sre2l", "dataset-condensation", "srel_hub"],
        model_name=(recipe.publish.teacher or f"{recipe.name}-teacher").split("/")[-1],
        eval_results=results or None,
    )
    return render("teacher.md.jinja", data.to_yaml(), known)


def hub_ids(*names: str | None) -> list[str]:
    """Those of the names that are repositories on the Hub, not local folders."""
    return [name for name in names if name is not None and is_hub_id(name)]


def is_hub_id(name: str) -> bool:
    return not Path(name).exists() and not name.startswith(("/", ".", "~"))


def dataset_info(data: Path) -> datasets.DatasetInfo:
    """What `load_dataset` itself finds in the parquet files: features, split sizes, bytes."""
    with tempfile.TemporaryDirectory() as cache, hide_progress_bars():
        files = sorted(str(file) for file in data.glob("*.parquet"))
        loaded = datasets.load_dataset("parquet", data_files={"train": files}, cache_dir=cache)
        info = loaded["train"].info
    split = info.splits["train"]
    size = datasets.SplitInfo("train", num_bytes=split.num_bytes, num_examples=split.num_examples)
    return datasets.DatasetInfo(
        features=info.features,
        splits=datasets.SplitDict({"train": size}),
        download_size=info.download_size,
        dataset_size=info.dataset_size,
    )


def cell(text: str) -> str:
    """Text as it stands in a cell of a Markdown table: one line, nothing in it read as Markdown or HTML."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", printable)


def bibtex(text: str) -> str:
    """Text as it stands in a BibTeX field."""
    return re.sub(r"([\\{}$&%#_^~])", "", text)


def amount(value: float) -> str:
    """'1.45e+15' for what is too large to read in digits."""
    return f"{value:,.0f}" if value < 1e6 else f"{value:.2e}"
