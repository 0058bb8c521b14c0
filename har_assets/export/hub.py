"""The Hugging Face Hub: the latest model of a store as one commit of a model repository. Needs the extra `hub`."""

from __future__ import annotations

import sys
from pathlib import Path

from har_assets.dataset.class_index import CLASS_INDEX
from har_assets.errors import HarError
from har_assets.model.files import CARD, CHECKPOINT, KINDS, ONNX
from har_assets.store.protocol import Store
from har_assets.store.record import refuse_other_parents


def push_model(store: Store, repository: str, *, private: bool = False) -> str:
    """Upload the latest model, checkpoint, classes and the card of evaluation_report; returns the repository's address.

    The repository is created where there is none. All files become visible by one commit, or none does. The token is
    that of HF_TOKEN or of `hf auth login`, the server that of HF_ENDPOINT.

    Args:
        store: holds evaluation_report and what it was made from.
        repository: `owner/name`.
        private: creates a private repository, and refuses one that is public.

    Raises:
        HarError: the extra or a token is missing, the name is malformed, the products were not made from each other,
            or the server does not answer or refuses the upload.
        MissingArtifactError: one of the products was never made. ModelFileError: a model file is damaged.
    """
    try:
        from httpx2 import HTTPError  # the HTTP client of huggingface_hub
        from huggingface_hub import CommitOperationAdd, HfApi, get_token
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise HarError(
            f"{error.name} is not installed: `pip install 'har_assets[hub]'` brings the client of the Hugging Face Hub."
        ) from None
    if not _is_name(repository):
        raise HarError(
            f"{repository!r} is no owner/name of a repository: write it in letters, digits, '-', '_' and '.'."
        )
    if get_token() is None:
        raise HarError("There is no token for the Hugging Face Hub: set HF_TOKEN, or run `hf auth login`.")
    files = _files(store)
    if not sys.stderr.isatty():
        disable_progress_bars()
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise HarError(f"{address} exists and is public: make it private in its settings, or leave --private out.")
        api.create_commit(
            repository,
            [CommitOperationAdd(name, path) for name, path in files.items()],
            commit_message="Upload the model and its card by har_assets",
        )
    except RuntimeError as error:  # of a large file
        raise HarError(_in_words(error.__cause__ or error, repository, api.endpoint)) from error
    except (HTTPError, OSError, ValueError) as error:
        raise HarError(_in_words(error, repository, api.endpoint)) from error
    return str(address)


def _is_name(repository: str) -> bool:
    """Whether it is an `owner/name` that the Hub allows."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return "/" in repository


def _files(store: Store) -> dict[str, Path]:
    """Name in the repository to file; HarError where they do not belong together."""
    report, onnx, checkpoint, classes = map(
        store.latest, ("evaluation_report", "onnx_model", "trained_checkpoint", "class_index")
    )
    refuse_other_parents(
        [(report, onnx), (report, checkpoint), (onnx, checkpoint), (checkpoint, classes)], "evaluation_report"
    )
    models = {ONNX: onnx.file(ONNX), CHECKPOINT: checkpoint.file(CHECKPOINT)}
    for path in models.values():
        KINDS[path.suffix].verify(path)
    pictures = {name: report.file(name) for name in report.record.metadata["pictures"]}
    return {CARD: report.file(CARD), **models, CLASS_INDEX.file: classes.file(CLASS_INDEX.file), **pictures}


def _in_words(error: BaseException, repository: str, endpoint: str) -> str:
    """One sentence about a failed upload that names the remedy."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    reason = str(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids requests to the Hugging Face Hub: unset it."
    if isinstance(error, TransportError):
        return f"{endpoint} does not answer ({reason or type(error).__name__}): check the network and HF_ENDPOINT."
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status == 401:
            return f"{endpoint} does not know the token: set HF_TOKEN to a valid one, or run `hf auth login`."
        if status in (403, 404):
            return (
                f"{endpoint} does not let this token write {repository}: check the name of its owner, and that the "
                "token has the permission to write there."
            )
        reason = f"{status}, {error.server_message or error.response.reason_phrase}"
    return f"{endpoint} refused {repository} ({' '.join(reason.split())}): correct what it names, or push again later."
