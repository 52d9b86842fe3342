"""docs/reference/params.md: every key of params.yaml with its type, limits and meaning.

Types and limits come from the models in settings/, meanings from their docstrings and the comments after their fields,
values from presets/base.yaml.
"""

from __future__ import annotations

import io
import re
import tokenize
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from dualteacher import settings
from dualteacher.workflow import presets

VALUES = Path("presets/base.yaml")
BY_NAME = {
    "datasets": "NAME",
    "partition": "NAME",
    "methods": "NAME",
}  # sections whose keys are the user's names
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
ALIASES = {  # described in words, since their patterns and validators are unreadable
    settings.Name: "a name (lower-case letters, digits, `_`)",
    settings.Inside: "a folder inside `folder`",
    settings.Place: "a path",
    settings.Color: "[r, g, b], 0…255 each",
    settings.MaskValue: "a whole number of 32 bits, or [r, g, b]",
}
HEAD = f"""# Settings: params.yaml

<!-- written by `make reference` from dualteacher/settings/ and {VALUES} -->

Every command reads its settings from `params.yaml` only. There are no defaults: every key is required, and unknown keys
are errors. `python -m dualteacher check-params` checks the file. Write `0.001`, not `1e-3`, which YAML reads as text.
The column "Blue Marble" holds the values in `{VALUES}`, a starting point.
"""


def page() -> str:
    """The page's text."""
    sources = sorted(Path(settings.__file__).parent.glob("*.py"))
    comments = field_comments([path.read_text(encoding="utf-8") for path in sources])
    values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    parts = [HEAD]
    for name, field in settings.Settings.model_fields.items():
        section = _model(field.annotation)
        if section is None and name not in BY_NAME:
            parts.append(f"## {name}\n\n{_sentence(comments[settings.Settings, name])} Here: `{values[name]}`.\n")
        elif name == "datasets":
            text = "## datasets.NAME\n\nWhere the images come from. `source` selects one of these kinds.\n"
            parts.append(text + _tagged("source", settings.SOURCES, values[name], comments))
        elif name == "methods":
            text = (
                "## methods.NAME\n\nMethods by name. `kind` selects one of these. For an ablation, add another name.\n"
            )
            parts.append(text + _tagged("kind", settings.KINDS, values[name], comments))
        else:
            model: type[BaseModel] = settings.Partition if section is None else section
            head = f"{name}.{BY_NAME[name]}" if name in BY_NAME else name
            shown = next(iter(values[name].values())) if name in BY_NAME else values[name]
            parts.append(f"## {head}\n\n{_doc(model)}\n\n{_table(model, shown, comments)}")
    return "\n".join(parts)


def _tagged(tag: str, models: Mapping[str, type[BaseModel]], values: dict[str, Any], comments: dict[Any, str]) -> str:
    """A subsection for each kind of a named entry; `tag` is the key that selects the kind."""
    text = ""
    for kind, model in models.items():
        shown: dict[str, Any] = next((value for value in values.values() if value[tag] == kind), {})
        text += f"\n### {tag}: {kind}\n\n{_doc(model)}\n\n{_table(model, shown, comments)}"
    return text


def _table(model: type[BaseModel], values: Any, comments: dict[Any, str]) -> str:
    lines = ["| key | type | Blue Marble | meaning |", "|---|---|---|---|"]
    for key, annotation, value, meaning in _rows(model, values, comments):
        shown = "" if value is ... else f"`{presets.spell(value)}`"
        lines.append(f"| `{key}` | {annotation} | {shown} | {meaning} |")
    return "\n".join(lines) + "\n"


