"""Index photos in a process of its own, slowly, with a commit every two photos: `killed.py FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from xvlm.search import encode, update
from xvlm.search.index import Index


def main(folder: Path) -> None:
    read = encode.read_photo

    def slowly(path: str) -> bytes:
        time.sleep(0.01)
        return read(path)

    encode.read_photo = slowly
    update.COMMIT_ROWS = 2
    index = Index.create(folder / "index", folder / "model", levels=(2,))
    print("started", flush=True)
    index.update([str(folder / "photos")], batch_size=2, threads=1)
    print("finished", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
