"""The page of `examples/browser` gives the answers of the model, in a browser."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import chromium, needs_chromium
from tests.tiny import IMAGE_HW, photo, tiny_loaded
from xvlm.data.text.tokenizer import encode_caption
from xvlm.export.export import export
from xvlm.models.checkpoints.folder import save_model
from xvlm.predict import Predictor
from xvlm.records import BadRecord

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/browser"
pytestmark = [
    needs_chromium,
    pytest.mark.skipif(
        not (EXAMPLE / "ort/ort.wasm.min.mjs").exists(), reason="`make browser-example` was not run"
    ),
]
TEXTS = [
    "a red dog",
    "The RED dog, beside a tree!",
    "round-car/tree",
    "  dög  above\tthe cat ",
    "車 the car",
    "doglike carcar redddd",
    "x" * 130 + " dog",
    "the <person> beside 'cat'",
    "a $ dog & cat",
    "red " * 60,
]


class Quiet(SimpleHTTPRequestHandler):
    """A file server that says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as browser:
        yield browser.new_page()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The example in a folder of its own, and its address."""
    shutil.copytree(EXAMPLE, tmp_path / "site", ignore=shutil.ignore_patterns("model"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "site", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "swin"])
def test_a_phrase_in_ones_own_photo(kind: str, site: tuple[Path, str], page: Any, tmp_path: Path) -> None:
    folder, address = site
    save_model(tiny_loaded(kind, seed=4), tmp_path / "model")
    export(tmp_path / "model", folder / "model")
    path = tmp_path / "a.png"
    photo(IMAGE_HW[1], IMAGE_HW[0], 3).save(path)  # of the model's size: browsers resize otherwise
    page.goto(address)
    page.wait_for_function("document.getElementById('status').textContent === 'choose a photo'")
    page.set_input_files("#photo", path)
    page.wait_for_function("document.getElementById('status').textContent === 'ready'")
    for phrase in ("a red dog", "the small blue car"):
        page.fill("#phrase", phrase)
        page.evaluate("globalThis.lastAnswer = null")
        page.click("#ground")
        page.wait_for_function("globalThis.lastAnswer")
        answer = page.evaluate("globalThis.lastAnswer")
        expected = Predictor.load(tmp_path / "model").image(path).ground(phrase)
        assert answer["box"] == pytest.approx(expected.box_xyxy, abs=0.05)
        assert answer["probability"] == pytest.approx(expected.score, abs=1e-3)
    page.fill("#phrase", "qqq")
    page.click("#ground")
    page.wait_for_function("document.getElementById('status').textContent.includes('is known to the model')")


@pytest.mark.slow
def test_the_tokenizer_is_the_models(site: tuple[Path, str], page: Any, tmp_path: Path) -> None:
    folder, address = site
    bundle = tiny_loaded()
    bundle.tokenizer.save(folder / "model")
    page.goto(f"{address}/README.md")
    code = """async ([texts, maxWords, maxTokens]) => {
        const { cleanCaption, Tokenizer } = await import('/tokenizer.js');
        const tokenizer = new Tokenizer(await (await fetch('/model/tokenizer.json')).json());
        return texts.map((text) => {
            try {
                return tokenizer.encode(cleanCaption(text, maxWords), maxTokens);
            } catch (error) {
                return null;
            }
        });
    }"""
    found = page.evaluate(code, [TEXTS, bundle.max_words, bundle.max_tokens])
    for text, ids in zip(TEXTS, found, strict=True):
        try:
            expected = encode_caption(bundle.tokenizer, text, bundle.max_words, bundle.max_tokens)
        except BadRecord:
            expected = None
        assert ids == expected, text
