"""Labelling: batch statistics in recorded groups, several teachers, and teachers that label during training."""

from pathlib import Path

import pytest
import torch
from condensed_runs import condensed_run
from conftest import branch, refused
from families import save_family
from torch import Tensor, nn
from torch.utils.data import DataLoader

from srel_hub.config import Network
from srel_hub.core.augment import normalize, render
from srel_hub.core.engine import FLOAT32
from srel_hub.errors import UserError
from srel_hub.labels.labeller import by_groups, groups_of, make_labeller, passes
from srel_hub.labels.load import load_condensed
from srel_hub.labels.verify import verify
from srel_hub.relabel import relabel
from srel_hub.teachers import architectures as networks
from srel_hub.teachers import classifier as teacher


CPU = torch.device("cpu")


def a_network(model: str = "resnet18") -> nn.Module:
    network = networks.build(Network(model=model, width=0.1), list("abcd"), (8, 8), seed=3)  # type: ignore[arg-type]
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 2)
            layer.bias.data.normal_()
    return network.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", ["resnet18", "convnet"])
def test_groups_are_what_a_network_in_train_mode_sees(model: str) -> None:
    """Five groups in one pass, and one of another size alone, against torch's own BatchNorm a group at a time."""
    network = a_network(model)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grouped = by_groups(network, 4)
    x = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for batch, groups in ((x, x.split(4)), (x[:5], [x[:5]]), (x[:3], [x[:3]])):
            ours = grouped(batch).logits
            theirs = torch.cat([_in_train_mode(network, group) for group in groups])
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(ours, network.eval()(batch).logits, rtol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def _in_train_mode(network: nn.Module, group: Tensor) -> Tensor:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    logits: Tensor = network.train()(group).logits
    network.eval().load_state_dict(before)
    return logits


@pytest.mark.parametrize(("count", "sizes"), [(12, [4, 4, 4]), (14, [4, 4, 4, 2]), (13, [4, 4, 5]), (5, [5])])
def test_groups_are_runs_of_the_order_and_never_of_one(count: int, sizes: list[int]) -> None:
    order = torch.randperm(count)
    groups = groups_of(order, 4)
    assert [len(group) for group in groups] == sizes and torch.equal(torch.cat(groups), order)
    for batch_size in (1, 8, 100):
        batches = passes(order, range(count), 4, batch_size)
        assert sorted(torch.cat(batches).tolist()) == list(range(count))
        assert all(len(indices) % 4 == 0 or len(indices) in sizes for indices in batches)
    images = torch.cat(passes(order, range(2, 4), 4, 8)).tolist()
    assert {2, 3} <= set(images) and all(
        set(group.tolist()) <= set(images) or not set(group.tolist()) & {2, 3} for group in groups
    )


def test_labels_by_groups_from_relabel_to_verify(finished: Path, tmp_path: Path) -> None:
    groups = ["relabel.group_size=2", "evaluate.groups=true", "evaluate.batch_size=4"]
    run = condensed_run(finished, tmp_path, *groups)
    dataset = run.path("dataset")
    condensed = load_condensed(dataset, epochs=3)
    assert condensed.manifest.group_size == 2
    network = condensed.teacher()
    for epoch in condensed:
        assert epoch.groups is not None and [len(group) for group in epoch.groups] == [2, 2, 2, 3]
        for group, batch in zip(epoch.groups, DataLoader(epoch, batch_sampler=epoch.groups), strict=True):
            answers = _in_train_mode(network, batch["pixel_values"])
            torch.testing.assert_close(batch["logits"], answers, rtol=2e-3, atol=2e-3)
            assert torch.equal(batch["pixel_values"], epoch.pixel_values(torch.tensor(group)))
    assert all(check.passed for check in verify(str(dataset))), [str(check) for check in verify(str(dataset))]
    card = (dataset / "README.md").read_text()
    assert "BatchNorm statistics of groups of 2 images" in card and "batch_sampler=epoch.groups" in card


def test_labels_of_other_groups_are_found_out(finished: Path, tmp_path: Path) -> None:
    """Eval-mode labels that call themselves labels by groups do not pass."""
    run = condensed_run(finished, tmp_path, "relabel.group_size=2")
    file = run.path("dataset", "soft_labels", "manifest.json")
    file.write_text(file.read_text().replace('"group_size": 2', '"group_size": 4'))
    failed = [check for check in verify(str(run.path("dataset"))) if check.passed is False]
    assert [check.name for check in failed] == ["replay"], [str(check) for check in failed]


def test_several_teachers_are_averaged(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    classifier = teacher.load(finished / "teacher", CPU)
    built = networks.build(Network(model="convnet", width=0.2), classifier.class_names, classifier.size, seed=5)
    teacher.save(teacher.Classifier(built, (0.4,) * 3, (0.3,) * 3, classifier.class_names, classifier.size), other)  # type: ignore[arg-type]
    run = condensed_run(finished, tmp_path, f"relabel.committee=['{other}']")
    dataset = run.path("dataset")
    condensed = load_condensed(dataset)
    (member,) = condensed.manifest.committee
    assert member.folder == "committee-1" and (run.path("teacher_repo") / "committee-1" / "config.json").is_file()
    epoch = condensed[1]
    views = render(epoch.images, epoch.views, torch.arange(9))
    both = [teacher.load(folder, CPU) for folder in (finished / "teacher", other)]
    answers = torch.stack([c.model(normalize(views, c.table(CPU))).logits for c in both]).mean(0)
    torch.testing.assert_close(epoch.batch(torch.arange(9))[1], answers, rtol=2e-3, atol=2e-3)
    assert all(check.passed for check in verify(str(dataset))), [str(check) for check in verify(str(dataset))]
    assert "mean of 2 networks' logits" in (dataset / "README.md").read_text()
    weights = run.path("teacher_repo", "committee-1", "model.safetensors")
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-4] + b"abcd")
    assert {check.name for check in verify(str(dataset)) if check.passed is False} >= {"teacher", "replay"}


