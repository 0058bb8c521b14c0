"""deploy/: read by the parsers and schemas of what it is written for, and its commands run for real on loopback.

Nothing here runs containers: that the images build and start is not shown by these tests.
"""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from jsonschema.validators import validator_for

from har_assets_tests.mlflow_server import free_port
from har_assets_tests.project import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if str(service["image"]).startswith("har_assets:")]
DAGSTER_YAML = DEPLOY / "dagster.yaml"


# --- The compose file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml", "compose.ray.yaml"])
def test_compose_files_follow_the_schema_of_the_compose_specification(name: str) -> None:
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(vendored.read_text())
    validator = validator_for(schema)(schema)
    document = yaml.safe_load((DEPLOY / name).read_text())
    assert [error.message for error in validator.iter_errors(document)] == []
    document["services"]["worker"]["healthchek"] = {}
    assert list(validator.iter_errors(document)), "the schema finds a misspelt field"


def test_every_part_of_the_product_is_there() -> None:
    assert set(SERVICES) == {
        "proxy",
        "webserver_viewers",
        "webserver",
        "daemon",
        "worker",
        "mlflow",
        "serving",
        "postgres",
        "bucket",
        "bucket_made",
        "volumes_made",
    }
    assert "--read-only" in SERVICES["webserver_viewers"]["command"]
    assert "--read-only" not in SERVICES["webserver"]["command"]


def test_only_the_proxy_has_ports_on_the_host_and_those_on_loopback_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    assert list(published) == ["proxy"]
    assert all(re.fullmatch(r"\$\{HAR_LISTEN:-127\.0\.0\.1\}:(\d+):\1", port) for port in published["proxy"])
    assert {service["network_mode"] for service in SERVICES.values() if "network_mode" in service} == {"none"}
    assert COMPOSE["networks"]["inner"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "outer" in service.get("networks", ())} == {"proxy", "worker"}


