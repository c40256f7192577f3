"""Export a condensed dataset to the layouts that other evaluation tools document.

    srel-hub export runs/quickstart/dataset rethinkdc exported/rethinkdc
    srel-hub export runs/cifar10_ipc10/dataset ddranking exported/ddranking --dataset CIFAR10

`rethinkdc` (0.3.2) loads a dataset with the columns `image` and `label`. `ddranking` (0.2.0) reads an image folder,
the teacher in `teacher_models/DATASET/MODEL/ckpt_best.pt` and a configuration. The layouts follow the tools'
documentation; neither tool was run on an exported dataset.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import DatasetCard, DatasetCardData
from torch import nn

from srel_hub.config import Recipe, load_recipe
from srel_hub.config.places import missing_local
from srel_hub.config.yaml_io import to_yaml
from srel_hub.errors import UserError
from srel_hub.labels.dataset import Condensed
from srel_hub.labels.load import load_condensed
from srel_hub.storage.condensed_table import encode_png
from srel_hub.storage.files import atomic_write
from srel_hub.teachers.resnet_layout import torchvision_name


DDRANKING = ("CIFAR10", "CIFAR100", "TinyImageNet", "ImageNet1K", "ImageNette", "ImageWoof")  # datasets it accepts
DEPTHS = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 50, (3, 4, 23, 3): 101}  # of ResNets; (3, 4, 6, 3) is also that of a 34


def to_rethinkdc(source: Path, target: Path) -> None:
    """Write the images and classes of a dataset for RethinkDC.

    Args:
        source: The folder of the dataset.
        target: The folder to write: `data/train-*.parquet` with the columns image and label, and a card that
            declares them.
    """
    with atomic_write(target) as tree:
        shutil.copytree(source / "data", tree / "data")
        files = [{"split": "train", "path": "data/train-*"}]
        data = DatasetCardData(configs=[{"config_name": "default", "data_files": files}])
        DatasetCard(f"---\n{data.to_yaml()}\n---\n\nCondensed images alone, exported by srel_hub.\n").save(
            tree / "README.md"
        )


def to_ddranking(condensed: Condensed, recipe: Recipe, dataset: str, target: Path) -> None:
    """Write an image folder, the teacher's weights under torchvision's names, and config.yaml for DD-Ranking.

    Args:
        condensed: The dataset.
        recipe: Its recipe.
        dataset: DD-Ranking's name of the real dataset, one of DDRANKING.
        target: The folder to write.

    Raises:
        UserError: If the teacher is not a ResNet-18, -34, -50 or -101.
    """
    state, model = torchvision_state(condensed.teacher())
    with atomic_write(target) as tree:
        for index in range(condensed.manifest.num_classes):
            (tree / "images" / f"{index:05d}").mkdir(parents=True)
        for row, (image, label) in enumerate(zip(condensed.pixels, condensed.labels.tolist(), strict=True)):
            (tree / "images" / f"{label:05d}" / f"{row:07d}.png").write_bytes(encode_png(image))
        weights = tree / "teacher_models" / dataset / model / "ckpt_best.pt"
        weights.parent.mkdir(parents=True)
        torch.save(state, weights)  # tensors only, so torch.load(weights_only=True) reads it
        (tree / "config.yaml").write_text(to_yaml(configuration(condensed, recipe, dataset, model)), encoding="utf-8")


def torchvision_state(model: nn.Module) -> tuple[dict[str, torch.Tensor], str]:
    """Return a ResNet's weights under torchvision's names, and DD-Ranking's name for the network.

    Raises:
        UserError: If the model is not such a ResNet.
    """
    config: Any = model.config
    depth = DEPTHS.get(tuple(getattr(config, "depths", ())))
    if depth is None or "resnet" not in config.model_type:
        raise UserError(
            f"ddranking: the teacher is a {type(model).__name__}; only ResNet-18, -34, -50 and -101 can be exported"
        )
    depth = 34 if depth == 50 and config.layer_type == "basic" else depth
    state = {torchvision_name(name): value.contiguous() for name, value in model.state_dict().items()}
    return state, f"ResNet-{depth}-BN"


def configuration(condensed: Condensed, recipe: Recipe, dataset: str, model: str) -> dict[str, Any]:
    """Return config.yaml of DD-Ranking's LabelRobustScoreSoft.

    It sets soft_label_mode M: the teacher computes the labels during training.
    """
    manifest, spec = condensed.manifest, recipe.evaluate
    (height, width), alpha = manifest.image_size, manifest.augment.mix_alpha
    middle = {"name": "CenterCrop", "args": {"size": height}}
    end = [
        {"name": "ToTensor"},
        {"name": "Normalize", "args": {"mean": list(manifest.mean), "std": list(manifest.std)}},
    ]
    crop = {"name": "RandomResizedCrop", "args": {"size": height, "scale": list(manifest.augment.scale)}}
    pad = {"name": "RandomCrop", "args": {"size": height, "padding": manifest.augment.padding}}
    crops = {"resized": [crop], "padded": [pad], "none": []}[manifest.augment.crop]
    flips = [{"name": "RandomHorizontalFlip", "args": {"p": 0.5}}] if manifest.augment.flip else []
    return {
        "dataset": dataset,
        "real_data_path": "./dataset/",
        "ipc": manifest.num_images // manifest.num_classes,
        "im_size": [height, width],
        "model_name": model,
        "stu_use_torchvision": True,
        "tea_use_torchvision": True,
        "teacher_dir": "./teacher_models",
        "teacher_model_names": [model],
        "data_aug_func": None if manifest.augment.mix == "none" else manifest.augment.mix,
        "aug_params": {"none": None, "cutmix": {"beta": alpha}, "mixup": {"mixup_p": alpha}}[manifest.augment.mix],
        "use_zca": False,
        "custom_train_trans": [*crops, *flips, *end],
        "custom_val_trans": [{"name": "Resize", "args": {"size": height}}, middle, *end],
        "use_aug_for_hard": False,
        "soft_label_mode": "M",
        "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": spec.temperature, "scale_loss": spec.temperature_squared},
        "optimizer": spec.optimizer.kind,
        "lr_scheduler": "cosine",
        "weight_decay": spec.optimizer.weight_decay,
        "momentum": spec.optimizer.momentum,
        "num_eval": 5,
        "num_epochs": spec.epochs,
        "num_workers": 4,
        "device": "cuda",
        "dist": False,
        "eval_full_data": False,
        "syn_batch_size": spec.batch_size,
        "real_batch_size": spec.batch_size,
        "random_data_format": "image",
        "random_data_path": "./random_data",
        "save_path": "./scores.csv",
    }


def export_dataset(source: Path, layout: str, target: Path, dataset: str | None = None) -> None:
    """Write the dataset in a folder to a new folder, in another tool's layout.

    Args:
        source: The folder of the dataset.
        layout: 'rethinkdc' or 'ddranking'.
        target: The folder to write; it must not exist.
        dataset: DD-Ranking's name of the real dataset, one of DDRANKING. Required only for `ddranking`.

    Raises:
        UserError: If `target` exists, `source` is not the folder of a dataset, or the layout does not support the
            dataset.
    """
    if target.exists():
        raise UserError(f"{target}: this path already exists; choose another folder")
    if not source.is_dir():
        problem = missing_local(str(source)) or "this is not a folder"
        raise UserError(f"{source}: {problem}; pass the folder of a dataset, such as runs/quickstart/dataset")
    if layout == "ddranking" and dataset is None:
        raise UserError(f"--dataset is missing; set it to the real dataset that was condensed: {', '.join(DDRANKING)}")
    condensed = load_condensed(source, epochs=1)
    target.parent.mkdir(parents=True, exist_ok=True)
    if layout == "rethinkdc":
        to_rethinkdc(source, target)
    else:
        assert dataset is not None
        to_ddranking(condensed, load_recipe(source / "recipe.yaml"), dataset, target)
