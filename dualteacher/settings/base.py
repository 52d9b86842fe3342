"""Building blocks of the sections: types with limits, and the strict base model."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", description="lower-case letters, digits and _")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[list[Byte], Field(min_length=3, max_length=3)]  # [r, g, b]
MaskValue = Annotated[int, Field(ge=-(2**31), lt=2**31)] | Color


def _inside(text: str) -> str:
    if not text or "\\" in text or text.startswith("/") or ".." in text.split("/"):
        raise ValueError("expected a relative path inside `folder`, with / and without ..")
    return text


Inside = Annotated[str, AfterValidator(_inside)]
Place = Annotated[str, Field(min_length=1, description="a file's or folder's path")]


class Section(BaseModel):
    """A mapping in params.yaml: no unknown keys, no implicit conversions, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def by_tag(union: Any, tag: str) -> dict[str, type[Section]]:
    """Map each value of `tag` to its section in a discriminated union."""
    sections = get_args(get_args(union)[0])
    return {value: section for section in sections for value in get_args(section.model_fields[tag].annotation)}
