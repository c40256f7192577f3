"""The plan of a run equals what the run then uses: FLOPs, bytes, files, memory."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL, branch, execute, make_source, small_recipe, write_recipe
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from srel_hub.commands.program import main
from srel_hub.config import Network, Recipe, load_recipe
from srel_hub.core.metrics import forward_flops
from srel_hub.evaluate import evaluate
from srel_hub.recover import recover
from srel_hub.relabel import relabel
from srel_hub.runs.run import Run
from srel_hub.squeeze import squeeze
from srel_hub.stages.inputs import Inputs
from srel_hub.stages.preflight.disk_use import png_bytes
from srel_hub.stages.preflight.prepare import prepare
from srel_hub.storage.condensed_table import encode_png
from srel_hub.studies.plan.facts import Facts, Machine, Plan
from srel_hub.studies.plan.price import label_bytes, plan
from srel_hub.studies.plan.run_plan import gather_facts, machine_of
from srel_hub.studies.plan.text import plan_lines, plan_warnings
from srel_hub.teachers import architectures, classifier
from srel_hub.teachers.cost_model import build_on_meta, on_meta, weights_bytes


GPU = Machine(devices=8, precision="float32", tflops=60, estimated=None, kind="cuda", memory=80 * 2**30, resident=0)


def plan_without_data(recipe: Recipe, num_classes: int, size: tuple[int, int], network: Network) -> Plan:
    """Plan a recipe with a pretrained teacher whose data are not available."""
    return plan(
        Facts(
            recipe=recipe,
            num_classes=num_classes,
            size=size,
            train_images=None,
            real_images=None,
            eval_images=None,
            decoded_images=0,
            networks={"teacher": build_on_meta(network, num_classes, size)},
            machine=GPU,
        )
    )


def plan_of(run: Run, inputs: Inputs) -> Plan:
    """Plan a run for one device of 1 TFLOP/s."""
    return plan(gather_facts(run.recipe, inputs, run.folder, machine_of(run.device, run.engine.precision, tflops=1)))


IMAGENET = Network(model="resnet18", stem="imagenet")
TINY = Network(model="convnet", width=0.05)


@pytest.fixture(scope="module")
def in1k() -> Plan:
    return plan_without_data(load_recipe("in1k_ipc50"), 1000, (224, 224), IMAGENET)


@pytest.fixture(scope="module")
def in21k() -> Plan:
    overrides = ["recover.ipc=20", "squeeze.pretrained.class_names=null", "publish.repo_id=me/in21k"]
    return plan_without_data(load_recipe("in1k_ipc50", overrides), 10450, (224, 224), TINY)


def test_imagenet_1k_at_50_images_per_class(in1k: Plan) -> None:
    assert in1k.images == 50_000
    assert in1k.pixel_bytes == 50_000 * 3 * 224 * 224
    logits = 50_000 * 1000 * 2 * 300
    geometry = 50_000 * (8 + 1 + 4 + 4 + 8) * 300  # boxes, flips, order, partners, mix_boxes
    assert 0 < in1k.label_bytes["float16"] - logits - geometry < 300 * 1024
    text = "\n".join(plan_lines(in1k))
    assert "labels     28.3 GiB: float16, 300 epochs" in text
    assert "warning: soft labels take 28.3 GiB" in text and "relabel.epochs=30 takes 2.8 GiB" in text
    assert in1k.files == {".": 4, "assets": 1, "data": 30, "soft_labels": 61}, "5 epochs of 94 MiB in a file"
    assert in1k.shards == 500


def test_imagenet_1k_at_200_images_per_class() -> None:
    large = plan_without_data(load_recipe("in1k_ipc200"), 1000, (224, 224), TINY)
    assert large.images == 200_000
    assert large.files["soft_labels"] == 61, "5 epochs of 406 MB in a file"
    assert large.files["data"] == 30 and sum(large.files.values()) < 100
    assert "113.2 GiB" in "\n".join(plan_lines(large))


def test_imagenet_21k_at_20_images_per_class(in21k: Plan) -> None:
    assert in21k.images == 209_000
    assert in21k.files["soft_labels"] == 1 + 3 * 20, "an epoch of 4.4 GB is split into 3 parts, and a file has 15"
    assert in21k.shards == 20 * 105, "blocks of 100 classes, the last of 50"
    warnings = "\n".join(tuple(plan_warnings(in21k)))
    assert "1.2 TiB" in warnings and "relabel.epochs" in warnings
    assert sum(in21k.files.values()) < 100 and "one commit of" not in warnings
    assert "int32" not in warnings


def test_other_encodings_take_the_bytes_of_the_format(in1k: Plan, in21k: Plan) -> None:
    rows, views = 300 * 50_000, 25  # views: bytes of boxes, flips, order, partners and mix_boxes

    def require(size: int, without_headers: int) -> None:
        assert 0 < size - without_headers < 300 * 1024

    require(in1k.label_bytes["uint8"], rows * (views + 1000 + 8))
    require(in1k.label_bytes["topk"], rows * (views + 2 * 100 + 2 * 100 + 2))
    require(in21k.label_bytes["topk"], 300 * 209_000 * (views + 2 * 100 + 2 * 100 + 2))
    spec = load_recipe("in1k_ipc50").relabel
    require(label_bytes(spec, 10, 40_000)["topk"], 300 * 10 * (views + 2 * 100 + 4 * 100 + 2))
    require(label_bytes(spec, 10, 50)["topk"], 300 * 10 * (views + 2 * 50))  # k = K has no indices, no rest
    quantized = replace(spec, top_values="uint8")
    require(label_bytes(quantized, 10, 1000)["topk"], 300 * 10 * (views + 100 + 8 + 2 * 100 + 2))


MODEST = ["recover.ipc=2", "relabel.epochs=1", "relabel.batch_size=1", "recover.class_block=2", "recover.stack=1"]


@pytest.fixture(scope="module")
def modest() -> Facts:
    """Return the facts of a run that just fits into the memory of its machine."""
    fitting = plan_without_data(load_recipe("in1k_ipc50", MODEST), 4, (32, 32), TINY)
    assert tuple(plan_warnings(fitting)) == ()
    return replace(fitting.facts, machine=replace(GPU, memory=max(stage.memory for stage in fitting.stages)))


@pytest.mark.parametrize(
    ("override", "number", "option"),
    [
        ("recover.ipc=5001", "images/ (of the run): 10,002 files", "recover.ipc"),
        ("recover.iterations=100000000000000", "hours, of which recover", "recover.iterations"),
        ("recover.class_block=4", "recover needs", "recover.class_block"),
    ],
)
def test_an_expensive_setting_warns_with_the_option_to_change(
    modest: Facts, override: str, number: str, option: str
) -> None:
    expensive = plan(replace(modest, recipe=load_recipe("in1k_ipc50", [*MODEST, override])))
    warning = next(warning for warning in plan_warnings(expensive) if number in warning)
    assert option in warning


def test_more_images_than_int32_holds_give_a_warning() -> None:
    spec = load_recipe("in1k_ipc50", ["relabel.epochs=1"])
    many = replace(plan_without_data(spec, 4, (8, 8), TINY), images=2**31)
    assert "int32" in tuple(plan_warnings(many))[0] and "recover.ipc" in tuple(plan_warnings(many))[0]


def test_more_devices_than_units_save_no_time() -> None:
    recipe = load_recipe("in1k_ipc50", ["recover.ipc=3", "recover.stack=1", "recover.class_block=2"])
    facts = plan_without_data(recipe, 4, (32, 32), TINY).facts
    one, four, thousand = (plan(replace(facts, machine=replace(GPU, devices=count))) for count in (1, 4, 1000))
    hours = one.stages[1].hours
    assert hours == pytest.approx(one.stages[1].flops / 60e12 / 3600)
    assert four.stages[1].hours == pytest.approx(hours * 2 / 6), "6 units on 4 devices take two rounds"
    assert thousand.stages[1].hours == pytest.approx(hours / 6)


@pytest.mark.parametrize("size", [(8, 8), (10, 13), (32, 32), (64, 64), (224, 224)], ids=str)
def test_no_png_is_larger_than_planned(size: tuple[int, int]) -> None:
    for seed in range(5):
        noise = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        assert len(encode_png(noise)) <= png_bytes(size)


NETWORKS = {
    "convnet": lambda: architectures.build(Network(model="convnet", width=0.1), ["a", "b"], (10, 13), 0),
    "small stem": lambda: architectures.build(Network(model="resnet18", width=0.1), ["a", "b", "c"], (32, 32), 0),
    "imagenet stem": lambda: architectures.build(
        Network(model="resnet50", width=0.1, stem="imagenet"), ["a"], (64, 64), 0
    ),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_a_teacher_takes_the_bytes_planned(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    names = tuple("abc"[: model.config.num_labels])
    classifier.save(classifier.Classifier(model, (0.5,) * 3, (0.2,) * 3, names, (32, 32)), tmp_path)
    assert weights_bytes(on_meta(model)) == (tmp_path / "model.safetensors").stat().st_size
    assert all(not parameter.is_meta for parameter in model.parameters()), "the network itself is unchanged"


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_a_run_uses_what_was_planned(recovered: tuple[Path, Path], tmp_path: Path, mix: str) -> None:
    run = branch(recovered, tmp_path, f"relabel.augment.mix={mix}", "evaluate.batch_size=4", "evaluate.seeds=1")
    prepared = prepare(run)
    planned = plan_of(run, prepared)
    stages = {stage.name: stage.flops for stage in planned.stages}
    assert counted(lambda: relabel(run)) == stages["relabel"]
    assert counted(lambda: evaluate(run, prepared.source)) == stages["evaluate"]
    files = list(run.path("soft_labels").iterdir())
    assert sum(file.stat().st_size for file in files if file.suffix == ".safetensors") == planned.label_bytes["float16"]
    assert len(files) == planned.files["soft_labels"]
    weights = run.path("teacher", "model.safetensors")
    assert weights.stat().st_size == planned.teacher_bytes["teacher"]
    assert len(list(run.path("images").iterdir())) == planned.shards


def counted(stage: Callable[[], object]) -> int:
    """Return the FLOPs of a real stage, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        stage()
    return counter.get_total_flops()


