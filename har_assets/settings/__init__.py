"""The settings of a deployment: every environment variable `HAR_*`, once.

A setting is a field of `Settings`, and its variable has the field's name in capitals:

    settings.read().store_quota       its value now; SettingsError in one sentence where settings are wrong
    f"raise {settings.STORE_QUOTA}"   the name of its variable, for a sentence

Values are read when they are asked for. docs/settings.md is the list of them, `har doctor` shows what holds here. What
belongs to one run is a field of an asset's configuration instead.

The fields are imported by the first `read`: with pydantic they take a quarter of a second, which a process that decodes
videos need not spend.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from har_assets.settings.fields import Settings

PREFIX = "HAR_"
DEFAULT_ROOT = "artifacts"
"""Folder of the artifact store, below the project folder, where nothing else is named."""
OWN_DATABASE = "sqlite:///mlflow.db"
"""Tracking address without a server, relative to the project folder."""


class Setting(str):
    """The name of an environment variable."""

    __slots__ = ()

    @overload
    def get(self) -> str | None: ...

    @overload
    def get(self, default: str) -> str: ...

    def get(self, default: str | None = None) -> str | None:
        """The text that the variable holds now, to be handed on or compared; `default` where it is not set.

        Models that were registered before `read` existed ask for their folder by it.
        """
        return os.environ.get(self, default)


def __getattr__(name: str) -> Setting:
    """The name of a variable by the name of its field in capitals; a test holds that the field exists."""
    if not name.isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return Setting(PREFIX + name)


def read() -> Settings:
    """The settings that hold now. SettingsError in one sentence that names every wrong one."""
    from har_assets.settings import fields

    return fields.read()
