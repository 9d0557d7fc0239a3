"""Prompts: the sentences that a label's name is put into before a text tower reads it."""

from __future__ import annotations

from collections.abc import Sequence

from utils.errors import UsageError
from utils.open_clip_import import import_open_clip

ENSEMBLE = "imagenet"
PLACE = "{}"


def prompt_templates(given: str | Sequence[str]) -> tuple[str, ...]:
    """Templates as a tuple, each with `{}` where the name goes.

    Args:
        given: one template, or several; "imagenet" stands for the 80 of CLIP (A. Radford et al., ICML 2021), as
            open_clip ships them.

    Raises:
        UsageError: there is none, or one has no `{}`.
    """
    templates: list[str] = []
    for template in (given,) if isinstance(given, str) else given:
        if template == ENSEMBLE:
            metadata = import_open_clip("zero_shot_metadata")
            templates += [fill(PLACE) for fill in metadata.OPENAI_IMAGENET_TEMPLATES]
        elif PLACE not in template:
            raise UsageError(
                f"the prompt '{template}' has no {PLACE} for the name of a label; write it as 'a photo of a {PLACE}.', "
                f"or give {ENSEMBLE} for CLIP's ensemble of 80"
            )
        else:
            templates.append(template)
    if not templates:
        raise UsageError(f"no prompt: give at least one, such as 'a photo of a {PLACE}.'")
    return tuple(templates)


def fill_prompts(templates: Sequence[str], name: str) -> list[str]:
    """Every template with the name in its place.

    Raises:
        UsageError: the name is blank.
    """
    if not name.strip():
        raise UsageError(f"a label has no text ('{name}'): a text tower needs a name for every label")
    return [template.replace(PLACE, name) for template in templates]
