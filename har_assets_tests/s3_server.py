"""A server on loopback that speaks S3 (moto's), in a process of its own: a bucket for tests and benchmarks."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BUCKET = "har-test"

SERVER = """
import sys
import threading
from datetime import timedelta

import moto.s3.models
from moto.s3.responses import S3Response
from har_assets.system.processes import die_with_parent
from moto.server import main
from werkzeug.datastructures import Headers

die_with_parent(int(sys.argv[1]))
now = moto.s3.models.utcnow
moto.s3.models.utcnow = lambda: now() + timedelta(seconds=float(sys.argv[3]))
put_object, one_at_a_time = S3Response.put_object, threading.Lock()


def put(self):
    # moto looks whether there is an object and writes it in two steps; S3 does so in one.
    with one_at_a_time:
        if sys.argv[4] == "False":
            self.headers = Headers([pair for pair in self.headers if pair[0] != "If-None-Match"])
        return put_object(self)


S3Response.put_object = put
main(["-H", "127.0.0.1", "-p", sys.argv[2]])
"""


@dataclass
class S3Server:
    """Address and keys; `process` is the server."""

    port: int
    process: subprocess.Popen[bytes]
    key: str = "test-key"
    secret: str = "test-secret"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to speak to it: the variables of every tool for S3."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Whatever the machine has for a real account stays out.
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str = "s3") -> Any:
        """A boto3 client that depends on no variable."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def s3_server(*, clock_s: float = 0.0, conditional: bool = True, **environment: str) -> Iterator[S3Server]:
    """Start a server with an empty bucket; its memory is all it has, so nothing is left.

    Its clock is `clock_s` seconds before that of this machine. Unless `conditional` it knows no conditional PUT.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(os.getpid()), str(port), str(clock_s), str(conditional)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = S3Server(port, process)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{server.url}/moto-api/", timeout=5).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.kill()
