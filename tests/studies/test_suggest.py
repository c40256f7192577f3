"""The rules of `srel-hub init`: sizes, networks and budgets, from dataset and machine."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srel_hub.config import Source, load_recipe
from srel_hub.studies.plan.facts import Machine
from srel_hub.studies.suggest.rules import (
    FULL,
    QUICK,
    SHORT,
    SIDES,
    Data,
    are_characters,
    choices,
    forward_passes,
    images_per_class,
    largest_side,
    squeeze_epochs,
    student_batch,
)
from srel_hub.studies.suggest.suggest import (
    has_pretrained,
    is_affordable,
    plan_choice,
    recipe_of,
    rough_hours,
    suggest,
)
from srel_hub.studies.suggest.text import body, run_name


FLOWERS = Data(
    class_names=("daisy", "rose", "tulip"),
    train_images=450,
    smallest_class=150,
    eval_images=90,
    side=240,
    sampled=200,
)
SPEC = Source(path="my/flowers")
CPU = Machine(
    devices=1, precision="float32", tflops=0.05, estimated="assumed", kind="cpu", memory=8 * 2**30, resident=2**29
)


@pytest.mark.parametrize(
    ("median", "side"),
    [(8, 8), (4, 8), (28, 28), (31, 32), (32, 32), (61, 64), (63, 64), (90, 64), (100, 96), (500, 224)],
)
def test_the_largest_size_that_does_not_enlarge(median: int, side: int) -> None:
    assert largest_side(median) == side


@pytest.mark.parametrize(("smallest", "ipc"), [(1, 1), (19, 1), (20, 2), (150, 10), (5000, 10)])
def test_condensed_images_are_fewer_than_the_real_ones(smallest: int, ipc: int) -> None:
    assert images_per_class(smallest) == ipc


def test_a_large_dataset_is_seen_less_often() -> None:
    assert [squeeze_epochs(count, FULL) for count in (500, 50_000, 100_000, 1_281_167)] == [100, 100, 50, 30]
    assert [squeeze_epochs(count, SHORT) for count in (500, 50_000, 1_281_167)] == [100, 20, 10]


@pytest.mark.parametrize(("condensed", "batch"), [(2, 8), (30, 8), (200, 16), (1000, 128), (50_000, 128)])
def test_an_epoch_of_a_student_has_about_ten_steps(condensed: int, batch: int) -> None:
    assert student_batch(condensed) == batch


def test_characters_are_not_flipped() -> None:
    assert are_characters(["0", "1", "9"]) and are_characters(["a", "B"])
    assert not are_characters(["0", "10"]) and not are_characters(["cat", "dog"])


def test_the_stem_and_the_convnet_depend_on_the_size() -> None:
    for choice in choices(FLOWERS, "best", pretrained=False):
        if choice.network.model == "convnet":
            assert choice.side <= 64
        else:
            assert choice.network.stem == ("small" if choice.side <= 64 else "imagenet")


def test_an_image_size_that_the_user_set_is_kept() -> None:
    assert {choice.side for choice in choices(FLOWERS, "best", pretrained=False, side=64)} == {64}
    assert {choice.side for choice in choices(FLOWERS, "best", pretrained=False)} == set(SIDES)


@pytest.mark.parametrize(
    ("median", "given", "chosen", "comment"),
    [
        (300, None, 224, "the median of the images is 300"),
        (64, None, 64, "the median of the images"),
        (61, None, 64, "the median of the images is 61, nearly this standard size"),
        (20, None, 20, "the median of the images"),
        (5, None, 8, "the smallest size of the networks; the median of the images is 5"),
        (300, None, 96, "the median of the images is 300, but 224 pixels exceed the budget"),
        (40, 100, 100, "as given; the median of the images is 40"),
    ],
)
def test_the_comment_on_the_image_size_is_its_reason(median: int, given: int | None, chosen: int, comment: str) -> None:
    data, spec = replace(FLOWERS, side=median), replace(SPEC, image_size=given)
    choice = next(c for c in choices(data, "best", pretrained=False, side=given) if c.side == chosen)
    (line,) = [line for line in body(spec, data, choice).splitlines() if line.startswith("  image_size:")]
    assert line.partition("#")[2].strip() == comment and f"image_size: {chosen} " in line


def test_the_cheapest_comes_last() -> None:
    offered = list(choices(FLOWERS, "best", pretrained=False))
    hours = [rough_hours(FLOWERS, choice, CPU) for choice in offered]
    assert hours[-1] == min(hours)
    assert forward_passes(FLOWERS, replace(offered[0], effort=QUICK)) < forward_passes(FLOWERS, offered[0])


def test_the_rough_price_is_near_the_plan() -> None:
    """It only ranks, but a choice that it wrongly drops is not planned."""
    for choice in list(choices(FLOWERS, "sre2l", pretrained=False))[-4::2]:
        assert 0.5 < plan_choice(SPEC, FLOWERS, choice, CPU).hours / rough_hours(FLOWERS, choice, CPU) < 2


@pytest.mark.long
def test_a_larger_budget_buys_a_larger_recipe() -> None:
    small, large = (suggest(SPEC, FLOWERS, "x.yaml", hours=hours, machine=CPU) for hours in (0.2, 100.0))
    assert small.fits and large.fits and small.plan.hours < 0.2 < large.plan.hours
    assert large.choice.side == 224 and large.choice.network.title == "resnet18 x 1 imagenet stem"
    assert small.choice.network.model == "convnet" and "resnet18 x 1 imagenet stem at 224 pixels" in small.text
    assert "Preferred, but" not in large.text


def test_without_enough_time_or_memory_it_is_the_cheapest_and_says_so() -> None:
    short = suggest(SPEC, FLOWERS, "x.yaml", hours=1e-6, machine=CPU)
    assert not short.fits and short.choice.effort is QUICK and "more than the budget" in short.text
    assert is_affordable(short.plan, 100)
    little = replace(short.plan.facts, machine=replace(CPU, memory=2**29))
    assert not is_affordable(replace(short.plan, facts=little), 100)


def test_imagenet_gets_the_pretrained_teacher() -> None:
    names = load_recipe("in1k_ipc50").squeeze.pretrained.class_names  # type: ignore[union-attr]
    assert names is not None
    imagenet = replace(FLOWERS, class_names=names, train_images=1_281_167, smallest_class=732, eval_images=50_000)
    assert has_pretrained(imagenet) and not has_pretrained(FLOWERS)
    choice = next(choices(imagenet, "best", pretrained=True))
    recipe = recipe_of(body(SPEC, imagenet, choice), "imagenet")
    assert recipe.squeeze.pretrained is not None and recipe.squeeze.pretrained.path == "timm/resnet18.tv_in1k"
    assert recipe.source.image_size == 224 and recipe.recover.patches is not None
    assert recipe.relabel.encoding == "uint8", "float16 labels would take 1.9 GiB"


@settings(deadline=None, max_examples=8)
@given(
    st.integers(2, 300),
    st.integers(1, 10_000),
    st.integers(1, 2000),
    st.sampled_from(["best", "sre2l"]),
    st.none() | st.integers(0, 1000),
)
def test_every_choice_is_a_valid_recipe(
    classes: int, smallest: int, side: int, method: str, evaluated: int | None
) -> None:
    names = tuple(f"class {index}" for index in range(classes))
    data = replace(
        FLOWERS,
        class_names=names,
        smallest_class=smallest,
        train_images=classes * smallest,
        side=side,
        eval_images=evaluated,
    )
    spec = Source(path="org/name", title='A "title": #1', eval_split=None if evaluated is None else "test")
    for choice in list(choices(data, method, pretrained=False))[::4]:  # type: ignore[arg-type]
        recipe = recipe_of(body(spec, data, choice), "x")
        assert recipe.source == replace(spec, image_size=choice.side)
        assert recipe.squeeze.network == recipe.evaluate.students[0] == choice.network
        assert (recipe.recover.patches is None) == (method == "sre2l")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("org/cifar-100", "cifar-100"),
        ("/data/my flowers", "my-flowers"),
        ("/data/.hidden", "hidden"),
        ("/data/été", "t"),
    ],
)
def test_the_run_has_the_name_of_the_dataset(path: str, name: str) -> None:
    assert run_name(Source(path=path)) == name
    load = recipe_of(body(Source(path=path), FLOWERS, next(choices(FLOWERS, "best", pretrained=False))), "x")
    assert load.name == name
