"""What every section of the configuration shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Column = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Rank = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0)]
Device = Literal["auto", "cpu", "cuda", "mps"]


class Section(BaseModel):
    """A closed, frozen part of the configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
