"""What the web UI shows of the resources, asked of a fresh interpreter."""

import os
import subprocess
import sys

SECRETS = {
    "HAR_MLFLOW_URI": "postgresql://har:s3cret@db/mlflow",
    "HAR_MLFLOW_FILES": "s3://key:s3cret@bucket/mlflow",
    "HAR_ALERT_WEBHOOK": "https://chat.example/hooks/s3cret",
    "HAR_ALERTS": "slack://s3cret/b/c",
    "HAR_SMTP_PASSWORD": "s3cret",
}

PROGRAM = """
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster_shared.serdes import serialize_value
from har_assets.definitions import RESOURCES, defs
shown = serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
assert "tracking_uri" in shown
print(shown.count("s3cret"), RESOURCES["mlflow"].tracking_uri, RESOURCES["mlflow"].artifact_root)
"""


def test_the_web_ui_shows_no_value_of_a_variable_that_may_hold_a_password() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **SECRETS}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["0", SECRETS["HAR_MLFLOW_URI"], SECRETS["HAR_MLFLOW_FILES"]]
