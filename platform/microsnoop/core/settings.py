"""What all settings have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

Channel = StrictStr | Annotated[StrictInt, Field(ge=0)]
ChannelChoice = (
    Annotated[list[Channel], Field(min_length=1)] | Annotated[dict[StrictStr, Channel], Field(min_length=1)]
)


class Settings(BaseModel):
    """Base: unknown keys are errors, values cannot be changed after checking."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
