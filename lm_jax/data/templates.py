"""Templates: what stands before and after each text of a source, such as "Question: {}", or around several texts."""

from __future__ import annotations

import string

from lm_jax.core.config import InputError


def split(template: str, key: str) -> tuple[str, str]:
    """Return what a template puts before and after a text.

    Args:
      template: text with exactly one {}, in which {{ and }} stand for braces; empty for none.
      key: the setting, for the message.

    Raises:
      InputError: the template has no {}, several, or other braces.

    Example:
      >>> split("Question: {} {{?}}", "template")
      ('Question: ', ' {?}')
    """
    sides = [""]
    try:
        for literal, field, spec, conversion in string.Formatter().parse(template):
            sides[-1] += literal
            if field is None:
                continue
            if field or spec or conversion:
                raise ValueError
            sides.append("")
        if template and len(sides) != 2:
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"{key} is {template!r:.80}; expected text with exactly one {{}}, where the entry goes, such as "
            f"'Question: {{}}'; write {{{{ and }}}} for braces"
        ) from error
    return sides[0], sides[-1] if template else ""


def parts(template: str, key: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the stretches of text of a template with named places, and the names of the places between them.

    Args:
      template: text with names in braces, in which {{ and }} stand for braces.
      key: the setting, for the message.

    Raises:
      InputError: a place has no name or more than one, or a brace is not closed.

    Example:
      >>> parts("{text} It was {mask}.", "template")
      (('', ' It was ', '.'), ('text', 'mask'))
    """
    stretches, names = [""], []
    try:
        for literal, field, spec, conversion in string.Formatter().parse(template):
            stretches[-1] += literal
            if field is None:
                continue
            if not field or spec or conversion:
                raise ValueError
            names.append(field)
            stretches.append("")
    except ValueError as error:
        raise InputError(
            f"{key} is {template!r:.80}; expected text with the names of its places in braces, such as "
            "'{text} It was {mask}.'; write {{ and }} for braces"
        ) from error
    return tuple(stretches), tuple(names)
