"""What the model registry refers to, so that it is not pruned."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from har_assets.errors import HarError
from har_assets.tracking.client import client_of, one_line
from har_assets.tracking.tags import BEFORE_TAG, ONNX_VERSION_TAG


@dataclass(frozen=True)
class Registered:
    """A version of a registered model that an alias stands for, or that a rollback returns to."""

    name: str
    number: str
    onnx_version: str
    """Data version of the onnx_model that it serves; empty where that is not known."""
    alias: str

    @property
    def words(self) -> str:
        """`har_video_action version 3 (champion)`."""
        return f"{self.name} version {self.number} ({self.alias})"


def registered_versions(uri: str) -> list[Registered]:
    """Versions of the model registry that an alias stands for, and those to which a rollback returns.

    Empty without a registry: `uri` is empty, or names a local database that is not there.

    Raises:
        HarError: it does not answer, so that nobody knows what its aliases need.
    """
    path = uri.removeprefix("sqlite:///")
    if not uri or (path != uri and not Path(path).is_file()):
        return []
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        return list(_registered(client_of(uri)))
    except (MlflowException, RequestException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        raise HarError(
            f"The model registry at {uri} does not answer ({one_line(error, 160)}), and what its aliases stand for "
            "must not be pruned: start it, or correct the tracking address."
        ) from error


def _registered(client: Any) -> Iterator[Registered]:
    token: str | None = ""
    while token is not None:
        page = client.search_registered_models(max_results=100, page_token=token or None)
        token = page.token or None
        for model in page:
            for alias, number in client.get_registered_model(model.name).aliases.items():
                tags = client.get_model_version(model.name, str(number)).tags
                yield Registered(model.name, str(number), tags.get(ONNX_VERSION_TAG, ""), alias)
                for earlier in client.search_model_versions(f"name = '{model.name}'"):
                    if str(earlier.version) == tags.get(BEFORE_TAG):
                        known = earlier.tags.get(ONNX_VERSION_TAG, "")
                        yield Registered(model.name, str(earlier.version), known, f"before {alias}")
