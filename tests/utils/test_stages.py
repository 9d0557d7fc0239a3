"""Finding an intermediate map, and the distance between two networks there."""

import math

import pytest
import torch
from torch import nn

from utils.errors import UsageError
from utils.stages import DISTANCES, find_stage, map_distance, stage_index


class Net(nn.Module):
    def __init__(self, stages):
        super().__init__()
        self.stages = stages


NAMED, UNNAMED = Net(["conv1", "mixed_3b", "mixed_3c"]), Net(nn.ModuleList([nn.Identity()]))


def test_a_stage_is_found_by_name_number_and_share():
    assert find_stage(NAMED, "mixed_3c") == 2
    assert find_stage(NAMED, "0") == 0
    assert find_stage(NAMED, "1") == 1
    assert find_stage(NAMED, "1.0") == 1.0
    assert isinstance(find_stage(NAMED, "1.0"), float)
    assert find_stage(UNNAMED, "0.33") == 0.33


@pytest.mark.parametrize(
    ("net", "text", "said"),
    [
        (NAMED, "mixed_3d", "did you mean mixed_3"),
        (NAMED, "somewhere", "conv1, mixed_3b, mixed_3c"),
        (NAMED, "3", "below 3"),
        (NAMED, "0.0", "above 0"),
        (NAMED, "1.5", "at most 1.0"),
        (NAMED, "nan", "above 0"),
        (NAMED, "-0.5", "above 0"),
        (UNNAMED, "2", "does not name its stages"),
        (UNNAMED, "conv1", "a share of the depth like 0.33 always works"),
    ],
)
def test_a_stage_that_is_not_there_is_refused_with_those_that_are(net, text, said):
    with pytest.raises(UsageError, match=said):
        find_stage(net, text)


def test_a_share_counts_from_the_input():
    assert [stage_index(1 / 3, n) for n in (1, 2, 3, 5, 6, 9, 16)] == [0, 0, 0, 0, 1, 2, 4]
    assert [stage_index(0.5, n) for n in (1, 2, 4)] == [0, 0, 1]
    assert [stage_index(1.0, n) for n in (1, 5)] == [0, 4]
    assert stage_index(3, 5) == 3


SHAPES = [(4, 6), (4, 6, 5), (4, 6, 5, 3), (4, 6, 2, 5, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=["flat", "sequence", "image", "clip"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_distance_is_zero_between_equals_and_finite_with_a_gradient_otherwise(shape, distance):
    generator = torch.Generator().manual_seed(0)
    maps, others = (torch.randn(shape, generator=generator) for _ in range(2))
    assert map_distance(maps, maps.clone(), distance).item() == pytest.approx(0, abs=1e-7)
    maps = (1e3 * maps).requires_grad_()
    value = map_distance(maps, others, distance)
    value.backward()
    assert value > 0
    assert torch.isfinite(maps.grad).all()


def test_squared_error_by_hand():
    assert map_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])).item() == 2.5


def test_jensen_shannon_by_hand_after_averaging_over_place():
    # Means over place are (0, 0) and (0, log 3): softmax 1/2, 1/2 and 1/4, 3/4.
    maps = torch.tensor([-1.0, 1.0, 2.0, -2.0]).view(1, 2, 1, 2)
    others = torch.tensor([-3.0, 3.0, 0.0, 2 * math.log(3)]).view(1, 2, 1, 2)
    p, q = (0.5, 0.5), (0.25, 0.75)
    wanted = sum(a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in zip(p, q, strict=True)) / 2
    assert map_distance(maps, others, "js").item() == pytest.approx(wanted, rel=1e-6)


def test_an_unknown_distance_is_refused():
    with pytest.raises(ValueError, match="mse, js"):
        map_distance(torch.zeros(1, 2), torch.zeros(1, 2), "l1")
