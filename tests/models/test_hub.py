"""Models on a hub: revisions, mirrors, offline mode, downloads that go on, and uploads with a card."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch

from tests.hub_server import Hub, Repository, hub
from tests.tiny import tiny_loaded
from xvlm.common.errors import InputError, MissingFileError, OutputError
from xvlm.models.checkpoints.folder import FILES, load_model, save_model
from xvlm.models.checkpoints.hub import upload
from xvlm.predict import Predictor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub() as one:
        monkeypatch.setattr(constants, "ENDPOINT", one.url)
        template = one.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield one


def files_of(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def published(server: Hub, tmp_path: Path) -> Hub:
    """A repository with two revisions."""
    repository = server.repositories["org/model"] = Repository()
    for seed, tag in ((0, "v1"), (1, "")):
        folder = save_model(tiny_loaded(seed=seed), tmp_path / f"model{seed}")
        commit = repository.commit("main", {**files_of(folder), "README.md": b"text", "big.bin": b"x" * 9})
        if tag:
            repository.refs[tag] = commit
    return server


def first_weights(predictor: Predictor) -> torch.Tensor:
    return next(iter(predictor.model.parameters()))


def test_any_revision(published: Hub, tmp_path: Path) -> None:
    newest, first = Predictor.from_pretrained("org/model"), Predictor.from_pretrained("org/model", "v1")
    assert torch.equal(first_weights(newest), first_weights(Predictor.load(tmp_path / "model1")))
    assert torch.equal(first_weights(first), first_weights(Predictor.load(tmp_path / "model0")))
    assert not torch.equal(first_weights(first), first_weights(newest))
    commit = published.repositories["org/model"].refs["v1"]
    assert torch.equal(first_weights(Predictor.load(f"org/model@{commit}")), first_weights(first))
    assert not [path for _, path, _ in published.requests if path.endswith("big.bin")], "is not needed"
    agents = {headers.get("user-agent", "") for _, path, headers in published.requests if "org/model" in path}
    assert all(agent.startswith("xvlm/") for agent in agents)
    with pytest.raises(InputError, match="is a folder here, which has no revision 'v1'"):
        Predictor.from_pretrained(tmp_path / "model0", "v1")


def test_a_download_that_was_cut_off_goes_on(published: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    published.cut_off = 5000
    assert load_model("org/model").tokenizer.vocab_size
    ranges = [
        headers.get("range") or headers.get("Range")
        for method, path, headers in published.requests
        if method == "GET" and path.endswith(".safetensors")
    ]
    assert len(ranges) == 2 and ranges[1] == "bytes=5000-"


def test_errors_are_a_sentence(published: Hub) -> None:
    published.repositories["org/secret"] = Repository(private=True)
    published.repositories["org/gated"] = Repository(gated=True)
    for name, problem in (
        ("org/none", "there is no such repository, or it is private"),
        ("org/secret", "there is no such repository, or it is private"),
        ("org/gated", "its terms must be accepted on its page"),
        ("org/model@v9", "it has no such branch, tag or commit"),
        ("not a name!", ""),
    ):
        with pytest.raises(MissingFileError) as caught:
            load_model(name)
        message = str(caught.value)
        assert message.startswith(f"{name} is neither a folder here nor a hub repository that can be read: ")
        assert problem in message and "\n" not in message


def test_uploads(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor.load(save_model(tiny_loaded(seed=3), tmp_path / "model"))
    with pytest.raises(OutputError, match="org/mine cannot be written: "):
        predictor.push_to_hub("org/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    address = predictor.push_to_hub("org/mine", private=True, message="first")
    assert address.startswith(f"{server.url}/org/mine/commit/")
    repository = server.repositories["org/mine"]
    assert repository.private and repository.messages[-1] == "first"
    again = Predictor.from_pretrained("org/mine")
    assert torch.equal(first_weights(again), first_weights(predictor))
    assert again.bundle().max_words == predictor.bundle().max_words
    upload("org/mine", {"note.txt": b"on a branch"}, "second", branch="try")
    assert repository.refs["try"] != repository.refs["main"]
    assert "note.txt" not in repository.commits[repository.refs["main"]]
    with pytest.raises(InputError, match="cannot be the name of a repository"):
        upload("not a name!", {}, "x")


@pytest.mark.slow
def test_a_mirror_and_offline_mode_by_environment(published: Hub, tmp_path: Path) -> None:
    """As a user sets them, in processes of their own."""
    code = "import xvlm; print(xvlm.Predictor.from_pretrained('org/model').max_tokens)"
    variables = {**os.environ, "HF_ENDPOINT": published.url, "HF_HOME": str(tmp_path / "home")}

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**variables, **more},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )

    offline = run(HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "it was not downloaded before" in offline.stderr
    assert run().stdout.strip() == str(tiny_loaded().max_tokens)
    count = len(published.requests)
    assert run(HF_HUB_OFFLINE="1").stdout.strip() == str(tiny_loaded().max_tokens)
    assert len(published.requests) == count