def test_ray_has_no_port_on_the_host_and_its_head_no_way_out() -> None:
    services = yaml.safe_load((DEPLOY / "compose.ray.yaml").read_text())["services"]
    assert not [name for name, service in services.items() if service.get("ports") or service.get("network_mode")]
    assert services["ray_head"]["networks"] == ["inner"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_run_without_privileges(name: str) -> None:
    service = SERVICES[name]
    user = str(service["user"]).split(":")[0]
    assert user.isdecimal()
    assert int(user) > 0 or name == "volumes_made"
    assert service.get("cap_add", []) == {"proxy": ["NET_BIND_SERVICE"], "volumes_made": ["CHOWN"]}.get(name, [])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))
    assert "healthcheck" in service
    assert name.endswith("_made") or service["healthcheck"].get("test")
    assert not str(service["image"]).endswith(":latest")
    assert ":" in str(service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_waits_for_exists_and_has_a_check(name: str) -> None:
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        healthy = condition["condition"] == "service_healthy"
        assert healthy == bool(SERVICES[other]["healthcheck"].get("test"))
    for volume in SERVICES[name].get("volumes", ()):
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|_HASH|TOKEN")


def test_secrets_come_from_the_environment_only() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if SECRET.search(variable):
                assert re.fullmatch(r"\$\{[A-Z_]+(:\?[^}]*)?\}", str(value)), f"{name}: {variable}"
        assert not SECRET.search(" ".join(map(str, service.get("command", ()))))
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (DEPLOY / ".env.example").read_text(), flags=re.MULTILINE))
    assert all(value == "" for variable, value in example.items() if SECRET.search(variable))
    wanted = set(re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "compose.yaml").read_text()))
    assert wanted == set(example), "the example has every variable that compose.yaml reads, and no other"
    listed = subprocess.run(["git", "ls-files", "deploy"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "deploy/.env\n" not in listed.stdout
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=REPOSITORY, check=False)
    assert ignored.returncode == 0


def test_the_worker_draws_the_borders_of_configurations() -> None:
    environment = SERVICES["worker"]["environment"]
    assert environment["HAR_ALLOWED_FOLDERS"] == environment["HAR_INCOMING"]
    assert environment["HAR_DOWNLOAD_HOSTS"]
    assert environment["HAR_DECODER"] == SERVICES["serving"]["environment"]["HAR_DECODER"] == "pyav"


# --- The Dockerfile ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def instructions() -> list[dict[str, str]]:
    found: list[dict[str, str]] = DockerfileParser(fileobj=(DEPLOY / "Dockerfile").open("rb")).structure
    return found


def test_the_dockerfile_copies_what_is_there(instructions: list[dict[str, str]]) -> None:
    sources = [
        source for each in instructions if each["instruction"] == "COPY" for source in each["value"].split()[:-1]
    ]
    absent = [source for source in sources if not (REPOSITORY / source).exists()]
    assert absent in ([], ["deploy/dagster.yaml"] if not DAGSTER_YAML.exists() else [])
    allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    assert {f"!{source}" for source in sources} == {line for line in allowed if line.startswith("!")}


def test_the_image_has_a_user_a_check_and_the_lock(instructions: list[dict[str, str]]) -> None:
    last = max(number for number, each in enumerate(instructions) if each["instruction"] == "FROM")
    final = instructions[last:]
    (user,) = [each["value"] for each in final if each["instruction"] == "USER"]
    assert user == "10001:10001" == SERVICES["worker"]["user"]
    kinds = [each["instruction"] for each in final]
    assert kinds.index("USER") < kinds.index("HEALTHCHECK") < kinds.index("CMD")
    assert "RUN" not in kinds[kinds.index("USER") :]
    runs = " ".join(each["value"] for each in instructions if each["instruction"] == "RUN")
    assert runs.count("requirements.lock") >= 2
    assert all("--no-deps" in line for line in re.findall(r"pip install[^&]*", runs))
    assert not any(each["instruction"] in ("ADD", "VOLUME") for each in instructions)
    stages = {each["value"].split(" AS ")[-1] for each in instructions if each["instruction"] == "FROM"}
    assert {"packages_cpu", "packages_gpu", "app"} <= stages
    assert COMPOSE["services"]["worker"]["build"]["args"] == {"DEVICE": "cpu", "TORCH_INDEX": "${TORCH_INDEX:-}"}


# --- Dagster's files -----------------------------------------------------------------------------------------------


def test_dagster_reads_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.instance.config import dagster_instance_config

    for variable, value in SERVICES["worker"]["environment"].items():
        monkeypatch.setenv(variable, str(value))
    config, _ = dagster_instance_config(str(DEPLOY))
    named = set(re.findall(r"env: ([A-Z_]+)", DAGSTER_YAML.read_text()))
    assert named <= set(SERVICES["worker"]["environment"]) & set(SERVICES["daemon"]["environment"])
    assert "postgres" in config["storage"]


def test_the_workspace_names_the_worker() -> None:
    (location,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    server = location["grpc_server"]
    command = SERVICES[server["host"]]["command"]
    assert command[command.index("--port") + 1] == str(server["port"])


# --- The proxy -----------------------------------------------------------------------------------------------------


def sites() -> dict[str, str]:
    """Address to body of every site of the Caddyfile."""
    text = re.sub(r"^\s*#.*$", "", (DEPLOY / "Caddyfile").read_text(), flags=re.MULTILINE)
    return dict(re.findall(r"^(https?://\S+) \{\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL))


def test_no_site_of_the_proxy_is_open() -> None:
    found = sites()
    doors = {address: body for address, body in found.items() if "reverse_proxy" in body}
    assert len(doors) == 4
    published = {int(port.split(":")[-1]) for port in SERVICES["proxy"]["ports"]}
    assert {int(address.rsplit(":", 1)[1]) for address in doors} == published
    for address, body in doors.items():
        assert address.startswith("https://")
        assert body.index("basicauth") < body.index("reverse_proxy")
        assert "max_size" in body
        assert "import door" in body
    (health,) = [body for address, body in found.items() if address not in doors]
    assert health.split() == ["respond", "/health", "200"]
    upstreams = set(re.findall(r"_UPSTREAM:([a-z_]+):(\d+)", (DEPLOY / "Caddyfile").read_text()))
    assert upstreams == {("webserver_viewers", "3000"), ("webserver", "3000"), ("mlflow", "5000"), ("serving", "5001")}
    assert "HAR_VIEWER" in doors["https://{$HAR_HOST:localhost}:8443"]
    assert all("HAR_VIEWER" not in body for address, body in doors.items() if not address.endswith(":8443"))


class Upstream(BaseHTTPRequestHandler):
    """Counts what comes through."""

    arrived = 0

    def do_GET(self) -> None:
        body = b"inside"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        with contextlib.suppress(OSError):
            left = int(self.headers.get("Content-Length", 0))
            while left > 0 and (data := self.rfile.read(min(left, 1 << 16))):
                left -= len(data)
                Upstream.arrived += len(data)
            self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


HASHES = {
    "VIEWER": "$2b$04$ygJfXIxnlnJfHQX0qEomT.BKnpQ/nHay1FAUDkRGTzeMqDmnCqukS",
    "OPERATOR": "$2b$04$xLwk2939ebF/d03Yo.9Z.uho2BbXwDXKP6w3OfrAWOAGtHMqwi8sK",
    "CLIENT": "$2b$04$cfXtAPLzbbd1zUxOgLMZj.4nmW7ocnU8.yBRVGK3aualARfJG9zkq",
}
"""Of the words seeing, doing and asking, by bcrypt with the lowest cost, so that the tests are fast."""

Ask = Callable[..., int]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """A real Caddy with the Caddyfile of deploy/, its ports moved; asks a site and returns the status."""
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("no caddy program: apt-get install caddy")
    folder = tmp_path_factory.mktemp("caddy")
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    Thread(target=upstream.serve_forever, daemon=True).start()
    ports = {port: free_port() for port in (8443, 8444, 8445, 8446, 8080)}
    text = (DEPLOY / "Caddyfile").read_text()
    for old, new in ports.items():
        text = text.replace(f":{old} {{", f":{new} {{")
    (folder / "Caddyfile").write_text(text)
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}
    for role, hashed in HASHES.items():
        environment |= {f"HAR_{role}": role.lower(), f"HAR_{role}_HASH": hashed}
    for name in ("VIEW", "OPERATE", "MLFLOW", "SERVING"):
        environment[f"HAR_{name}_UPSTREAM"] = f"127.0.0.1:{upstream.server_address[1]}"
    process = subprocess.Popen(
        [caddy, "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"],
        env=environment,
        stderr=(folder / "log").open("w"),
    )
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    def ask(port: int, user: str = "", password: str = "", body: bytes | None = None) -> int:
        headers = {}
        if user:
            word = base64.b64encode(f"{user}:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {word}"
        connection = http.client.HTTPSConnection("localhost", ports[port], timeout=20, context=trusting)
        try:
            # An answer that came before all of the body was sent counts like any other.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                connection.request("GET" if body is None else "POST", "/graphql", body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://localhost:{ports[8080]}/health", timeout=2) as answer:
                    assert answer.status == 200
                break
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for port in (8443, 8444, 8445, 8446):
            while True:
                with contextlib.suppress(OSError, http.client.HTTPException):  # its certificate is being made
                    ask(port)
                    break
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield ask
    finally:
        process.terminate()
        process.wait()
        upstream.shutdown()
        upstream.server_close()


@pytest.mark.parametrize("port", [8443, 8444, 8445, 8446])
def test_the_proxy_asks_for_a_name_and_a_password(port: int, door: Ask) -> None:
    assert door(port) == 401
    assert door(port, "client" if port == 8446 else "operator", "wrong") == 401


@pytest.mark.parametrize(
    ("user", "word", "inside", "outside"),
    [
        ("viewer", "seeing", [8443], 8444),
        ("operator", "doing", [8443, 8444, 8445], 8446),
        ("client", "asking", [8446], 8443),
        ("nobody", "doing", [], 8445),
    ],
)
def test_each_role_gets_in_where_it_belongs(user: str, word: str, inside: list[int], outside: int, door: Ask) -> None:
    assert [door(port, user, word) for port in inside] == [200] * len(inside)
    assert door(outside, user, word) == 401


@pytest.mark.parametrize(
    ("port", "user", "word", "limit"),
    [
        (8443, "viewer", "seeing", 10),
        (8444, "operator", "doing", 10),
        (8445, "operator", "doing", 10),
        (8446, "client", "asking", 48),
    ],
)
def test_huge_bodies_end_at_the_proxy(port: int, user: str, word: str, limit: int, door: Ask) -> None:
    size = limit * 1_000_000
    assert door(port, user, word, b"x" * (size - 100_000)) == 200
    Upstream.arrived = 0
    # Caddy 2.6 says 502 where later ones say 413.
    assert door(port, user, word, b"x" * (size + 500_000)) in (413, 502)
    assert Upstream.arrived <= size


# --- The commands --------------------------------------------------------------------------------------------------


class Stack:
    """Commands of compose.yaml as processes on loopback, `0.0.0.0` and ports replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {
            "4000": str(free_port()),
            "3000": str(free_port()),
            "5000": str(free_port()),
            "5001": str(free_port()),
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        home = folder / "home"
        home.mkdir()
        shutil.copy(REPOSITORY / "dagster.yaml", home)  # SQLite: what PostgreSQL does is tested elsewhere
        workspace = (DEPLOY / "workspace.yaml").read_text()
        self.workspace = folder / "workspace.yaml"
        self.workspace.write_text(
            workspace.replace("host: worker", "host: 127.0.0.1").replace("port: 4000", f"port: {self.ports['4000']}")
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "HAR_"))}
        self.environment = {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '')}",
            "PYTHONPATH": str(REPOSITORY),
            "DAGSTER_HOME": str(home),
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "files"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def translated(self, words: list[str]) -> list[str]:
        found = []
        for word in words:
            place = str(self.workspace) if word == "/srv/har/workspace.yaml" else word
            place = place.replace("0.0.0.0", "127.0.0.1").replace("http://mlflow:", "http://127.0.0.1:")
            for old, new in self.ports.items():
                place = re.sub(rf"(?<!\d){old}(?!\d)", new, place)
            found.append(place)
        return found

    def start(self, service: str, *variables: str) -> None:
        """Start one; of its environment it gets these variables, the others are of other machines."""
        own = {name: self.translated([SERVICES[service]["environment"][name]])[0] for name in variables}
        self.processes.append(
            subprocess.Popen(
                self.translated(SERVICES[service]["command"]),
                cwd=self.folder,
                env=self.environment | own,
                stdout=(self.folder / f"{service}.log").open("w"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def check(self, service: str) -> subprocess.CompletedProcess[str]:
        """Ask as the container's health check does."""
        (kind, *command) = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return subprocess.run(
            self.translated(command), cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )

    def wait_healthy(self, service: str, seconds: float = 150) -> None:
        """Until the health check is content."""
        deadline = time.monotonic() + seconds
        while True:
            done = self.check(service)
            if done.returncode == 0:
                return
            log = (self.folder / f"{service}.log").read_text()[-3000:]
            assert self.processes[-1].poll() is None, log
            assert time.monotonic() < deadline, f"{done.stderr[-500:]}\n{log}"
            time.sleep(0.5)

    def end(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    try:
        yield made
    finally:
        made.end()


LAUNCH = """mutation {{ launchRun(executionParams: {{selector: {{repositoryLocationName: "har_assets",
 repositoryName: "__repository__", jobName: "{job}"}}, runConfigData: {{}}}}) {{ __typename {asked} }} }}"""


def graphql(port: str, query: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("service", "launches"), [("webserver_viewers", False), ("webserver", True)])
def test_worker_and_webservers_start_by_their_commands(service: str, launches: bool, stack: Stack) -> None:
    stack.start("worker")
    stack.wait_healthy("worker")
    stack.start(service)
    stack.wait_healthy(service)
    port = stack.ports["3000"]
    found = graphql(port, "{ repositoriesOrError { ... on RepositoryConnection { nodes { assetNodes { id } } } } }")
    assert len(found["data"]["repositoriesOrError"]["nodes"][0]["assetNodes"]) > 10
    answer = graphql(port, LAUNCH.format(job="index_to_class", asked=""))["data"]["launchRun"]
    assert answer["__typename"] == ("LaunchRunSuccess" if launches else "UnauthorizedError")


@pytest.mark.slow
def test_the_daemon_starts_by_its_command_and_says_that_it_lives(stack: Stack) -> None:
    stack.start("worker")
    stack.wait_healthy("worker")
    stack.start("daemon")
    stack.wait_healthy("daemon")


@pytest.mark.slow
def test_a_killed_code_location_ends_its_container_and_the_next_run_succeeds(stack: Stack) -> None:
    """`restart: unless-stopped` sees the end of a container's first process and nothing else."""
    stack.start("worker")
    worker = stack.processes[-1]
    stack.wait_healthy("worker")
    for service in ("webserver", "daemon"):
        stack.start(service)
        stack.wait_healthy(service)
    assert status_of_a_run(stack) == "SUCCESS"
    for _ in range(2):
        family = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        (holder,) = [process for process in family if {"grpc", "har_assets"} <= set(process.cmdline())]
        holder.kill()
        worker.wait(5)
        assert stack.check("worker").returncode != 0
        stack.start("worker")
        worker = stack.processes[-1]
        stack.wait_healthy("worker")
        assert status_of_a_run(stack) == "SUCCESS"
    assert stack.check("daemon").returncode == 0


def status_of_a_run(stack: Stack) -> str:
    """How a run ends that is launched by the web server, once that has the code location again."""
    port, deadline = stack.ports["3000"], time.monotonic() + 90
    asked = "... on LaunchRunSuccess { run { id } } ... on PythonError { message }"
    launch = LAUNCH.format(job="prune_artifacts", asked=asked)
    while (answer := graphql(port, launch)["data"]["launchRun"])["__typename"] != "LaunchRunSuccess":
        assert time.monotonic() < deadline, answer
        time.sleep(0.5)
    ask = f'{{ runOrError(runId: "{answer["run"]["id"]}") {{ ... on Run {{ status }} }} }}'
    while (status := graphql(port, ask)["data"]["runOrError"]["status"]) not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, f"{status}: {(stack.folder / 'daemon.log').read_text()[-2000:]}"
        time.sleep(0.5)
    return str(status)


@pytest.mark.slow
def test_mlflow_starts_by_its_command_and_answers_its_own_names_only(stack: Stack) -> None:
    stack.start("mlflow")
    stack.wait_healthy("mlflow")

    def status(host: str, path: str = "/api/2.0/mlflow/experiments/search?max_results=1") -> int:
        address = f"http://127.0.0.1:{stack.ports['5000']}{path}"
        request = urllib.request.Request(address, headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                found: int = answer.status
                return found
        except urllib.error.HTTPError as error:
            return error.code

    assert status(f"mlflow:{stack.ports['5000']}") == 200
    assert status("evil.example") == 403
    files = "/api/2.0/mlflow-artifacts/artifacts/"
    for path in (
        "../mlflow.db",
        "..%2fmlflow.db",
        "%2e%2e/mlflow.db",
        "..%252fmlflow.db",
        "/etc/passwd",
        "%2fetc%2fpasswd",
    ):
        assert status(f"mlflow:{stack.ports['5000']}", files + path) >= 400, path


@pytest.mark.slow
def test_serving_starts_by_its_command_with_the_champion_of_mlflow(stack: Stack, tiny_onnx: Path) -> None:
    from mlflow import MlflowClient

    from har_assets.serving.package import ORIGIN_TAG, register, save_model

    stack.start("mlflow")
    stack.wait_healthy("mlflow")
    client = MlflowClient(f"http://127.0.0.1:{stack.ports['5000']}")
    run = client.create_run(client.create_experiment("trained")).info.run_id

    def save(folder: Path, model: Any) -> Path:
        return save_model(tiny_onnx, folder, {"runtime": "onnxruntime_cpu", "workers": 1}, {}, model)

    version = register(client.tracking_uri, run, "har_video_action", stack.folder / "saved", save, {ORIGIN_TAG: "one"})
    client.set_registered_model_alias("har_video_action", "champion", version.number)
    stack.start("serving", "MLFLOW_TRACKING_URI", "HAR_DECODER")
    stack.wait_healthy("serving")
    with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports['5001']}/version", timeout=20) as answer:
        assert answer.status == 200
