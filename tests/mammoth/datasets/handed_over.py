"""Digits as a stream of Mammoth's: images of Pillow, transforms of torchvision, store_masked_loaders."""

import numpy as np
import torch.nn.functional as F
import torchvision.transforms as transforms
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

from datasets.transforms.denormalization import DeNormalize
from datasets.utils import set_default_from_args
from datasets.utils.continual_dataset import ContinualDataset, fix_class_names_order, store_masked_loaders


class Digits(Dataset):
    def __init__(self, train, transform=None):
        digits = load_digits()
        chosen = (np.arange(len(digits.target)) % 5 != 4) == train
        self.data = (digits.images[chosen] * 15).astype(np.uint8)
        self.targets = digits.target[chosen]
        self.transform = transform
        self.not_aug_transform = transforms.Compose([transforms.ToTensor()])

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = Image.fromarray(self.data[index], mode="L")
        return self.transform(image), self.targets[index], self.not_aug_transform(image.copy())


class HandedOver(ContinualDataset):
    NAME = "handed-over"
    SETTING = "class-il"
    N_CLASSES_PER_TASK = 2
    N_TASKS = 5
    N_CLASSES = N_CLASSES_PER_TASK * N_TASKS
    SIZE = (8, 8)
    MEAN, STD = (0.3,), (0.35,)
    TRANSFORM = transforms.Compose(
        [transforms.RandomCrop(8, padding=1), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )

    def get_data_loaders(self):
        test_transform = transforms.Compose([transforms.ToTensor(), self.get_normalization_transform()])
        train_dataset = Digits(True, transform=self.TRANSFORM)
        test_dataset = Digits(False, transform=test_transform)
        train, test = store_masked_loaders(train_dataset, test_dataset, self)
        return train, test

    @set_default_from_args("backbone")
    def get_backbone():
        return "mlp"

    @staticmethod
    def get_transform():
        return transforms.Compose([transforms.ToPILImage(), HandedOver.TRANSFORM])

    @staticmethod
    def get_loss():
        return F.cross_entropy

    @staticmethod
    def get_normalization_transform():
        return transforms.Normalize(HandedOver.MEAN, HandedOver.STD)

    @staticmethod
    def get_denormalization_transform():
        return DeNormalize(HandedOver.MEAN, HandedOver.STD)

    @set_default_from_args("n_epochs")
    def get_epochs(self):
        return 2

    @set_default_from_args("batch_size")
    def get_batch_size(self):
        return 24

    def get_class_names(self):
        if self.class_names is None:
            self.class_names = fix_class_names_order([str(digit) for digit in range(10)], self.args)
        return self.class_names
