"""All that a resume needs to go on in the data: a step, what the data are, and the substitutions that a repetition might not find again."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from megatron_mplug2.config.schema import Task
from megatron_mplug2.data.split import Split
from megatron_mplug2.data.substitution import Substitution
from megatron_mplug2.errors import UserError


class DataState(BaseModel):
    """JSON through `model_dump(mode="json")` and `model_validate`. The same on every rank if ranks agree on substitutions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=0)
    """Steps whose samples were consumed."""
    fingerprints: dict[Task, str]
    """Of each stream in the schedule."""
    vocabulary: str
    """Fingerprint of the vocabulary."""
    substituted: int = Field(default=0, ge=0)
    """Samples that were substituted in these steps."""
    substitutions: tuple[Substitution, ...] = ()
    """Those where storage was at fault; bad content is found again."""


def check_same_data(state: DataState, fingerprints: Mapping[Task, str], vocabulary: str) -> None:
    """Raises UserError naming what is not what the checkpoint was trained on."""
    changed = [f"data.{Split.TRAIN}.{task}" for task, fingerprint in fingerprints.items() if state.fingerprints.get(task) != fingerprint]
    if state.vocabulary != vocabulary:
        changed.append("data.vocab")
    if changed:
        raise UserError(
            f"cannot go on from step {state.steps}: the data of {', '.join(changed)} are not those of the checkpoint; "
            "put them back, or start a new run in another run_dir"
        )
