"""The fields of all settings, their validation, and what can be said about each variable."""

from __future__ import annotations

import os
import re
import zoneinfo
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Json,
    PositiveInt,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUseDefault
from pydantic_settings import BaseSettings, SettingsConfigDict

from har_assets.errors import HarError, SettingsError
from har_assets.options import Described, parse_size
from har_assets.settings import DEFAULT_ROOT, OWN_DATABASE, PREFIX, Setting

EMPTY_COUNTS = ("allowed_folders", "download_hosts")
"""Settings that mean another thing where they are set and empty than where they are not set."""

# ---------------------------------------------------------------------------------------------- kinds of values


def _list_of(separator: str) -> BeforeValidator:
    return BeforeValidator(lambda text: [part for part in map(str.strip, text.split(separator)) if part])


def _web_address(example: str) -> AfterValidator:
    def validate(address: str | SecretStr) -> str | SecretStr:
        text = address.get_secret_value() if isinstance(address, SecretStr) else address
        try:
            parts = urlsplit(text.strip())
            valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(f"set it to an address such as {example}")
        return address if isinstance(address, SecretStr) else text.strip()

    return AfterValidator(validate)


def _suffix(text: str) -> str:
    if not text.startswith("."):
        raise ValueError("begin each suffix with a dot, such as .mp4,.avi")
    return text


def _mail_address(text: str) -> str:
    if "@" not in text or set(text) & set(" \r\n<>"):
        raise ValueError("write addresses with commas between them, such as ops@example.org,night@example.org")
    return text


def _time_zone(name: str) -> str:
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("set it to an IANA name, such as Europe/Berlin") from None
    return name


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except HarError:
        raise ValueError("write a number and a unit, such as 200 GB or 1.5 TB") from None


