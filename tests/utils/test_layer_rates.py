"""Parameters by layer, and rates that grow with depth."""

import pytest
import torch
from torch import nn

import backbone
from backbone import ContinualBackbone
from utils.args import parse_args
from utils.layer_rates import depth_graded, trunk_layers

TRUNKS = [
    ("uiprmd", "temporal", ["--depth", "3"], 3),
    ("seq-digits", "mlp", ["--depth", "2"], 2),
    ("seq-digits", "mlp", ["--depth", "1"], 1),
    ("seq-digits", "resnet18", ["--width", "4"], 6),  # convolution, batch normalisation, four stages
]


def build(dataset: str, name: str, options: list[str]) -> ContinualBackbone:
    import datasets

    args = parse_args(["--model", "sgd", "--dataset", dataset, "--backbone", name, *options])
    stream = datasets.get_dataset(args)
    args.num_classes, args.input_shape = stream.N_CLASSES, stream.input_shape
    return backbone.get_backbone(args)


@pytest.mark.parametrize(("dataset", "name", "options", "n_layers"), TRUNKS)
def test_every_parameter_of_the_trunk_is_in_exactly_one_layer(dataset, name, options, n_layers):
    net = build(dataset, name, options)
    layers = trunk_layers(net)
    assert len(layers) == n_layers
    found = [id(parameter) for layer in layers for parameter in layer]
    assert sorted(found) == sorted(id(parameter) for parameter in net.trunk_parameters())


def test_layers_come_in_the_order_of_depth():
    net = build("uiprmd", "temporal", ["--depth", "3"])
    assert [layer[0] is net.layers[i][0].weight for i, layer in enumerate(trunk_layers(net))] == [True] * 3


class WithOwn(ContinualBackbone):
    def __init__(self):
        super().__init__(2, 1)
        self.deep = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        self.silent = nn.ReLU()
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]), nn.Linear(2, 2)])
        self.offset = nn.Parameter(torch.zeros(2))


def test_lists_are_opened_layers_without_parameters_left_out_and_own_parameters_first():
    net = WithOwn()
    assert [len(layer) for layer in trunk_layers(net)] == [1, 4, 2, 2]
    assert trunk_layers(net)[0][0] is net.offset
    assert trunk_layers(net)[2][0] is net.blocks[0][0].weight


def test_rates_fall_towards_the_input():
    groups = depth_graded(build("uiprmd", "temporal", ["--depth", "3"]), 0.1, 0.5)
    assert [group["lr"] for group in groups] == pytest.approx([0.025, 0.05, 0.1])


def test_a_network_without_a_trunk_has_no_groups():
    assert depth_graded(ContinualBackbone(3, 1), 0.1, 0.5) == []
