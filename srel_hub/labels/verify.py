"""Verify: is this folder or Hub repository the condensed dataset that it claims to be?

    srel-hub verify org/srel-in1k-ipc50 --revision v1.0
    srel-hub verify runs/quickstart/dataset --fast

One line a check; the exit status is 0 where all pass. `--fast` downloads no labels. Nothing that is found is trusted:
whatever goes wrong in a check is that check's failure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import datasets
import torch
from torch import Tensor
from tqdm import tqdm

from srel_hub.core.augment import render
from srel_hub.core.encodings import decode, encode
from srel_hub.core.engine import FLOAT32
from srel_hub.core.metrics import BETTER_THAN_CHANCE, predictions
from srel_hub.errors import UserError, first_line
from srel_hub.hub.repository import Folder, Repository, Store, front_matter, open_store
from srel_hub.labels.dataset import Condensed, data_files, require_names
from srel_hub.labels.labeller import groups_of, make_labeller
from srel_hub.labels.load import MANIFEST
from srel_hub.labels.manifest import Manifest, read_manifest
from srel_hub.labels.reader import SoftLabels
from srel_hub.storage.condensed_table import image_table_sha256, table_features
from srel_hub.storage.files import format_bytes, sha256


SAMPLED_EPOCHS, SAMPLED_IMAGES = 8, 32  # crops whose labels are computed again
ACCURACY_MARGIN = 0.01
KNOWN_FILES = ("README.md", ".gitattributes", "LICENSE", "LICENSE.md", "LICENSE.txt", MANIFEST)


@dataclass(frozen=True)
class Check:
    """The result of one check: what was found, or why it failed; `passed` is None where it was left out."""

    name: str
    passed: bool | None
    told: str

    def __str__(self) -> str:
        told = "".join(
            letter if letter.isprintable() else "?" for letter in self.told
        )  # a stranger may have written it
        return f"{ {True: 'ok', False: 'FAILED', None: '-'}[self.passed]:<7}{self.name}: {told}"


class Claim:
    """What is to be verified: the repository, what its manifest says, and the dataset they make."""

    def __init__(self, store: Store, manifest: Manifest, fast: bool) -> None:
        self.store, self.manifest, self.fast = store, manifest, fast
        self.condensed = Condensed(store, manifest, max(1, manifest.epochs))
        self.labels = SoftLabels(manifest, lambda name: store.fetch(f"soft_labels/{name}"))


def verify(path: str, revision: str | None = None, fast: bool = False) -> Iterator[Check]:
    """Check after check. Without a readable manifest there is only the first.

    Raises:
        UserError, UnavailableError: where there is nothing to be verified.
    """
    store = open_store(path, "dataset", revision, MANIFEST)
    if isinstance(store, Folder) and (store.path / "dataset" / "data").is_dir():
        raise UserError(f"{path} is a run; the dataset in it is {store.path / 'dataset'}")
    try:
        manifest = read_manifest(store.fetch(MANIFEST))
    except UserError as error:
        yield Check("manifest", False, "; ".join(str(error).splitlines()))
        return
    yield Check("manifest", True, _described(store, manifest))
    claim = Claim(store, manifest, fast)
    for name, check in CHECKS.items():
        yield _checked(name, check, claim)


def _checked(name: str, check: "Callable[[Claim], str | None]", claim: Claim) -> Check:
    try:
        told = check(claim)
    except UserError as error:
        return Check(name, False, "; ".join(str(error).splitlines()))
    except Exception as error:  # whoever made the files may have meant to confuse their reader
        return Check(name, False, f"{type(error).__name__}: {first_line(error)}")
    return Check(name, None, "left out (--fast)") if told is None else Check(name, True, told)


def _described(store: Store, manifest: Manifest) -> str:
    return (
        f"{store}: format {manifest.version}, {manifest.num_images} images of {manifest.num_classes} classes, "
        f"{manifest.epochs} stored epoch{'s' if manifest.epochs != 1 else ''} of labels ({manifest.coding})"
    )


def files(claim: Claim) -> str:
    """Every file that the manifest names is there with its size, and its sha256 where that costs no label download."""
    expected = {file.name: (file.bytes, file.sha256) for file in claim.manifest.others}
    expected |= {f"soft_labels/{file.name}": (file.bytes, file.sha256) for file in claim.manifest.files}
    wrong = []
    for name, (size, digest) in expected.items():
        blob = claim.store.blob(name)
        if blob is None:
            wrong.append(f"{name} is missing")
        elif blob.size != size:
            wrong.append(f"{name} has {blob.size} bytes, the manifest says {size}")
        elif (blob.digest if len(blob.digest) == 64 else _digest(claim, name, digest)) != digest:
            wrong.append(f"{name} is another file: its sha256 is not the manifest's")
    named = {*expected, *KNOWN_FILES}
    more = [name for name in claim.store.names() if name not in named]
    inside = [name for name in more if name.startswith(("data/", "soft_labels/"))]
    if claim.manifest.others or any(not name.startswith("data/") for name in inside):
        wrong += [f"{name} is not named by the manifest" for name in inside]
    if wrong:
        raise UserError("; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""))
    beside = [name for name in more if name not in inside]
    note = f"; not its own: {', '.join(beside[:5])}" if beside else ""
    return f"{len(expected)}, {format_bytes(sum(size for size, _ in expected.values()))}{note}"


def _digest(claim: Claim, name: str, unread: str) -> str:
    """The sha256 of a file; of a label file that would be downloaded for it only later, when it is read."""
    costly = isinstance(claim.store, Repository) and name.startswith("soft_labels/")
    return unread if costly else sha256(claim.store.fetch(name))


def card(claim: Claim) -> str:
    """The card's metadata let `load_dataset` find these images, and no others."""
    told = front_matter(claim.store)
    if not isinstance(told, dict):
        raise UserError("README.md: its metadata is no mapping")
    wanted = [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    if told.get("configs") != wanted:
        raise UserError(f"README.md: configs is {str(told.get('configs'))[:200]}, not {wanted}")
    info = told.get("dataset_info")
    splits = info.get("splits") if isinstance(info, dict) else None
    counts = [(split.get("name"), split.get("num_examples")) for split in splits or [] if isinstance(split, dict)]
    if counts != [("train", claim.manifest.num_images)]:
        raise UserError(
            f"README.md: dataset_info counts {counts}, the manifest has {claim.manifest.num_images} images"
        )
    named = datasets.Features._from_yaml_list(info.get("features") or []) if isinstance(info, dict) else None
    if named != table_features(claim.manifest.class_names):
        raise UserError(
            f"README.md: dataset_info names the features {str(named)[:200]}, not an image and these classes"
        )
    return f"license {str(told.get('license'))[:100]}, {claim.manifest.num_images} examples"


def images(claim: Claim) -> str:
    """Rows, sizes and classes are the manifest's, and the pixels are those that were labeled."""
    labels, pixels = claim.condensed.labels, claim.condensed.pixels
    if image_table_sha256(pixels, labels) != claim.manifest.image_table_sha256:
        raise UserError("an image or its class is not the one that was labeled (sha256 of the image table differs)")
    height, width = claim.manifest.image_size
    shards = len(data_files(claim.store, claim.manifest))
    return f"{len(labels)} of {width} x {height} pixels in {shards} file{'s' if shards > 1 else ''}, as labeled"


def class_names(claim: Claim) -> str:
    """Dataset, manifest and teacher name the same classes in the same order."""
    claim.condensed.require_rows()
    teacher = claim.condensed.classifier.class_names
    require_names("the teacher", teacher, claim.manifest)
    return f"{len(teacher)}, equal in dataset, manifest and teacher"


def soft_labels(claim: Claim) -> str | None:
    """Every label file by sha256; crops, partners and order in range; logits finite."""
    if claim.fast:
        return None
    claim.condensed.require_rows()
    epochs, N = claim.manifest.epochs, claim.manifest.num_images
    step = max(1, 10_000_000 // claim.manifest.num_classes)
    for epoch in tqdm(range(epochs), "soft labels", unit="epoch", dynamic_ncols=True, leave=False):
        claim.labels.views(epoch)
        claim.labels.order(epoch)
        for start in range(0, N, step):
            rows = torch.arange(start, min(start + step, N))
            logits = claim.labels.logits(epoch, rows)
            if not logits.isfinite().all():
                row = int(rows[(~logits.isfinite().all(1)).nonzero()[0, 0]])
                raise UserError(f"epoch {epoch}: the logits of image {row} are not all numbers")
    if epochs == 0:
        return "none stored: the student asks the teacher, nothing is replayed"
    return "every file as the manifest says; crops, partners and order in range; all logits are numbers"


def teacher(claim: Claim) -> str:
    """The teacher is the one whose sha256 the manifest names, and takes the images as the manifest says."""
    found = claim.condensed.classifier
    for name, ours, theirs in (
        ("mean", claim.manifest.mean, found.mean),
        ("std", claim.manifest.std, found.std),
        ("image size", claim.manifest.image_size, found.size),
    ):
        if tuple(ours) != tuple(theirs):
            raise UserError(f"{name} is {list(theirs)} in its image processor, {list(ours)} in the manifest")
    parameters = sum(parameter.numel() for parameter in found.model.parameters())
    members = len(claim.condensed.classifiers) - 1  # each compared by sha256
    beside = f", and a committee of {members} more" if members else ""
    return f"{type(found.model).__name__} with {parameters:,} parameters{beside}, sha256 as in the manifest"


def accuracy(claim: Claim) -> str:
    """The teacher recognizes the stored images as well as the manifest says, and better than by chance."""
    found, condensed = claim.condensed.classifier, claim.condensed
    answers = []
    for logits in predictions(found.model.to(_device()), condensed.pixels, found.table(_device())):
        if not logits.isfinite().all():
            raise UserError("the teacher's logits on the stored images are not all numbers")
        answers.append(logits.argmax(1))
    measured = float((torch.cat(answers) == condensed.labels).float().mean())
    claimed, chance = claim.manifest.teacher.accuracy, 1 / claim.manifest.num_classes
    if measured < claimed - ACCURACY_MARGIN:
        raise UserError(f"the teacher recognizes {measured:.1%} of the stored images, the manifest says {claimed:.1%}")
    least = chance + BETTER_THAN_CHANCE * (1 - chance)
    if measured <= least:
        raise UserError(f"the teacher recognizes {measured:.1%} of the stored images; must be more than {least:.1%}")
    return f"the teacher recognizes {measured:.1%} of the stored images (manifest: {claimed:.1%})"


@torch.no_grad()
def replay(claim: Claim) -> str | None:
    """The teacher, asked again on a sample of replayed crops, gives the stored labels."""
    epochs = claim.manifest.epochs
    if claim.fast:
        return None
    if epochs == 0:
        return "no stored labels to compare with"
    claim.condensed.require_rows()
    draw = torch.Generator()
    draw.seed()  # nobody knows beforehand what will be looked at
    chosen = torch.randperm(epochs, generator=draw)[:SAMPLED_EPOCHS].sort().values.tolist()
    labeller = make_labeller(claim.condensed.classifiers, FLOAT32, _device(), claim.manifest.group_size)
    count = 0
    for epoch in chosen:
        for rows in _sampled(claim, epoch, draw):
            computed = labeller(render(claim.condensed.pixels, claim.labels.views(epoch), rows)).cpu()
            _require_close(claim, computed, rows, epoch)
            count += len(rows)
    return f"labels of {count} crops, drawn at random from {len(chosen)} of {epochs} epochs, computed again: the same"


def _sampled(claim: Claim, epoch: int, draw: torch.Generator) -> list[Tensor]:
    """Images whose labels are computed again: SAMPLED_IMAGES or so, in the groups that they were labeled in."""
    size, N = claim.manifest.group_size, claim.manifest.num_images
    if size is None:
        return [torch.randint(N, (SAMPLED_IMAGES,), generator=draw).unique()]
    groups = groups_of(claim.labels.order(epoch), size)
    chosen = torch.randperm(len(groups), generator=draw)[: max(1, SAMPLED_IMAGES // size)]
    return [groups[index] for index in chosen]


def _require_close(claim: Claim, computed: Tensor, rows: Tensor, epoch: int) -> None:
    """Refuse stored logits that the teacher does not give.

    float32: within rtol 2^-10, which is float16's rounding twice, and atol 1e-3; by groups, whose statistics are sums
    in another order, ten times as much. Otherwise: an L2 error of at most 2 % of the row's norm, or of these rows'
    mean norm where that is more, since a network's errors do not shrink with its logits; and the same class on top,
    unless the two largest logits lie closer than that error. Bytes may be another step besides. Of 'topk' what was
    kept is compared, and the mean of the rest; no other logit may exceed the least that was kept by more than that.
    """
    if not computed.isfinite().all():
        raise UserError(f"epoch {epoch}: the teacher's logits are not all numbers")
    found, coding = claim.labels.stored(epoch, rows), claim.manifest.coding
    stored, indices = decode(found, coding), found["indices"].long() if "indices" in found else None
    expected = decode(encode(computed, coding, indices), coding)
    step = found["scales"][:, 1:] if "scales" in found else torch.zeros(len(rows), 1)
    error = (stored - expected).norm(dim=1)
    if claim.manifest.precision == "float32":
        times = 1 if claim.manifest.group_size is None else 10
        allowed = step + times * (1e-3 + 2**-10 * expected.abs())
        wrong = ((stored - expected).abs() > allowed).any(1)
    else:
        largest = expected.topk(min(2, expected.shape[1]), dim=1).values
        close = (largest[:, 0] - largest[:, -1]) <= error
        other_top = (stored.argmax(1) != expected.argmax(1)) & ~close
        norms = expected.norm(dim=1, keepdim=True)
        allowed = step + 0.02 * norms.maximum(norms.mean())
        wrong = ~(error <= allowed[:, 0]) | other_top
    if indices is not None:
        least = computed.gather(1, indices).amin(1)
        wrong |= computed.scatter(1, indices, -torch.inf).amax(1) > least + allowed.amax(1)
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        worst = float((stored - expected)[row].abs().max())
        raise UserError(
            f"epoch {epoch}, image {int(rows[row])}: the stored logits differ from the teacher's by up to {worst:.3g} "
            f"({int(wrong.sum())} of {len(rows)} sampled rows; labels were computed in {claim.manifest.precision})"
        )


def _device() -> torch.device:
    """A GPU where there is one, in full precision."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


CHECKS: "dict[str, Callable[[Claim], str | None]]" = {
    "files": files,
    "card": card,
    "images": images,
    "teacher": teacher,
    "class names": class_names,
    "soft labels": soft_labels,
    "accuracy": accuracy,
    "replay": replay,
}
