"""Every golden file is read by a test."""

from __future__ import annotations

import fnmatch

from tests.golden import files

READ_BY = {
    "test_pretrain.py": [
        "{tower}.pth", "{tower}_inputs.*", "{tower}_outputs.*", "{tower}_*_gradnorms.json", "trajectory*.json"
    ],
    "test_tasks.py": [f"{task}_{kind}.safetensors" for task in (
        "grounding384", "retrieval224", "weakground224", "nlvr224", "vqa224", "caption224"
    ) for kind in ("inputs", "outputs")],
    "test_convert.py": ["*.pth"],
    "files.py": ["config.json"],
    "test_text_and_boxes.py": ["text_and_boxes.json"],
}  # fmt: skip


def test_every_file_is_read() -> None:
    names = [name for name in files.names() if name != "README.md"]
    towers = files.pretraining()
    patterns = [
        pattern.format(tower=tower) for group in READ_BY.values() for pattern in group for tower in towers
    ]
    unread = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    assert not unread, f"no test reads {', '.join(unread)}"
