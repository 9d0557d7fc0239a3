"""What streams share."""

from datasets.utils.masked_loaders import set_default_from_args as set_default_from_args
