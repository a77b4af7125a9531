"""Hard negatives: the same in every layout, never a match, drawn with the softmax's probabilities."""

import pytest
import torch
from torch.nn import functional as F

from megatron_mplug2.objectives.negatives import HardNegatives, draw_negatives, valid_negatives

GROUP = 8
LOG_TEMPERATURE = torch.tensor(0.5).log()


def features(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vision, text = (F.normalize(torch.randn(rows, 5, generator=generator), dim=1) for _ in range(2))
    return vision, text


def ragged_ids(rows: int) -> torch.Tensor:
    """Ids that come again inside most groups."""
    generator = torch.Generator().manual_seed(11)
    return torch.randint(0, 6, (rows, 2), generator=generator)


def draw(
    vision: torch.Tensor, text: torch.Tensor, ids: torch.Tensor, positions: torch.Tensor, *, seed: int = 4, step: int = 9
) -> HardNegatives:
    return draw_negatives(vision, text, ids, LOG_TEMPERATURE, group_size=GROUP, seed=seed, step=step, sample_positions=positions)


@pytest.mark.parametrize("microbatch", [GROUP, 2 * GROUP, 4 * GROUP])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_layout_has_no_influence(ranks: int, microbatch: int) -> None:
    """Every rank draws for its microbatches, concatenated: ranges of microbatches first, then ranks within each."""
    batch = 16 * GROUP
    (vision, text), ids, positions = features(batch), ragged_ids(batch), torch.arange(batch)
    whole = draw(vision, text, ids, positions)
    for rank in range(ranks):
        local = positions.reshape(-1, ranks, microbatch)[:, rank].flatten()
        part = draw(vision[local], text[local], ids[local], positions[local])
        for got, wanted in ((part.image_for_text, whole.image_for_text), (part.text_for_image, whole.text_for_image)):
            drawn = torch.where(got >= 0, positions[local][got], -1)
            assert torch.equal(drawn, wanted[local])


def test_negatives_lie_in_the_group_and_never_match() -> None:
    batch = 64 * GROUP
    (vision, text), ids, positions = features(batch), ragged_ids(batch), torch.arange(batch)
    valid = valid_negatives(ids, GROUP)
    negatives = draw(vision, text, ids, positions)
    for chosen in (negatives.image_for_text, negatives.text_for_image):
        assert torch.equal(chosen >= 0, valid)
        sample, negative = positions[valid], chosen[valid]
        assert torch.equal(sample // GROUP, negative // GROUP)
        assert (ids[sample] != ids[negative]).all()
    assert not torch.equal(negatives.image_for_text, negatives.text_for_image)


def chi_square(drawn: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * drawn.numel()
    return float(((torch.bincount(drawn, minlength=GROUP) - expected)[expected > 0] ** 2 / expected[expected > 0]).sum())


def test_probabilities_are_the_softmax_over_valid_members() -> None:
    """One group, repeated 4000 times at other positions: each of its samples draws as often as the softmax says."""
    repeats = 4000
    vision, text = features(GROUP, seed=2)
    ids = torch.stack([torch.arange(GROUP), torch.arange(GROUP)], dim=1)
    ids[3, 0], ids[5, 1] = ids[1, 0], ids[0, 1]
    negatives = draw(vision.repeat(repeats, 1), text.repeat(repeats, 1), ids.repeat(repeats, 1), torch.arange(repeats * GROUP))
    similarity = text.double() @ vision.double().T / LOG_TEMPERATURE.exp()
    match = (ids[:, None] == ids[None]).any(dim=-1)
    assert match.sum() == GROUP + 4
    for chosen, logits in ((negatives.image_for_text, similarity), (negatives.text_for_image, similarity.T)):
        probabilities = logits.masked_fill(match, -torch.inf).softmax(dim=1)
        for sample in range(GROUP):
            drawn = chosen.reshape(repeats, GROUP)[:, sample] % GROUP
            assert (probabilities[sample][drawn] > 0).all()
            # 0.9999 quantile of chi-square with 6 degrees of freedom, the most that there are; uniform draws give over 100.
            assert chi_square(drawn, probabilities[sample]) < 27.9
    uniform = torch.full((GROUP,), 1 / (GROUP - 1)).index_fill(0, torch.tensor(2), 0)
    assert chi_square(negatives.image_for_text.reshape(repeats, GROUP)[:, 2] % GROUP, uniform) > 100


def test_sharp_temperature_takes_the_hardest() -> None:
    vision, text = features(GROUP)
    ids, positions = torch.arange(GROUP)[:, None].expand(-1, 2), torch.arange(GROUP)
    sharp = torch.tensor(1e-4).log()
    negatives = draw_negatives(vision, text, ids, sharp, group_size=GROUP, seed=0, step=0, sample_positions=positions)
    hardest = (text @ vision.T).fill_diagonal_(-torch.inf)
    assert torch.equal(negatives.image_for_text, hardest.argmax(dim=1))
    assert torch.equal(negatives.text_for_image, hardest.argmax(dim=0))


def test_seed_and_step_change_the_draw() -> None:
    batch = 16 * GROUP
    (vision, text), positions = features(batch), torch.arange(batch)
    ids = positions[:, None].expand(-1, 2)
    first = draw(vision, text, ids, positions).image_for_text
    assert torch.equal(first, draw(vision, text, ids, positions).image_for_text)
    for other in (
        draw(vision, text, ids, positions, seed=5),
        draw(vision, text, ids, positions, step=10),
        draw(vision, text, ids, positions + batch),
    ):
        assert 0.05 < (first == other.image_for_text).float().mean().item() < 0.5


def test_directions_draw_independently() -> None:
    """Features that are equal in both modalities make both directions' probabilities equal, not their draws."""
    batch = 64 * GROUP
    vision, positions = features(batch)[0], torch.arange(batch)
    negatives = draw(vision, vision, positions[:, None].expand(-1, 2), positions)
    assert 0.05 < (negatives.image_for_text == negatives.text_for_image).float().mean().item() < 0.5


def test_group_of_one_meaning_has_no_negatives() -> None:
    vision, text = features(2 * GROUP)
    ids, positions = torch.arange(2 * GROUP)[:, None].repeat(1, 2), torch.arange(2 * GROUP)
    ids[:GROUP, 1] = 77
    negatives = draw(vision, text, ids, positions)
    assert valid_negatives(ids, GROUP).tolist() == [False] * GROUP + [True] * GROUP
    for chosen in (negatives.image_for_text, negatives.text_for_image):
        assert (chosen[:GROUP] == -1).all() and (chosen[GROUP:] >= GROUP).all()


def test_cut_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="12 samples are not whole groups of 8"):
        valid_negatives(ragged_ids(12), GROUP)
