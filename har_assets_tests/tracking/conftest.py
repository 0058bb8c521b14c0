"""A database of MLflow with an experiment and a run."""

import pytest

from har_assets.tracking.client import client_of


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a database with an experiment."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    client_of(uri).create_experiment("har_assets", artifact_location=(folder / "files").as_uri())
    return uri


@pytest.fixture
def run_id(database: str) -> str:
    client = client_of(database)
    created: str = client.create_run(client.get_experiment_by_name("har_assets").experiment_id).info.run_id
    return created
