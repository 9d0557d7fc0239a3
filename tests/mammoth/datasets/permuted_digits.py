"""Digits in several orders of their pixels as a stream of Mammoth's: a transform of its own for every task."""

import numpy as np
import torch.nn.functional as F
import torchvision.transforms as transforms
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

from datasets.transforms.permutation import Permutation
from datasets.utils import set_default_from_args
from datasets.utils.continual_dataset import ContinualDataset, store_masked_loaders


class Plain(Dataset):
    def __init__(self, train, transform=None):
        digits = load_digits()
        chosen = (np.arange(len(digits.target)) % 5 != 4) == train
        self.data = (digits.images[chosen] * 15).astype(np.uint8)
        self.targets = digits.target[chosen]
        self.transform = transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.data[index], mode="L")), self.targets[index]


class Permuted(Plain):
    def __init__(self, train, transform=None):
        super().__init__(train, transform)
        self.not_aug_transform = transforms.Compose([transforms.ToTensor()])

    def __getitem__(self, index):
        image = Image.fromarray(self.data[index], mode="L")
        return self.transform(image), self.targets[index], self.not_aug_transform(image.copy())


class PermutedDigits(ContinualDataset):
    NAME = "permuted-digits"
    SETTING = "domain-il"
    N_CLASSES_PER_TASK = 10
    N_TASKS = 4

    def get_data_loaders(self):
        permute = Permutation()
        change = transforms.Compose([transforms.ToTensor(), permute])
        train = Permuted(
            True, transforms.Compose([transforms.RandomCrop(8, padding=1), transforms.ToTensor(), permute])
        )
        train.not_aug_transform = change
        test = Plain(False, change)
        return store_masked_loaders(train, test, self)

    @set_default_from_args("backbone")
    def get_backbone():
        return "mnistmlp"

    @staticmethod
    def get_transform():
        return None

    @staticmethod
    def get_loss():
        return F.cross_entropy

    @staticmethod
    def get_normalization_transform():
        return None

    @staticmethod
    def get_denormalization_transform():
        return None

    @set_default_from_args("n_epochs")
    def get_epochs(self):
        return 3

    @set_default_from_args("batch_size")
    def get_batch_size(self):
        return 32