@pytest.mark.parametrize("groups", [[], ["relabel.group_size=4"]], ids=["eval mode", "groups"])
def test_nothing_stored_asks_the_teacher(finished: Path, tmp_path: Path, groups: list[str]) -> None:
    run = condensed_run(finished, tmp_path, "relabel.encoding=none", *groups)
    dataset = run.path("dataset")
    assert not list((dataset / "soft_labels").glob("*.safetensors"))
    condensed = load_condensed(dataset, epochs=3)
    assert (condensed.manifest.encoding, condensed.manifest.epochs, condensed.manifest.kl_error) == ("none", 0, None)
    labeller = make_labeller(condensed.classifiers, FLOAT32, CPU, condensed.manifest.group_size)
    for epoch in condensed:
        for group in epoch.groups or [[4, 2], [8]]:
            indices = torch.tensor(group)
            torch.testing.assert_close(epoch.batch(indices)[1], labeller(epoch.render(indices)), rtol=1e-4, atol=1e-4)
    assert not torch.equal(condensed[0].views.boxes, condensed[2].views.boxes)
    assert all(check.passed for check in verify(str(dataset))), [str(check) for check in verify(str(dataset))]
    assert "No soft labels are stored" in (dataset / "README.md").read_text()


@pytest.mark.parametrize("pool", ["cycle", "draw"])
def test_a_consumer_of_more_epochs_gets_the_pools(finished: Path, tmp_path: Path, pool: str) -> None:
    run = condensed_run(finished, tmp_path, f"relabel.pool={pool}", "relabel.epochs=3")
    condensed = load_condensed(run.path("dataset"), epochs=7)
    stored = [condensed[epoch].views.boxes for epoch in range(3)] if pool == "cycle" else None
    order = [condensed.manifest.pool_epoch(epoch) for epoch in range(7)]
    labels = condensed._labels
    for number, epoch in zip(order, condensed, strict=True):
        assert torch.equal(epoch.views.boxes, labels.views(number).boxes)
        assert torch.equal(epoch.batch(torch.arange(9))[1], labels.logits(number, torch.arange(9)))
    assert stored is None or order == [0, 1, 2, 0, 1, 2, 0]


def test_groups_of_a_teacher_without_batchnorm_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_family("bit", tmp_path / "bit", ["red", "green", "blue"])
    recipe, options = str(finished.parent.parent / "colors.yaml"), [f"run.root={tmp_path}", "source.image_size=32"]
    said = refused(capsys, recipe, *options, "relabel.group_size=2", f"relabel.teacher={folder}")
    assert "relabel.group_size=2: the teacher bit has no BatchNorm layer" in said


def test_a_stage_alone_wants_the_one_before_to_its_end(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    run = branch(recovered, tmp_path)
    mark = next((run.folder / "units" / "recover").glob("*.json"))
    mark.unlink()
    with pytest.raises(UserError, match=r"recover is not complete \(1 part is missing.*; run `srel-hub recover` first"):
        relabel(run)
