"""Numbers in the schema: a switch is none, and neither is infinity."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _not_a_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"it is {value}; a number is needed")
    return value


Number = Annotated[float, BeforeValidator(_not_a_switch), Field(allow_inf_nan=False)]
