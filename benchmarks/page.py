"""How soon the page shows its first answer after the last key, in a real browser.

For example, with a service that `xvlm app` or `xvlm serve` has started:

    python benchmarks/page.py --url http://127.0.0.1:8000
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import numpy as np
import tyro
from playwright.sync_api import sync_playwright

TEXTS = (
    "a red ring",
    "a small blue star",
    "two green triangles",
    "a yellow square left of a circle",
    "something large",
)
SHOWN = """
() => {
  window.firstAnswer = 0;
  new MutationObserver(() => {
    if (!window.firstAnswer && document.querySelector('#hits li')) window.firstAnswer = performance.now();
  }).observe(document.getElementById('hits'), {childList: true, subtree: true});
  document.addEventListener('keydown', () => { window.lastKey = performance.now(); window.firstAnswer = 0; },
    true);
}
"""


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        url: address of the service.
        rounds: searches for each of the texts.
    """

    url: str
    rounds: int = 4


def main(study: Study) -> None:
    """Print the times from the last key to the first hits, and to the reranked ones."""
    first, last = [], []
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as engine:
        page = engine.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        page.goto(study.url)
        page.evaluate(SHOWN)
        for number in range(study.rounds):
            for text in TEXTS:
                page.get_by_role("searchbox").fill("")
                page.wait_for_timeout(300)
                page.evaluate("document.getElementById('state').textContent = ''")
                page.keyboard.type(f"{text} {number % 2 or ''}".strip(), delay=40)
                while not page.evaluate("document.getElementById('state').textContent.endsWith('ms')"):
                    page.wait_for_timeout(10)
                now, key, shown = page.evaluate("[performance.now(), window.lastKey, window.firstAnswer]")
                first.append(shown - key)
                last.append(now - key)
    for name, times in (("first hits", first), ("reranked hits", last)):
        cells = " / ".join(f"{np.quantile(times, share):.0f}" for share in (0.5, 0.95, 1.0))
        print(f"{name} after the last key: {cells} ms (median / 95 % / largest of {len(times)})")


if __name__ == "__main__":
    main(tyro.cli(Study))