def test_squeeze_and_recover_use_the_flops_planned(recovered: tuple[Path, Path], tmp_path: Path) -> None:
    file, _ = recovered
    run = Run(small_recipe(file, tmp_path, "recover.stack=2", "squeeze.batch_size=7", "recover.class_block=2"))
    prepared = prepare(run)
    planned = plan_of(run, prepared)
    stages = {stage.name: stage.flops for stage in planned.stages}
    run.begin()
    scored = forward_flops(planned.facts.networks["teacher"], planned.facts.size)  # the FLOPs that metrics.json reports
    assert counted(lambda: squeeze(run, prepared)) == stages["squeeze"] + scored
    assert counted(lambda: recover(run)) == stages["recover"]


def test_a_finished_run_has_the_files_planned(finished: Path) -> None:
    run = Run(load_recipe(finished, [f"run.root={finished.parent}"]))
    planned = plan_of(run, prepare(run))
    dataset = run.path("dataset")
    for folder, count in planned.files.items():
        assert len([file for file in (dataset / folder).iterdir() if file.is_file()]) == count, folder
    assert run.path("teacher_repo", "model.safetensors").stat().st_size == planned.teacher_bytes["teacher"]


def test_a_pretrained_teacher_costs_no_training(stand_in: list[str], tmp_path: Path) -> None:
    run = Run(load_recipe("in1k_ipc50", [*stand_in, f"run.root={tmp_path}"]))
    prepared = prepare(run)
    planned = plan_of(run, prepared)
    adopted = prepared.adopted["teacher"].classifier.model
    assert planned.stages[0].flops == 200 * forward_flops(adopted, (32, 32)), "it is scored on 200 eval images"
    assert planned.stages[3].units == 1, "no training split: only the condensed images are trained on"
    assert all(not parameter.is_meta for parameter in adopted.parameters())


