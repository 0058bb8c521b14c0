"""Steps of a run on the nodes of a Ray cluster, by dagster-ray, where HAR_RAY names one.

    the run, where it was started        SurvivingExecutor > NodeExecutor
        a step ─── Ray job ───►          a node that has what the step needs: `needs` on the asset
            shard ─── Ray task ───►      any node with a free CPU (har_assets.cluster.sharding)
            training ─ Ray tasks ──►     the other nodes of a training over several (har_assets.cluster.training)

dagster-ray submits each step as a job to Ray's job server. What is added here: a step whose node has died is tried
again on another one; a step that was stopped from outside ends; what no node of the cluster has is not waited for.

Nodes take keys and passwords from their own environment; nothing secret travels with a step, as whoever reaches the job
server reads what does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from har_assets import settings
from har_assets.errors import HarError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def cluster_address() -> str:
    """Address of the job server by HAR_RAY, empty where there is none; HarError for one that is no address."""
    address = settings.RAY.get("").strip()
    if address and urlsplit(address).scheme not in ("http", "https"):
        raise HarError(
            f"{settings.RAY} is {address!r}: set it to the address of the cluster's job server, http://HEAD:8265, or "
            "unset it to run steps on this machine."
        )
    return address


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
    """What each living node offers in all: `CPU`, `GPU`, `memory` in bytes, custom resources. Raises HarError."""
    answer = client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000")
    if not answer.ok:
        raise HarError(
            f"Ray's job server does not list its nodes ({answer.status_code}): is the cluster still starting?"
        )
    nodes = answer.json()["data"]["result"]["result"]
    return [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]
