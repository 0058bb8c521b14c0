"""`har card --push`: the client of the Hugging Face Hub against a server that keeps what it gets."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from har_assets.dataset.class_index import CLASS_INDEX
from har_assets.errors import HarError
from har_assets.export.hub import push_model
from har_assets.model.files import CARD, CHECKPOINT, ONNX
from har_assets.model.spec import Provenance
from har_assets.report.card import model_card
from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import describe_files
from har_assets_tests.hub_server import TOKEN, Hub, hub_server
from har_assets_tests.project import REPOSITORY
from har_assets_tests.published import make_record
from har_assets_tests.report import made

LABELS = ("jump", "sit", "stand")


def publish(store: ArtifactFolder, asset: str, files: dict[str, bytes], *parents: str, version: str = "1") -> None:
    with store.staging(asset) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        record = make_record(
            asset,
            data_version=f"{asset} {version}",
            files=describe_files(folder),
            inputs={parent: store.latest(parent).record.data_version for parent in parents},
            metadata={"pictures": [name for name in files if name.endswith(".png")]},
        )
        store.publish(folder, record)


def publish_report(store: ArtifactFolder, provenance: Provenance) -> None:
    picture = {"reliability.png": made.png()}
    card = model_card(
        made.spec(LABELS), provenance, file=ONNX, evaluation=made.evaluation(LABELS), pictures=tuple(picture)
    )
    publish(store, "evaluation_report", {CARD: card.encode(), **picture}, "onnx_model", "trained_checkpoint")


@pytest.fixture
def store(tmp_path: Path, tiny_onnx: Path, tiny_checkpoint: Path) -> ArtifactFolder:
    """The products of a model, as their assets would have published them."""
    store = ArtifactFolder(tmp_path / "artifacts")
    publish(store, "class_index", {CLASS_INDEX.file: b"index,class\n0,jump\n1,sit\n2,stand\n"})
    publish(store, "trained_checkpoint", {CHECKPOINT: tiny_checkpoint.read_bytes()}, "class_index")
    publish(store, "onnx_model", {ONNX: tiny_onnx.read_bytes()}, "trained_checkpoint")
    publish_report(store, Provenance(dataset='my: "videos"', split=1))
    return store


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server, which this process takes for the Hub."""
    from huggingface_hub import constants

    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        # Xet, which the client prefers for large files, is a protocol of its own that only the Hub speaks.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def refusal(store: ArtifactFolder, repository: str = "team/jumps", **options: bool) -> str:
    with pytest.raises(HarError) as found:
        push_model(store, repository, **options)
    message = str(found.value)
    assert TOKEN not in message
    assert "\n" not in message
    return message


def test_the_command_uploads_every_byte_in_one_commit(store: ArtifactFolder, hub: Hub, tmp_path: Path) -> None:
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf"),
    }

    def har_card(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "har_assets.cli", "card", *arguments, "--store", str(store.root)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            check=False,
            timeout=200,
        )

    done = har_card("--push", "team/jumps", "--private")
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (f"{hub.url}/team/jumps\n", "")
    repository = hub.repositories["team/jumps"]
    assert repository.private
    (files,) = repository.commits
    expected = {
        name: store.latest(asset).file(name).read_bytes()
        for asset, name in (
            ("evaluation_report", CARD),
            ("evaluation_report", "reliability.png"),
            ("onnx_model", ONNX),
            ("trained_checkpoint", CHECKPOINT),
            ("class_index", CLASS_INDEX.file),
        )
    }
    assert files == expected
    assert b"(reliability.png)" in files[CARD]
    again = har_card("--push", "team/jumps")
    assert (again.returncode, len(repository.commits)) == (0, 1), again.stderr
    neither = har_card()
    assert neither.stderr == "error: Name a model file, or a repository with --push (and --private), not both.\n"


def test_without_the_extra_only_the_push_is_refused(store: ArtifactFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "`pip install 'har_assets[hub]'`" in refusal(store)
    assert model_card(made.spec(LABELS), Provenance(), file=ONNX).startswith("---\nlicense: unknown\n")


@pytest.mark.parametrize("name", ["jumps", "a/b/c", "team/", "team/a b", "team/..", "--/x", "team/x.git", ""])
def test_a_malformed_name_is_refused_before_any_request(store: ArtifactFolder, hub: Hub, name: str) -> None:
    assert "is no owner/name of a repository: write it in letters" in refusal(store, name)
    assert hub.requests == []


def test_a_missing_or_unknown_token_is_refused(
    store: ArtifactFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    assert "does not know the token: set HF_TOKEN to a valid one" in refusal(store)
    monkeypatch.delenv("HF_TOKEN")
    assert refusal(store) == "There is no token for the Hugging Face Hub: set HF_TOKEN, or run `hf auth login`."
    assert hub.repositories == {}


def test_a_foreign_or_unknown_owner_is_refused(store: ArtifactFolder, hub: Hub) -> None:
    assert "does not let this token write others/jumps: check the name of its owner" in refusal(store, "others/jumps")
    assert hub.repositories == {}


def test_a_model_is_not_made_public_by_mistake(store: ArtifactFolder, hub: Hub) -> None:
    push_model(store, "team/jumps")
    publish_report(store, Provenance(dataset="secret", split=1))
    assert "exists and is public: make it private in its settings" in refusal(store, private=True)
    assert len(hub.repositories["team/jumps"].commits) == 1


def test_a_card_of_another_model_is_refused(store: ArtifactFolder, hub: Hub, tiny_onnx: Path) -> None:
    publish(store, "onnx_model", {ONNX: tiny_onnx.read_bytes()}, "trained_checkpoint", version="2")
    assert "The latest evaluation_report was made from another onnx_model than the latest" in refusal(store)
    assert hub.requests == []


def test_a_damaged_model_is_refused(store: ArtifactFolder, hub: Hub) -> None:
    path = store.latest("onnx_model").file(ONNX)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in refusal(store)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("part", "status", "said"),
    [
        ("/lfs/", 403, "does not let this token write team/jumps"),
        ("objects/batch", 413, "refused team/jumps (413, as the test wants it)"),
        ("/commit/", 409, "refused team/jumps (409, as the test wants it)"),
        ("/commit/", 403, "does not let this token write team/jumps"),
    ],
)
def test_an_upload_that_breaks_leaves_nothing_to_see(
    store: ArtifactFolder, hub: Hub, part: str, status: int, said: str
) -> None:
    hub.broken[part] = status
    assert said in refusal(store)
    assert hub.repositories["team/jumps"].commits == []
    hub.broken.clear()
    assert push_model(store, "team/jumps") == f"{hub.url}/team/jumps"
    assert ONNX in hub.repositories["team/jumps"].files


def test_a_card_that_the_hub_does_not_accept_is_refused_with_its_reason(store: ArtifactFolder, hub: Hub) -> None:
    report = store.latest("evaluation_report")
    card = report.file(CARD)
    card.chmod(0o644)
    card.write_text(card.read_text().replace("type: my-videos-", "type: a b"))
    assert "dataset.type" in refusal(store)
    assert hub.objects == {}


def test_without_a_network_it_says_so(store: ArtifactFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert refusal(store).startswith("http://127.0.0.1:9 does not answer (")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert refusal(store) == "HF_HUB_OFFLINE forbids requests to the Hugging Face Hub: unset it."


def test_a_store_without_a_report_names_the_command_that_makes_it(tmp_path: Path, hub: Hub) -> None:
    assert "evaluation_report has not been materialized: run" in refusal(ArtifactFolder(tmp_path / "empty"))
