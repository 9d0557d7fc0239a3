"""WiSE-FT: answer with weights between those of the original and those of the tuned model."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from models.utils.open_vocabulary import OpenVocabularyModel
from models.utils.tuned_clip import TunedClip
from utils.args import share


class WiseFT(TunedClip):
    """Fine-tuning of the last blocks that answers with the weights (1 - alpha) original + alpha tuned.

    Training does not know of it: what is trained goes on from the tuned weights. The paper interpolates once, after
    fine-tuning on one task; here every answer does, at any time.

    Source: M. Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
    """

    NAME = "wise-ft"

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        OpenVocabularyModel.get_parser(parser)
        add = parser.add_argument_group("wise-ft").add_argument
        add("--wise_alpha", type=share, default=0.5, help="share of the tuned weights; 0: the original model")
        return parser

    def encode(self, tokens: Tensor) -> Tensor:
        original = dict(self.net.tail.named_parameters())
        with torch.no_grad():
            # Torch multiplies in another order, with other last bits, where weights ask for no gradient.
            between = {
                name: torch.lerp(original[name], tuned, self.args.wise_alpha).requires_grad_(tuned.requires_grad)
                for name, tuned in self.tuned.named_parameters()
            }
        return F.normalize(functional_call(self.tuned, between, (tokens,)), dim=1)[:, None]
