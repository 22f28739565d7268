"""Repositories of a hub: downloads of any revision, and uploads.

`huggingface_hub` does the work, so its environment variables hold: HF_ENDPOINT names a mirror, HF_HUB_OFFLINE
uses what was downloaded before, HF_TOKEN is who one is.  A download that was cut off goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, errors, snapshot_download

from xvlm.common.errors import InputError, MissingFileError, OutputError, first_line

LIBRARY = "xvlm"
_PROBLEMS: tuple[tuple[type[Exception], str], ...] = (
    (errors.GatedRepoError, "its terms must be accepted on its page, and HF_TOKEN must say by whom"),
    (errors.RevisionNotFoundError, "it has no such branch, tag or commit"),
    (errors.RepositoryNotFoundError, "there is no such repository, or it is private and HF_TOKEN is not set"),
    (errors.LocalEntryNotFoundError, "it was not downloaded before, and the hub cannot be reached now"),
)


def download(repo: str, patterns: Sequence[str]) -> Path:
    """Return the folder with the local copies of some files of a repository.

    Args:
        repo: ORGANISATION/NAME, or ORGANISATION/NAME@REVISION with a branch, tag or commit.
        patterns: globs of the files.
    Raises:
        MissingFileError: there is no such repository or revision, or it cannot be read or reached.
    """
    name, _, revision = repo.partition("@")
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=list(patterns),
            library_name=LIBRARY,
            library_version=metadata.version("xvlm"),
        )
    except Exception as error:  # versions of the package have clients with error types of their own
        raise MissingFileError(
            f"{repo} is neither a folder here nor a hub repository that can be read: {_problem(error)}"
        ) from error
    return Path(folder)


def upload(
    repo: str, files: Mapping[str, Path | bytes], message: str, private: bool = False, branch: str = ""
) -> str:
    """Write files into a repository by one commit, and return the commit's address.

    Args:
        repo: ORGANISATION/NAME; it is made unless it exists.
        files: path or content of each file, by its path in the repository; files that are not named stay.
        message: of the commit; empty: that a model was uploaded.
        private: whether a new repository is private.
        branch: branch that gets the commit, which is made unless it exists; empty: the main one.
    Raises:
        InputError: the name is none of a repository.
        OutputError: the hub refuses it, or cannot be reached.
    """
    api = HfApi(library_name=LIBRARY, library_version=metadata.version("xvlm"))
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if branch:
            api.create_branch(repo, branch=branch, exist_ok=True)
        return str(
            api.create_commit(
                repo,
                operations,
                commit_message=message or f"Upload {repo.rpartition('/')[2]} by xvlm",
                revision=branch or None,
            )
        )
    except errors.HFValidationError as error:
        raise InputError(f"{repo!r} cannot be the name of a repository: {first_line(error)}") from error
    except Exception as error:  # as for downloads
        raise OutputError(f"{repo} cannot be written: {_problem(error)}") from error


def _problem(error: Exception) -> str:
    known = (text for kind, text in _PROBLEMS if isinstance(error, kind))
    return next(known, None) or first_line(error)