def test_the_command_changes_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> dict[str, int]:
        return {str(file): file.stat().st_mtime_ns for file in sorted(finished.rglob("*"))}

    before = state()
    assert main(["plan", str(finished), "relabel.epochs=5", "--device-tflops", "2", "--devices", "3"]) == 0
    text = capsys.readouterr().out
    assert "float16, 5 epochs" in text and "3 x cpu at 2 TFLOP/s" in text and "estimate" not in text
    assert state() == before
    assert main(["plan", "quickstart", f"run.root={tmp_path / 'runs'}"]) == 0
    assert "an estimate: 30% of" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["quickstart", "recover.ipc=0"], "recover.ipc"),
        (["quickstart", "source={path: /nowhere/at/all}"], "/nowhere/at/all"),
        (["no_such_recipe"], "no_such_recipe"),
        (["quickstart", "--devices", "0"], "--devices"),
        (["quickstart", "--device-tflops", "nan"], "--device-tflops"),
    ],
)
def test_a_mistake_is_reported_without_a_traceback(
    arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and part in printed.err and not printed.out


PEAK = """
import sys
from srel_hub import {stage}
from srel_hub.runs.stage_cli import cli
cli({stage}.{stage}, sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
SIXTY_FOUR = [
    "squeeze.network={model: resnet18, width: 0.5}",
    "squeeze.batch_size=64",
    "recover.class_block=20",
    "recover.ipc=2",
    "relabel.batch_size=64",
    "evaluate={students: [{model: resnet18, width: 0.5}], seeds: 1, epochs: 2, batch_size: 20}",
]


@pytest.mark.long
@pytest.mark.parametrize(("size", "overrides"), [(8, []), (64, SIXTY_FOUR)], ids=["8", "64"])
def test_peak_memory_of_each_stage_is_as_planned(size: int, overrides: list[str], tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", (size, size), [f"class {index}" for index in range(20)])
    file = write_recipe(tmp_path / "colors.yaml", source)
    arguments = [str(file), *SMALL, *overrides]
    text = execute(sys.executable, "-m", "srel_hub", "plan", *arguments, cwd=tmp_path).stdout
    for stage in ("squeeze", "recover", "relabel", "evaluate"):
        amount, unit = next(line for line in text.splitlines() if line.split()[:1] == [stage]).split()[3:5]
        expected = float(amount) * {"MiB": 1, "GiB": 1024}[unit]
        done = execute(sys.executable, "-c", PEAK.format(stage=stage), *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        measured = int(done.stdout.splitlines()[-1]) / 1024
        assert abs(measured - expected) < max(300, 0.2 * measured), f"{stage}: {expected} planned, {measured} used"
