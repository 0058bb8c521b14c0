"""`python -m har_assets.cluster request.json`: a training that finds its nodes on a Ray cluster.

Started by the asset trained_checkpoint through Dagster Pipes, in a job of the cluster. It starts
`python -m har_assets.training` once a node: see har_assets.cluster.training.
"""

import sys
from functools import partial
from pathlib import Path

from har_assets.cluster.training import train_on_nodes
from har_assets.errors import HarError
from har_assets.training.entry import reporting, run_request
from har_assets.training.request import TrainingRequest


def main(request_file: Path) -> int:
    """Train as the request says; exit status 0, 1 with the reason in `error.txt`, 130 when it was stopped."""
    return run_request(request_file, partial(_train, request_file))


def _train(request_file: Path, request: TrainingRequest) -> int:
    if request.nodes == 1 or request.rendezvous:
        raise HarError(
            f"{request_file} asks for no nodes of a Ray cluster: start `python -m har_assets.training {request_file}`."
        )
    with reporting() as report:
        return train_on_nodes(request, report)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
