"""Whether a vocabulary can write coordinates."""

from megatron_mplug2.config.schema import RunConfig
from megatron_mplug2.data.tokenizer import Tokenizer
from megatron_mplug2.errors import UserError


def check_numbers(config: RunConfig) -> None:
    """Raises UserError for a vocabulary that does not give back a number that a box may have, as one that was trained on texts without
    digits."""
    tokenizer = Tokenizer(config.data.vocab, config.model.text.vocab_size)
    for number in range(max(phase.resolution for phase in config.schedule) + 1):
        if tokenizer.decode(tokenizer.pieces(str(number))) != str(number):
            raise UserError(
                f"data.vocab={config.data.vocab} cannot write the number {number}, which boxes need: take bert-base-uncased's, "
                "or train one on shards with regions (`mplug2 data tokenizer`)"
            )
