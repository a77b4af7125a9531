"""What a family of downstream tasks needs of the model, and whether a config and the checkpoint that it begins with have it."""

from megatron_mplug2.checkpoint import inspection, store
from megatron_mplug2.config.downstream import Family, FamilyKind
from megatron_mplug2.config.objectives import ObjectivesConfig
from megatron_mplug2.config.schedule import Task
from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.config.training import InitialiseConfig
from megatron_mplug2.downstream.classes import check_classes
from megatron_mplug2.downstream.measures import figures
from megatron_mplug2.downstream.numbers import check_numbers
from megatron_mplug2.errors import UserError

_ENCODERS = ("vision", "text", "universal")
_READER = ("text", "universal", "decoder", "heads.lm")
_SPEAKER = (*_ENCODERS, "fusion", "decoder", "heads.lm")


def family_of(config: RunConfig) -> Family:
    """Raises UserError for a run without a family."""
    if config.downstream is None:
        raise UserError("downstream.family is missing: `mplug2 finetune` needs a config such as configs/finetune/msrvtt_qa.yaml")
    return config.downstream.family


def needed_modules(family: Family, objectives: ObjectivesConfig) -> tuple[str, ...]:
    """Beginnings of canonical names of all weights that a family uses."""
    if family.task is Task.TEXT:
        return _READER
    if family.kind is not FamilyKind.RETRIEVAL:
        return _SPEAKER
    return (*_ENCODERS, "heads.contrast", *(("fusion", "heads.matching") if objectives.vlm.weight else ()))


def check_finetuning(config: RunConfig) -> None:
    """Before ranks start. Looks into the checkpoint that a run begins with, not into its tensors.

    Raises:
        UserError: the run has no family, its list of classes cannot be taught, its validation does not tell `downstream.best.figure`, there
            is no checkpoint to begin with, or it lacks a module that the family needs and that `initialise_from.modules` names; or as
            `check_numbers`.
    """
    family, begun = family_of(config), config.initialise_from
    check_classes(config)
    _check_figure(config)
    if family.kind is FamilyKind.GROUNDING:
        check_numbers(config)
    goes_on = any(store.checkpoint_folder(config.run_dir).glob("step-*"))
    if begun is None or goes_on:
        return
    checkpoint = inspection.checkpoint_of(begun.checkpoint)
    there = inspection.inspect(checkpoint).weights()
    for module in needed_modules(family, config.objectives):
        if _named(module, begun) and not any(f"{name}.".startswith(f"{module}.") for name in there):
            raise UserError(
                f"{checkpoint} has no {module}, which downstream.family={family} needs: "
                "begin with another checkpoint, or leave it out of initialise_from.modules, to be trained from nothing"
            )


def _check_figure(config: RunConfig) -> None:
    """The first validation would tell, hours later."""
    best, known = config.downstream.best if config.downstream else None, figures(config)
    if best is not None and best.figure not in known:
        raise UserError(f"downstream.best.figure={best.figure} is no figure of this run's validation; there are {', '.join(known)}")


def _named(module: str, begun: InitialiseConfig) -> bool:
    """Whether the run is to begin with some weight of a module."""
    return any(f"{module}.".startswith(f"{named}.") or f"{named}.".startswith(f"{module}.") for named in begun.modules)
