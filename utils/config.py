"""Values of a run from files and flags: reading, checking, merging the layers, writing the result down."""

from __future__ import annotations

import argparse
from argparse import Action, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UsageError
from utils.registry import ROOT, Registry, nearest, normalise

# Two ways to say how large a memory is: what gives one of them takes the place of the other.
MEMORY_SIZES = ("buffer_size", "exemplars_per_class")
# The parser in C where PyYAML was built with it: a report reads hundreds of configurations.
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def for_backbone(content: dict[str, Any], backbone: str | None) -> dict[str, Any]:
    """The values of a file; a block under the name of a backbone holds for that backbone only."""
    known = Registry("backbone", "backbone").names()
    blocks = {key for key, value in content.items() if isinstance(value, dict) and key in known}
    values = {key: value for key, value in content.items() if key not in blocks}
    return {**values, **content[backbone]} if backbone in blocks else values


def merge(
    parser: ArgumentParser, layers: list[tuple[str, dict[str, Any]]], explicit: Namespace, chosen: dict[str, Any]
) -> Namespace:
    """Lay the layers over the parser's defaults, and what the command line gave over them.

    Returns:
        Namespace of all values, with `sources`: the layer that each came from.

    Raises:
        UsageError: a layer has a key that is no option, a value of the wrong kind, or both of `MEMORY_SIZES`.
    """
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    values = {name: action.default for name, action in actions.items()}
    sources = dict.fromkeys(values, "default")
    for layer, content in layers:
        for key, value in content.items():
            dest = _dest(parser, key)
            if dest not in actions:
                close = nearest(key, actions)
                hint = f"did you mean {', '.join(close)}?" if close else "see --help for the names"
                raise UsageError(f"{layer}: unknown key '{key}' for this model, dataset and backbone; {hint}")
            values[dest], sources[dest] = converted(actions[dest], value, layer), layer
        _replace_other_size(values, sources, content, layer)
    for key, value in vars(explicit).items():
        values[key], sources[key] = value, "command line"
    _replace_other_size(values, sources, vars(explicit), "command line")
    values |= {name: chosen[name] for name in ("model", "dataset") if name in chosen}
    values["backbone"] = normalise(str(values["backbone"])) if values["backbone"] else None
    for mode in ("online", "debug_mode"):
        if values[mode]:
            values |= {"n_epochs": min(values["n_epochs"] or 0, 1) if mode == "debug_mode" else 1, "base_epochs": None}
            sources |= {"n_epochs": mode, "base_epochs": mode}
    if "minibatch_size" in values and values["minibatch_size"] is None:
        values["minibatch_size"], sources["minibatch_size"] = values["batch_size"], "batch_size"
    return Namespace(**values, sources=sources)


def _replace_other_size(values: dict[str, Any], sources: dict[str, str], content: dict[str, Any], layer: str) -> None:
    """A memory size of one layer leaves nothing of the other one that a weaker layer gave."""
    given = [name for name in MEMORY_SIZES if content.get(name) is not None]
    if len(given) > 1:
        raise UsageError(f"{layer}: {' and '.join(given)} both say how large the memory is; give one of them")
    for name in MEMORY_SIZES:
        if given and name in values and name not in given:
            values[name], sources[name] = None, layer


def converted(action: Action, value: Any, layer: str) -> Any:
    """A value from a file, checked and converted as the command line would."""
    many = action.nargs in ("*", "+")
    if value is None and action.default is not None:
        raise UsageError(f"{layer}: {action.dest} is empty; give it a value or leave the line out")
    if value is None:
        return None
    if isinstance(value, dict) or (isinstance(value, list) and not many and action.type is None):
        raise UsageError(f"{layer}: {action.dest} takes a single value, not {value!r}")
    items = value if many and isinstance(value, list) else [value]
    kind: Any = action.type or str
    try:
        results = [kind(item if isinstance(item, list) else str(item)) for item in items]
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        raise UsageError(f"{layer}: {action.dest}: {value!r} does not fit ({error})") from error
    if action.choices is not None and not set(results) <= set(action.choices):
        raise UsageError(f"{layer}: {action.dest}: {value!r} is not one of {', '.join(map(str, action.choices))}")
    return results if many else results[0]


def _dest(parser: ArgumentParser, key: str) -> str:
    for action in parser._actions:
        if f"--{key}" in action.option_strings:
            return action.dest
    return key


def config_layer(path: Path) -> tuple[str, dict[str, Any]]:
    """(name, values) of a file of the repository, relative to its root; no values if there is no such file."""
    return str(path), read_yaml(ROOT / path) if (ROOT / path).exists() else {}


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a YAML file; an empty file has none.

    Raises:
        UsageError: it cannot be read, is no YAML, or is not made of named values.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=YAML_LOADER)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        # A date or a number that does not exist, such as 2020-13-45, is a ValueError.
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path}: expected 'name: value' lines, found {type(content).__name__}")
    return content


def dump_config(args: Namespace) -> str:
    """The resolved configuration as YAML, each line with the layer it came from; `--config` reads it back."""
    lines = []
    for name, value in vars(args).items():
        if name in args.sources and name not in ("resume", "config", "run_dir"):
            text = yaml.safe_dump({name: value}, default_flow_style=True, width=float("inf")).strip()[1:-1]
            lines.append(f"{text}  # {args.sources[name]}")
    return "\n".join(lines) + "\n"


def as_dict(args: Namespace) -> dict[str, Any]:
    """The resolved values without the bookkeeping."""
    return {name: getattr(args, name) for name in args.sources}
