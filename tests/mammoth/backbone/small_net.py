"""A network in Mammoth's form."""

import torch.nn as nn

from backbone import MammothBackbone, num_flat_features, register_backbone, xavier


class SmallNet(MammothBackbone):
    def __init__(self, input_size: int, output_size: int, hidden: int = 24) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.fc = nn.Linear(input_size, hidden)
        self.classifier = nn.Linear(hidden, output_size)
        self.net = nn.Sequential(self.fc, nn.ReLU(), self.classifier)
        self.net.apply(xavier)

    def forward(self, x, returnt="out"):
        x = x.view(-1, num_flat_features(x))
        feats = self.fc(x).relu()
        if returnt == "features":
            return feats
        out = self.classifier(feats)
        if returnt == "out":
            return out
        if returnt == "both":
            return (out, feats)
        raise NotImplementedError("Unknown return type")


@register_backbone("small-net")
def small_net(num_classes: int, input_size: int, hidden=24) -> SmallNet:
    return SmallNet(input_size, num_classes, hidden)
