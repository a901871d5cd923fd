"""Weights from the Hugging Face Hub, and to it, by its own client: downloads are kept in its cache."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

SCHEME = "hf://"
REFERENCE = re.compile(r"hf://(?:models/)?([^/@]+/[^/@]+)(?:@(refs/pr/\d+|[^/@]+))?(?:/(.*))?")
CARD = "README.md"
WEIGHTS = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
SAFE = ".safetensors"
DESCRIPTION, VIT = BESIDE = ("encoders.json", "vit_encoder.safetensors")  # the partner's, as export-encoder writes them
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class Weights:
    """A file of weights on this machine.

    Attributes:
        path: where it is.
        source: as it was named; of the Hub, with commit and file.
        licence: that the model card names, if there is one.
    """

    path: Path
    source: str
    licence: str | None = None

    def __str__(self) -> str:
        if not self.source.startswith(SCHEME):
            return self.source
        return f"{self.source} (licence: {self.licence or 'not named'})"


def local_weights(reference: str) -> Weights:
    """The file that `reference` names: a path, as it is, or `hf://owner/name[@revision][/file]`, downloaded if need be.

    Raises:
        OSError: it cannot be had from the Hub, nor from the cache; the message says why, and what to do.
        ValueError: the reference is malformed, or names none of several files.
    """
    if not reference.startswith(SCHEME):
        return Weights(Path(reference), reference)
    parsed = REFERENCE.fullmatch(reference)
    if parsed is None:
        raise ValueError(f"{reference!r} names no weights: write hf://owner/name, hf://owner/name@revision/file")
    repository, revision, file = parsed.groups()
    with _explained(reference, repository):
        file = file or _only_weights(repository, revision)
        path = Path(hf_hub_download(repository, file, revision=revision))
        commit = path.parents[file.count("/")].name  # .../snapshots/COMMIT/FILE
        for name in BESIDE if file.endswith(SAFE) else ():
            _download(repository, commit, str(PurePosixPath(file).with_name(name)))
        return Weights(path, f"{SCHEME}{repository}@{commit}/{file}", _licence(repository, commit))


def _only_weights(repository: str, revision: str | None) -> str:
    """The file to take where none is named. Raises ValueError that lists the files to choose from."""
    files = _files(repository, revision)
    weights = [file for file in files if file.endswith(WEIGHTS)]
    ours = [file for file in weights if file.endswith(SAFE) and file not in BESIDE and DESCRIPTION in files]
    chosen = ours or weights
    if len(chosen) == 1:
        return chosen[0]
    at = f"{SCHEME}{repository}{f'@{revision}' if revision else ''}"
    if chosen:
        raise ValueError(f"{at} has several files of weights, name one: {', '.join(f'{at}/{file}' for file in chosen)}")
    raise ValueError(f"{at} has no file of weights ({', '.join(WEIGHTS)}), only {', '.join(files) or 'nothing'}")


def _files(repository: str, revision: str | None) -> list[str]:
    """Names of the files of a repository, or where the Hub cannot be asked of those that were downloaded before."""
    try:
        return [file.rfilename for file in HfApi().model_info(repository, revision=revision).siblings or ()]
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception:  # offline, or no connection, which each release of the client calls otherwise
        folder = snapshot_download(repository, revision=revision, allow_patterns=CARD, local_files_only=True)
        snapshot = Path(folder)
        return sorted(file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file())


def _download(repository: str, commit: str, file: str) -> Path | None:
    """None where there is no such file, neither on the Hub nor in the cache."""
    try:
        return Path(hf_hub_download(repository, file, revision=commit))
    except EntryNotFoundError:
        return None


def _licence(repository: str, commit: str) -> str | None:
    """That the model card names; None where there is none, or no card that can be read."""
    card = _download(repository, commit, CARD)
    try:
        data = front_matter(card) if card else {}
    except ValueError:
        return None
    return str(data.get("license_name") or data.get("license") or "") or None


def front_matter(card: Path) -> dict[str, Any]:
    """The fields at the top of a model card. Raises ValueError where they are no YAML."""
    try:
        return ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # of a reader of YAML that is the client's own affair
        reason = " ".join(str(error).split())
        raise ValueError(f"{card}: the fields at its top, between two lines ---, are no YAML: {reason}") from error


def visibility(repository: str) -> str:
    """Public or private; empty where there is no such repository that one may see. Raises OSError."""
    with _explained(f"{SCHEME}{repository}", repository):
        try:
            return "private" if HfApi().model_info(repository).private else "public"
        except RepositoryNotFoundError:
            return ""


def upload(repository: str, files: Mapping[str, Path | bytes], message: str) -> str:
    """Commits files, by their names there, all or none; a repository is made where there is none, a private one.

    Returns:
        the address of the commit.

    Raises:
        OSError: the Hub refuses it, or cannot be reached; the message says what to do.
    """
    with _explained(f"{SCHEME}{repository}", repository):
        HfApi().create_repo(repository, private=True, exist_ok=True)
        operations = [CommitOperationAdd(name, file) for name, file in files.items()]
        return HfApi().create_commit(repository, operations, commit_message=message).commit_url


@contextmanager
def _explained(reference: str, repository: str) -> Iterator[None]:
    """What the client raises as an OSError that says what to do; ValueErrors, ours and its, say it themselves."""
    try:
        yield
    except Exception as error:  # errors of the connection have other classes in each release of the client
        if isinstance(error, ValueError) and not isinstance(error, JSONDecodeError):
            raise
        raise OSError(f"{reference}: {_reason(error, repository)}") from error


def _reason(error: Exception, repository: str) -> str:
    """What to do about an error of the client."""
    page, status = f"{constants.ENDPOINT}/{repository}", getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return f"its owner asks for consent: give it at {page}, then {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is no {page}, or it is private: look at the name; of a private one, {LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return f"no such branch, tag or commit (all 40 digits): {page}/commits/main lists them"
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set, and it was not downloaded to this machine before: unset it for once"
        return (
            f"{_unreachable(error.__cause__ or error.__context__ or error)}, and it was not downloaded to this machine "
            "before. Look at the connection, or copy the file here and name its path"
        )
    if isinstance(error, EntryNotFoundError):
        return f"no such file: {page}/tree/main lists them"
    if status in (401, 403):
        return f"access was refused ({status}): {LOG_IN}, with a token that may do this"
    return f"{_unreachable(error)}: look at the connection"


def _unreachable(error: BaseException) -> str:
    return (
        f"{constants.ENDPOINT} does not do what was asked ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    )
