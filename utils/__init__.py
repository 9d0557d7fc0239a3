"""The loop, buffer, metrics, checkpoints and arguments. Importing the package itself loads nothing heavy."""

from utils.option_types import binary_to_boolean_type as binary_to_boolean_type
from utils.option_types import create_if_not_exists as create_if_not_exists
from utils.option_types import custom_str_underscore as custom_str_underscore
from utils.option_types import none_or_float as none_or_float