def _rows(
    model: type[BaseModel], values: Any, comments: dict[Any, str], prefix: str = ""
) -> Iterator[tuple[str, str, Any, str]]:
    """Yield (key, type, value, meaning) of every key, including those of nested mappings."""
    for name, field in model.model_fields.items():
        value = values.get(name, ...) if isinstance(values, dict) else ...
        within = _model(field.annotation)
        meaning = "this kind" if name in ("source", "kind") else _comment(model, name, comments)
        if within is None:
            annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            yield prefix + name, field.description or spell(annotation), value, meaning
            continue
        many = get_origin(field.annotation) is list
        yield f"{prefix}{name}", "a list of mappings" if many else "a mapping", ..., meaning
        yield from _rows(within, {} if many else value, comments, f"{prefix}{name}{'[]' if many else ''}.")


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation is, or that it holds as optional or in a list; not in a dict."""
    if get_origin(annotation) is dict:
        return None
    candidates = [annotation, *get_args(annotation)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)


def spell(annotation: Any) -> str:
    """Describe a type and its limits in words."""
    for alias, words in ALIASES.items():
        if annotation == alias:
            return words
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = [limit for entry in arguments[1:] for limit in _flat(entry)]
        return _limited(arguments[0], limits)
    if origin in (Union, types.UnionType):
        spelt = [spell(argument) for argument in arguments]
        return ("; or " if any("," in word for word in spelt) else " or ").join(spelt)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of any length: {spell(arguments[0])}"
    return PLAIN[annotation]


def _flat(entry: Any) -> list[Any]:
    return list(entry.metadata) if hasattr(entry, "metadata") else [entry]


def _limited(annotation: Any, limits: list[Any]) -> str:
    """`annotation` with pydantic's limits, e.g. "number, > 0, ≤ 1"."""
    said = []
    for limit in limits:
        said += [f"{sign} {getattr(limit, name):g}" for name, sign in SIGNS.items() if hasattr(limit, name)]
        if hasattr(limit, "multiple_of") and limit.multiple_of:
            said.append(f"a multiple of {limit.multiple_of}")
        if pattern := getattr(limit, "pattern", None):
            said.append(_choices(pattern) if "|" in pattern else f"matching `{pattern}`")
    if get_origin(annotation) is not list:
        return ", ".join([spell(annotation), *said])
    low = max((getattr(limit, "min_length", 0) for limit in limits), default=0)
    high = max((getattr(limit, "max_length", 0) for limit in limits), default=0)
    size = f"{low}" if low == high and low else f"{low} to {high}" if high else "1 or more" if low else ""
    return f"list of {size}: {spell(get_args(annotation)[0])}" if size else spell(annotation)


def _choices(pattern: str) -> str:
    """A pattern's alternatives in words: ^(auto|cuda(:\\d+)?)$ → one of `auto`, `cuda`, `cuda:N`."""
    words = []
    for word in pattern.removeprefix("^(").removesuffix(")$").split("|"):
        plain = re.sub(r"\(.*\)\?", "", word)
        words += [plain, f"{plain}:N"] if plain != word else [plain]
    return "one of " + ", ".join(f"`{word}`" for word in words)


def _comment(model: type[BaseModel], name: str, comments: dict[Any, str]) -> str:
    """The comment after the field, in the model or in one it inherits from."""
    return next((comments[base, name] for base in model.__mro__ if (base, name) in comments), "").replace("|", "&#124;")


def field_comments(sources: Iterable[str]) -> dict[Any, str]:
    """Map (model, field name) to the comment at the end of the field's line."""
    return {key: comment for source in sources for key, comment in _comments_of(source)}


def _comments_of(source: str) -> Iterator[tuple[Any, str]]:
    owner: Any = None
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string == "class":
            name = re.match(r"class (\w+)", lines[token.start[0] - 1])
            owner = getattr(settings, name[1], None) if name else None
        if token.type == tokenize.COMMENT:
            field = re.match(r"    (\w+): ", lines[token.start[0] - 1])
            if field and owner is not None:
                yield (owner, field[1]), token.string.lstrip("# ").strip()


def _doc(model: type[BaseModel]) -> str:
    """The docstring, unindented, with links to the pages it mentions."""
    text = re.sub(r"\n +", "\n", (model.__doc__ or "").strip())
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](../\1)", text)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