Size = Annotated[int, BeforeValidator(_size)]
Suffix = Annotated[str, AfterValidator(_suffix)]
MailAddress = Annotated[str, AfterValidator(_mail_address)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(Described, BaseSettings):
    """All settings at one moment. An empty variable counts as not set, except where its description says otherwise."""

    model_config = SettingsConfigDict(
        alias_generator=lambda field: PREFIX + field.upper(),
        case_sensitive=True,
        enable_decoding=False,
        frozen=True,
        validate_default=False,
    )

    artifacts: str = DEFAULT_ROOT
    """Folder or `s3://bucket/prefix` of what is published."""
    store_quota: Size | None = None
    """Most that all products may take together, such as `200 GB`. Not set: no limit."""
    source: str = ""
    """Data set of raw_archive where its configuration names none. Not set: what data.dvc tracks, else the sample."""

    mlflow_uri: str = OWN_DATABASE
    """MLflow's server (`http://...`) or database. MLflow's own variable may name another project's server, so it is
    not read by the graph. Name no password: PostgreSQL takes PGPASSWORD."""
    mlflow_files: str = "mlartifacts"
    """Folder or `s3://` address of run files of a new experiment in a database."""
    dagster_ui: Annotated[str, _web_address("http://127.0.0.1:3000")] = "http://127.0.0.1:3000"
    """Address of Dagster's web UI, for links from MLflow and alerts."""
    bucket: str = ""
    """Bucket for the logs of steps. Read by deploy/dagster.yaml alone."""

    incoming: str = "incoming"
    """Folder or `s3://bucket/prefix` of new videos."""
    incoming_suffixes: Annotated[tuple[Suffix, ...], _list_of(",")] = ()
    """Suffixes that count as videos there, `.mp4,.avi`. Not set: those of all video formats."""
    incoming_interval: PositiveInt = 30
    """Seconds between two looks of the sensor. Read when the code location starts."""
    decoder: Literal["auto", "pyav"] = "auto"
    """`auto` takes decord for MPEG-4 in AVI, as HMDB51 is, `pyav` leaves it alone. decord's FFmpeg is of 2020: leave it
    where videos come from strangers."""

    allowed_folders: Annotated[tuple[Path, ...], _list_of(os.pathsep)] | None = None
    """Folders, with `:` between them, below which a path in a configuration has to lie. The project folder is one of
    them, and the only one where the variable is empty. Not set: any path may be named."""
    download_hosts: Annotated[tuple[str, ...], _list_of(",")] | None = None
    """Hosts, with `,` between them, that may be asked for a file. `host:port` names the port too. Empty: none. Not set:
    any host."""
    serving_folder: Path | None = None
    """Folder whose videos a request to the model server may name by `path`. Not set: requests carry their videos."""

    ray: Annotated[str, _web_address("http://HEAD:8265")] = ""
    """Address of the job server of a Ray cluster, `http://HEAD:8265`, whose nodes run the steps. Not set: steps run
    here."""
    time_zone: TimeZone = "UTC"
    """IANA name of the time zone in which schedules and automation count hours."""
    log_file: Path | None = None
    """File to which JSON lines of logs are appended. Not set: standard output."""

    alerts: SecretStr | None = None
    """Addresses of apprise, such as `slack://` and `tgram://`, that hear of failed runs, with spaces or commas between
    them."""
    alert_webhook: Annotated[SecretStr, _web_address("https://chat.example/hooks/...")] | None = None
    """Address that gets a POST of JSON for every failed run."""
    alert_mail: Annotated[tuple[MailAddress, ...], _list_of(",")] = ()
    """Mail addresses that hear of failed runs, with commas between them. Needs HAR_SMTP_HOST."""
    smtp_host: str = ""
    """Mail server."""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection to the mail server is protected: `starttls`, `tls` or `none`."""
    smtp_port: Port | None = None
    """Port of the mail server. Not set: the usual one of the security, 587, 465 or 25."""
    smtp_from: str = ""
    """Sender of the mail. Not set: the first recipient."""
    smtp_user: str = ""
    """Name at the mail server. Not set: no password is sent."""
    smtp_password: SecretStr | None = None
    """Password at the mail server."""

    training_place: Json[dict[str, Any]] | None = None
    """Ray's name of the job of a step, and what a training takes of each node. Set by the executor for its step."""
    parent_pid: PositiveInt | None = None
    """Number of the process that started a training, with which it ends. Set by the step."""

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_not_set(cls, value: str, info: ValidationInfo) -> str:
        if not value.strip() and info.field_name not in EMPTY_COUNTS:
            raise PydanticUseDefault
        return value

    @model_validator(mode="after")
    def _mail_has_a_server(self) -> Self:
        if self.alert_mail and not self.smtp_host:
            raise ValueError("HAR_ALERT_MAIL names recipients and no mail server is known: set HAR_SMTP_HOST")
        return self


NAMES = {field.upper(): Setting(PREFIX + field.upper()) for field in Settings.model_fields}
"""The names of all variables, by the names under which this module has them."""


def read() -> Settings:
    """The settings that hold now. SettingsError in one sentence that names every wrong one."""
    return _read(tuple(map(os.environ.get, NAMES.values())))


@lru_cache(maxsize=1)
def _read(_values: tuple[str | None, ...]) -> Settings:
    wrong = faults()
    if wrong:
        clauses = (f"{name} is {shown(name)}: {remedy}" if name else remedy for name, remedy in wrong.items())
        raise SettingsError(f"{'; '.join(clauses)}.")
    return Settings()


def faults() -> dict[str, str]:
    """Variable that holds what it cannot mean to what is to be done; an empty name where two contradict each other."""
    found: dict[str, str] = {}
    try:
        Settings()
    except ValidationError as error:
        for each in error.errors():
            own = each["type"] == "value_error"  # raised by a validator of this module
            remedy = str(each["ctx"]["error"]) if own else each["msg"].replace("Input should", "it should", 1)
            found.setdefault(str(each["loc"][0]) if each["loc"] else "", remedy)
    return found


def shown(name: str) -> str:
    """The text of a variable for people: quoted, shortened, secrets and the passwords of addresses masked."""
    if "SecretStr" in str(_field(name).annotation):
        return "'***'"
    text = re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", os.environ.get(name, ""))
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def is_set(name: str) -> bool:
    """Whether the environment says something about a variable."""
    text = os.environ.get(name)
    return text is not None and (bool(text.strip()) or name.removeprefix(PREFIX).lower() in EMPTY_COUNTS)


def default_of(name: str) -> str:
    """The default of a variable as a text; empty where it has none."""
    return str(_field(name).default or "")


def meaning_of(name: str) -> str:
    """The description of a variable, some sentences."""
    return _field(name).description or ""


def _field(name: str) -> FieldInfo:
    return Settings.model_fields[name.removeprefix(PREFIX).lower()]


def unknown() -> dict[str, str]:
    """Variables that begin as settings do and are none, each with a sentence that names the nearest setting."""
    import difflib

    found = {}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in NAMES.values():
            near = difflib.get_close_matches(name, NAMES.values(), 1, 0.7)
            meant = f"did you mean {near[0]}?" if near else "see docs/settings.md."
            found[name] = f"{name} is no setting of har_assets and changes nothing: {meant}"
    return found
