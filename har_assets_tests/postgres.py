"""A PostgreSQL server on loopback for tests, with data in a temporary folder and a user of its own."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

USER = "har"


@dataclass
class Postgres:
    """Port and password of a running server; its databases are `dagster` and `mlflow`."""

    port: int
    password: str
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that libpq, and so every client, reads."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": USER, "PGPASSWORD": self.password}

    def connect(self, database: str = "dagster") -> Any:
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=database, connect_timeout=10
        )
        connection.autocommit = True
        return connection

    def ask(self, statement: str, database: str = "dagster") -> list[tuple[Any, ...]]:
        """Rows of a statement; [] where it has none."""
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []


def programs() -> Path | None:
    """Folder with initdb and postgres: Debian keeps them out of the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start a server; it ends with the test, and with this process. Skips the test where there is no PostgreSQL."""
    pytest.importorskip("psycopg2", reason="no psycopg2: `pip install 'har_assets[cluster]'`")
    pytest.importorskip("dagster_postgres", reason="no dagster-postgres: `pip install 'har_assets[cluster]'`")
    binaries = programs()
    if binaries is None:
        pytest.skip("no PostgreSQL server here: `apt-get install postgresql`")
    # PostgreSQL refuses to run as root; its package brings a user.
    user = "postgres" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="har-postgres-"))
    process = None
    try:
        if user:
            shutil.chown(folder, user, user)
        password = secrets.token_hex(16)
        (folder / "password").write_text(password)
        (folder / "password").chmod(0o644)  # gone before the server listens, in a folder of its user alone
        subprocess.run(
            [
                binaries / "initdb",
                "--pgdata",
                folder / "data",
                "--username",
                USER,
                "--auth",
                "scram-sha-256",
                "--pwfile",
                folder / "password",
                "--no-sync",
                "--encoding",
                "UTF8",
                "--locale",
                "C",
            ],
            user=user,
            group=user,
            cwd="/",
            check=True,
            capture_output=True,
        )
        (folder / "password").unlink()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        become = ["--reuid", user, "--regid", user, "--clear-groups"] if user else []
        process = subprocess.Popen(
            [
                "setpriv",
                *become,
                "--pdeathsig",
                "KILL",
                binaries / "postgres",
                "-D",
                folder / "data",
                "-p",
                str(port),
                "-k",
                folder,
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=off",
                "-c",
                "max_connections=200",
            ],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=(folder / "log").open("wb"),
        )
        server = Postgres(port, password, process)
        _wait_for(server, folder / "log")
        for database in ("dagster", "mlflow"):
            server.ask(f"create database {database}", "postgres")
        yield server
    finally:
        if process:
            process.send_signal(signal.SIGINT)  # at once, whoever is connected
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(server: Postgres, log: Path) -> None:
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            server.connect("postgres").close()
            return
        except psycopg2.OperationalError:
            assert server.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
