"""Select a recipe for a dataset and this machine: the rules' first choice that fits the time and the memory."""

from dataclasses import dataclass
from pathlib import Path

import torch

from srel_hub import config
from srel_hub.config import Recipe, load_recipe, validated
from srel_hub.config.loading import name_of_file
from srel_hub.config.recipe_files import read_merged
from srel_hub.config.resources import RECIPES
from srel_hub.config.yaml_io import merge, parse_yaml
from srel_hub.core.engine import best_precision
from srel_hub.core.metrics import forward_flops
from srel_hub.errors import UserError
from srel_hub.runs.machine import processor
from srel_hub.studies.plan.facts import Facts, Machine, Plan
from srel_hub.studies.plan.price import plan
from srel_hub.studies.plan.run_plan import machine_of
from srel_hub.studies.suggest.rules import HOURS, Choice, Data, Method, choices, forward_passes, same_classes
from srel_hub.studies.suggest.text import body, header
from srel_hub.teachers.cost_model import build_on_meta


MOST_OF_MEMORY = 0.8  # that a stage may be planned to take; the rest is for the system, and for the plan's error


@dataclass(frozen=True)
class Suggestion:
    """A recipe for a dataset and a machine.

    Attributes:
        text: the recipe's YAML.
        fits: whether the plan fits the time budget and the memory.
    """

    choice: Choice
    plan: Plan
    text: str
    fits: bool


def suggest(
    spec: config.Source,
    data: Data,
    file: str,
    method: Method = "best",
    ipc: int | None = None,
    hours: float | None = None,
    machine: Machine | None = None,
) -> Suggestion:
    """Return the preferred recipe that fits the budget; if none fits, the cheapest.

    Args:
        spec: The recipe's section `source`; its `image_size` is kept if it is set.
        data: The dataset.
        file: The recipe's file, which gives the recipe its name.
        method: The method of recover.
        ipc: Images per class; None: derived from the size of the classes.
        hours: Budget on one device; None: HOURS.
        machine: The device to plan for; None: this machine, measured.

    Raises:
        UserError: If a recipe with these settings cannot be run.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = machine or machine_of(device, best_precision())
    budget = HOURS[machine.kind] if hours is None else hours
    offered = list(choices(data, method, has_pretrained(data), spec.image_size, ipc))
    dearer: list[tuple[Choice, float]] = []
    for choice in offered:
        estimate = rough_hours(data, choice, machine)
        if estimate > budget and choice is not offered[-1]:
            dearer.append((choice, estimate))
            continue
        planned = plan_choice(spec, data, choice, machine)
        if is_affordable(planned, budget) or choice is offered[-1]:
            name = torch.cuda.get_device_name(device) if machine.kind == "cuda" else processor()
            top = header(spec, data, choice, planned, name, budget, dearer, file)
            text = top + body(spec, data, choice, name_of_file(Path(file)))
            return Suggestion(choice, planned, text, is_affordable(planned, budget))
        dearer.append((choice, planned.hours))
    raise UserError("no recipe is possible with these options; change or omit --ipc, --method or source.image_size")


def is_affordable(planned: Plan, hours: float) -> bool:
    """Return whether a run fits the time budget and the machine's memory."""
    peak = max(stage.memory for stage in planned.stages)
    return planned.hours <= hours and peak <= MOST_OF_MEMORY * planned.facts.machine.memory


def has_pretrained(data: Data) -> bool:
    """Return whether the classes are those of the pretrained ImageNet teacher in the shipped recipes."""
    teacher = load_recipe("in1k_ipc50").squeeze.pretrained
    assert teacher is not None and teacher.class_names is not None
    return same_classes(data.class_names, teacher.class_names)


def rough_hours(data: Data, choice: Choice, machine: Machine) -> float:
    """Estimate a run's hours without counting its steps. This takes milliseconds."""
    size = (choice.side, choice.side)
    flops = forward_flops(build_on_meta(choice.network, len(data.class_names), size), size)
    return forward_passes(data, choice) * flops / (machine.tflops * 1e12 * 3600)


def plan_choice(spec: config.Source, data: Data, choice: Choice, machine: Machine) -> Plan:
    """Return the plan of a choice, with its steps counted on the meta device."""
    size = (choice.side, choice.side)
    recipe = recipe_of(body(spec, data, choice), str(spec.path))
    return plan(
        Facts(
            recipe=recipe,
            num_classes=len(data.class_names),
            size=size,
            train_images=data.train_images,
            real_images=min(choice.ipc, data.smallest_class) * len(data.class_names),
            eval_images=data.eval_images,
            decoded_images=0,  # disk space decides nothing here
            networks={"teacher": build_on_meta(choice.network, len(data.class_names), size)},
            machine=machine,
        )
    )


def recipe_of(text: str, name: str) -> Recipe:
    """Parse and validate a recipe's text.

    Raises:
        RecipeError: if it is not valid.
    """
    mapping = parse_yaml(text)
    base = mapping.pop("extends", None)
    return validated(merge(read_merged(RECIPES / f"{base}.yaml"), mapping) if base else mapping, [], name)
