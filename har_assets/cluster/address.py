"""The Ray cluster that HAR_RAY names: a client of its job server, its nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from har_assets import settings
from har_assets.errors import HarError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server; HarError where none answers or the extra `ray` is missing."""
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise HarError(
            f"{settings.RAY} names a Ray cluster and Ray is not installed: `pip install 'har_assets[ray]'`, or unset "
            "it."
        ) from None
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise HarError(
            f"No Ray job server answers at {address} ({' '.join(str(error).split())[:200]}): start the cluster, `ray "
            f"start --head`, correct {settings.RAY}, or unset it to run steps on this machine."
        ) from error


def nodes_of(client: JobSubmissionClient) -> list[dict[str, float]]:
    """The resources of each living node in all: `CPU`, `GPU`, `memory` in bytes, custom resources. Raises HarError."""
    answer = client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000")
    if not answer.ok:
        raise HarError(
            f"Ray's job server does not list its nodes ({answer.status_code}): is the cluster still starting?"
        )
    nodes = answer.json()["data"]["result"]["result"]
    return [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]
