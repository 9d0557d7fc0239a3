"""Projectors between feature spaces."""

import pytest
import torch
from torch import nn

from backbone.utils.projector import PROJECTORS, ResidualProjector, make_projector


def features() -> torch.Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", PROJECTORS)
def test_a_projector_keeps_the_shape(kind):
    assert make_projector(kind, 6, 4)(features()).shape == (5, 6)


def test_a_residual_projector_starts_as_the_identity_unless_it_starts_random():
    assert torch.equal(make_projector("residual", 6, 4)(features()), features())
    assert not torch.allclose(make_projector("residual", 6, 4, zero_init=False)(features()), features(), atol=1e-3)
    assert isinstance(make_projector("residual", 6), ResidualProjector)


def test_a_plain_projector_has_no_way_around_its_hidden_units():
    projector = make_projector("plain", 6, 4)
    with torch.no_grad():
        projector[0].weight.zero_()
        projector[0].bias.fill_(-1)
    outputs = projector(features())
    assert torch.equal(outputs, outputs[:1].expand(5, -1))


def test_none_is_the_features_themselves_and_has_nothing_to_train():
    projector = make_projector("none", 6)
    assert torch.equal(projector(features()), features())
    assert not list(projector.parameters())


def test_the_hidden_layer_has_the_size_asked_for():
    for kind in ("residual", "plain"):
        sizes = [layer.out_features for layer in make_projector(kind, 6, 4).modules() if isinstance(layer, nn.Linear)]
        assert sizes == [4, 6]


def test_an_unknown_projector_is_refused():
    with pytest.raises(ValueError, match="residual, plain, none"):
        make_projector("linear", 6)
