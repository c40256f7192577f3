"""Read a condensed dataset without srel_hub, with numpy, safetensors, Pillow and datasets.

It implements docs/reference/label-format.md.

python examples/read_without_srel_hub.py my-name/my-dataset     # or a folder, such as runs/quickstart/dataset
"""

import json
import sys
from pathlib import Path

import numpy as np
from datasets import load_dataset
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.numpy import load_file


def read_epoch(root: Path, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a student trains on: pixel values float32 [N, 3, H, W] and the teacher's logits float32 [N, K]."""
    manifest = json.loads((root / "soft_labels" / "manifest.json").read_text())
    parts = []
    for file in sorted(manifest["files"], key=lambda file: file["rows"]):
        index = epoch - file["epoch"]  # of the epoch in the file, which may hold several
        if 0 <= index < file.get("epochs", 1):
            rows = file["rows"][1] - file["rows"][0]
            tensors = load_file(root / "soft_labels" / file["name"])
            parts.append({name: value[index * rows : (index + 1) * rows] for name, value in tensors.items()})
    if not parts:
        sys.exit(f"epoch {epoch} is not stored; with the encoding none, the teacher labels during training")
    stored = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    height, width = manifest["image_size"]
    views = []
    images = load_dataset("parquet", data_files=str(root / "data" / "train-*.parquet"), split="train")["image"]
    for image, (top, left, h, w), flip in zip(images, stored["boxes"].tolist(), stored["flips"], strict=True):
        view = np.asarray(image.crop((left, top, left + w, top + h)).resize((width, height), Image.BILINEAR))
        views.append(view[:, ::-1] if flip else view)
    own = np.stack(views)
    mixed = own.copy()
    if "mix_boxes" in stored:  # CutMix
        for row, (top, left, h, w) in enumerate(stored["mix_boxes"].tolist()):
            mixed[row, top : top + h, left : left + w] = own[stored["partners"][row], top : top + h, left : left + w]
    if "mix_weights" in stored:  # Mixup
        share = stored["mix_weights"].astype(int).reshape(-1, 1, 1, 1)
        mixed = ((share * own + (256 - share) * own[stored["partners"]] + 128) >> 8).astype(np.uint8)
    table = ((np.arange(256)[:, None] / 255 - manifest["mean"]) / manifest["std"]).astype(np.float32)  # [256, 3]
    return table[mixed, [0, 1, 2]].transpose(0, 3, 1, 2), decode(stored, manifest["num_classes"])


def decode(stored: dict[str, np.ndarray], num_classes: int) -> np.ndarray:
    """Return the teacher's logits, float32 [N, K], from any encoding."""
    values = stored["logits" if "logits" in stored else "values"].astype(np.float32)
    if "scales" in stored:
        values = stored["scales"][:, 1:] * values + stored["scales"][:, :1]
    if "indices" not in stored:
        return values
    dense = np.repeat(stored["rest"].astype(np.float32)[:, None], num_classes, axis=1)
    np.put_along_axis(dense, stored["indices"].astype(np.int64), values, axis=1)
    return dense


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    path = Path(sys.argv[1])
    root = path if path.is_dir() else Path(snapshot_download(str(path), repo_type="dataset"))
    pixel_values, logits = read_epoch(root, epoch=0)
    print(f"epoch 0: pixel values {pixel_values.shape}, logits {logits.shape}")
