"""Options of a product: plain pydantic models, each field with a docstring, published to the Launchpad."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Base of all options."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
