"""`xvlm ground`, `match` and `ask` print answers as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import photo, tiny_config, tiny_loaded, tiny_loaded_for, tiny_tokenizer
from xvlm.cli import main
from xvlm.models.checkpoints.folder import ModelBundle, save_model
from xvlm.models.xvlm import build_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask")
    photo(60, 50, 0).save(folder / "0.png")
    save_model(tiny_loaded(), folder / "model")
    save_model(tiny_loaded_for("vqa_decoder"), folder / "vqa_decoder")
    tokenizer = tiny_tokenizer()
    config = replace(tiny_config("cnn", vocab_size=tokenizer.vocab_size), heads=("box",))
    torch.manual_seed(0)
    save_model(ModelBundle(build_model(config), tokenizer, 30, 20), folder / "boxes")
    return folder


def printed(capsys: pytest.CaptureFixture[str], *words: Any, code: int = 0) -> tuple[str, str]:
    assert main([str(word) for word in words]) == code
    return capsys.readouterr()


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_a_model_without_a_matching_head_has_no_score(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ground", folder / "0.png", "the red dog", "--model", folder / "boxes"]
    out, _ = printed(capsys, *words, "--json", "--draw", folder / "drawn.png")
    assert json.loads(out, parse_constant=no_constant)["score"] is None and "null" in out
    assert "nan" not in printed(capsys, *words)[0]


def test_the_best_answers_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = ["red", "blue", "a dog", "a cat", "a tree", "a car", "green"]
    words = [
        "ask",
        folder / "0.png",
        "what is red?",
        "--model",
        folder / "vqa_decoder",
        "--answers",
        *answers,
    ]
    found = json.loads(printed(capsys, *words, "--json")[0])
    scores = [one["score"] for one in found["best"]]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert found["best"][0] == {"answer": found["answer"], "score": found["score"]}
    lines = printed(capsys, *words)[0].splitlines()
    assert [line.split("  ")[1] for line in lines[3:]] == [one["answer"] for one in found["best"][1:]]


def test_repeated_answers_are_merged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "ask",
        folder / "0.png",
        "what is red?",
        "--model",
        folder / "vqa_decoder",
        "--json",
        "--answers",
    ]
    once = json.loads(printed(capsys, *words, "red", "blue")[0])
    again = json.loads(printed(capsys, *words, "red", "blue", "Red", " red ", "blue")[0])
    assert again == once and sum(one["score"] for one in once["best"]) == pytest.approx(1)


def test_texts_of_unknown_tokens_are_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", folder / "model"]
    for command, *texts in (("ground", "черный треугольник"), ("match", "the dog", "красный")):
        _, error = printed(capsys, command, folder / "0.png", *texts, *words, code=2)
        assert "text has only unknown tokens" in error and texts[-1] in error
    words = ["--model", folder / "vqa_decoder", "--answers"]
    _, error = printed(capsys, "ask", folder / "0.png", "красный?", *words, "red", code=2)
    assert "text has only unknown tokens" in error
    _, error = printed(capsys, "ask", folder / "0.png", "the dog?", *words, "красный", code=2)
    assert "answers contains 'красный', which has only unknown tokens" in error


def test_truncated_texts_and_unknown_tokens_are_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--model", folder / "model"]
    printed(capsys, "ground", folder / "0.png", "the красный dog", *words)
    assert "text has unknown tokens: 1 of 3 tokens of 'the красный dog'" in caplog.text
    caplog.clear()
    printed(capsys, "ground", folder / "0.png", "red " * 40, *words)
    assert "text is cut: 30 of 40 words of 'red red" in caplog.text
    caplog.clear()
    printed(capsys, "ground", folder / "0.png", "the red dog", *words)
    assert not caplog.text


def test_a_device_can_be_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ground", folder / "0.png", "the red dog", "--model", folder / "model", "--device"]
    assert "box_xyxy" in printed(capsys, *words, "cpu")[0]
    assert "device is 'nowhere'; it must be cpu" in printed(capsys, *words, "nowhere", code=2)[1]
    assert "device is 'cuda:97'; this machine has" in printed(capsys, *words, "cuda:97", code=2)[1]
