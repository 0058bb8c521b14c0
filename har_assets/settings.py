"""The settings of a deployment: every environment variable `HAR_*`, once.

A setting is the name of its variable and reads the environment each time it is asked:

    settings.STORE_QUOTA.get("")      its value now
    f"raise {settings.STORE_QUOTA}"   its name, for a sentence

What belongs to one run is a field of an asset's configuration instead. deploy/ says which settings a team needs.
"""

from __future__ import annotations

import os
from typing import overload


class Setting(str):
    """The name of an environment variable."""

    __slots__ = ()

    @overload
    def get(self) -> str | None: ...

    @overload
    def get(self, default: str) -> str: ...

    def get(self, default: str | None = None) -> str | None:
        """What the variable holds now, which may be an empty string; `default` where it is not set."""
        return os.environ.get(self, default)


# -------------------------------------------------------------------------------------------- places of products

ARTIFACTS = Setting("HAR_ARTIFACTS")
"""Folder or `s3://bucket/prefix` of what is published. Default: `artifacts` in the project folder."""

STORE_QUOTA = Setting("HAR_STORE_QUOTA")
"""Most that all products may take together, such as `200 GB`. Default: no limit."""

SOURCE = Setting("HAR_SOURCE")
"""Data set of raw_archive where its configuration names none. Default: what data.dvc tracks, else the sample."""

# ------------------------------------------------------------------------------------------------------- MLflow

MLFLOW_URI = Setting("HAR_MLFLOW_URI")
"""Tracking address. Default: a database in the project folder. Not MLflow's own variable, which may name another
project's server."""

MLFLOW_FILES = Setting("HAR_MLFLOW_FILES")
"""Folder or `s3://` address of run files of a new experiment in a database. Default: `mlartifacts`."""

DAGSTER_UI = Setting("HAR_DAGSTER_UI")
"""Address of Dagster's web UI, for links from MLflow. Default: http://127.0.0.1:3000."""

# --------------------------------------------------------------------------------------------------- new videos

INCOMING = Setting("HAR_INCOMING")
"""Folder or `s3://bucket/prefix` of new videos. Default: `incoming` in the project folder."""

INCOMING_SUFFIXES = Setting("HAR_INCOMING_SUFFIXES")
"""Suffixes that count as videos there, with commas between them. Default: those of all video formats."""

INCOMING_INTERVAL = Setting("HAR_INCOMING_INTERVAL")
"""Seconds between two looks of the sensor, read when the code location starts. Default: 30."""

DECODER = Setting("HAR_DECODER")
"""`pyav` leaves decord alone, whose FFmpeg is of 2020, where videos come from strangers. Default: `auto`, which takes
decord first."""

# ---------------------------------------------------------------------------------------------- limits on requests

ALLOWED_FOLDERS = Setting("HAR_ALLOWED_FOLDERS")
"""Folders, with `:` between them, below which a path in a configuration has to lie; the project folder is one of them.
May be empty. Default: any path may be named."""

DOWNLOAD_HOSTS = Setting("HAR_DOWNLOAD_HOSTS")
"""Hosts, with `,` between them, that may be asked for a file; `host:port` names the port too. Default: any host."""

SERVING_FOLDER = Setting("HAR_SERVING_FOLDER")
"""Folder whose videos a request to the model server may name by `path`. Default: requests carry their videos."""

# ------------------------------------------------------------------------------------------------ runs and machines

RAY = Setting("HAR_RAY")
"""Address of a Ray cluster's job server, `http://HEAD:8265`, whose nodes run the steps. Default: steps run here."""

TIME_ZONE = Setting("HAR_TIME_ZONE")
"""IANA name of the time zone in which schedules and automation count hours. Default: UTC."""

LOG_FILE = Setting("HAR_LOG_FILE")
"""File to which JSON lines of logs are appended. Default: standard output."""

# -------------------------------------------------------------------------------------------------------- alerts

ALERTS = Setting("HAR_ALERTS")
"""Addresses of apprise, such as `slack://` and `tgram://`, that hear of failed runs, with spaces or commas between
them. Default: none does."""

ALERT_WEBHOOK = Setting("HAR_ALERT_WEBHOOK")
"""Address that gets a POST of JSON for every failed run. Default: none does."""

ALERT_MAIL = Setting("HAR_ALERT_MAIL")
"""Mail addresses that hear of failed runs, with commas between them; needs SMTP_HOST. Default: no mail is sent."""

SMTP_HOST = Setting("HAR_SMTP_HOST")
"""Mail server. Default: none."""

SMTP_SECURITY = Setting("HAR_SMTP_SECURITY")
"""`starttls`, `tls` or `none`. Default: `starttls`."""

SMTP_PORT = Setting("HAR_SMTP_PORT")
"""Default: the usual one of the security, 587, 465 or 25."""

SMTP_FROM = Setting("HAR_SMTP_FROM")
"""Sender of the mail. Default: the first recipient."""

SMTP_USER = Setting("HAR_SMTP_USER")
"""Name at the mail server. Default: none, and no password is sent."""

SMTP_PASSWORD = Setting("HAR_SMTP_PASSWORD")
"""Password at the mail server."""

# ------------------------------------------------------------- from a process of the project to one that it starts

TRAINING_PLACE = Setting("HAR_TRAINING_PLACE")
"""JSON: Ray's name of the job of a step, and what a training takes of each node. Set by the executor for its step."""

PARENT_PID = Setting("HAR_PARENT_PID")
"""Number of the process that started a training, with which it ends. Set by the step."""
