"""The same bytes on one process, on several, on Ray, after a dead worker and after `kill -9`."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prepare.many import COUNT, PER_SHARD, contents, kill_and_repeat, run, write_many
from tests.published_data import write_lines
from xvlm.common.errors import InputError, OutputError, WorkerDiedError
from xvlm.data.files import storage
from xvlm.data.sources.open import open_source
from xvlm.prepare.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEADLY = Path(__file__).parent / "deadly.py"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="module")
def expected(release: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("one") / "out"
    run(release, out)
    return contents(out)


def test_shards_and_what_is_left_out(release: Path, tmp_path: Path) -> None:
    done = run(release, tmp_path / "out")
    assert done.total("samples") == COUNT - 2
    assert done.tally("left_out").counts == {"image file missing": 1, "image does not decode": 1}
    names = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert names == [f"all-{number:05}.tar" for number in range(5)]
    source = open_source(str(tmp_path / "out"))
    assert source[7].concepts[0].texts == ("picture 8", "photo 3")
    assert source[7].concepts[1].attributes == ("red",)
    assert isinstance(source[7].image, bytes)
    assert source[7].image == (release.parent / "008.jpg").read_bytes(), "images stay as they are"


def test_two_workers_make_the_same_bytes(release: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """As on Ray, where one of them is killed as well, below."""
    run(release, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_dead_worker_costs_its_shard_only(engine: str, release: Path, tmp_path: Path) -> None:
    deadly = Settings(filters=(f"{DEADLY}:marker={tmp_path / 'died'}",))
    run(release, tmp_path / "out", deadly, workers=2, engine=engine)
    assert (tmp_path / "died").exists()
    run(release, tmp_path / "again", deadly)
    made, again = contents(tmp_path / "out"), contents(tmp_path / "again")
    assert made.keys() == again.keys()
    for name in made:
        if name.startswith("_shards/all-") and name.endswith(
            ".json"
        ):  # the filter names the file that it wrote
            assert json.loads(made[name]) == json.loads(again[name]) | {
                "digest": json.loads(made[name])["digest"]
            }
        else:
            assert made[name] == again[name], name


def test_processes_do_not_load_torch() -> None:
    """It would take each of them seconds and half a gigabyte."""
    code = "import sys, xvlm.prepare.shard as s; s.find_dataset('prepare.datasets', 'coco')\n"
    code += "from xvlm.prepare.filtering import make_filters; make_filters(['length'])\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_worker_that_always_dies_is_an_error(release: Path, tmp_path: Path) -> None:
    deadly = Settings(filters=(f"{DEADLY}:marker={tmp_path / 'died'},always=true",))
    with pytest.raises(WorkerDiedError, match=r"the shard all-0000\d died 3 times"):
        run(release, tmp_path / "out", deadly, workers=2)


@pytest.mark.slow
def test_kill_at_random_moments(release: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    """What was whole stays; nothing is half written, lost or twice."""
    kill_and_repeat(release, str(tmp_path / "out"), tmp_path)
    assert contents(tmp_path / "out") == expected


def test_whole_shards_are_not_made_again(
    release: Path, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(release, tmp_path / "out")
    (tmp_path / "out/all-00002.tar").unlink()
    made: list[str] = []
    from xvlm.prepare import shard

    clean = shard.clean

    def counted(sample, *rest):  # type: ignore[no-untyped-def]
        made.append(sample.key)
        return clean(sample, *rest)

    monkeypatch.setattr(shard, "clean", counted)
    run(release, tmp_path / "out")
    assert len(made) == PER_SHARD
    assert contents(tmp_path / "out") == expected


def small(folder: Path, names: str, text: str = "a dog") -> Path:
    """Write lines with an image for each letter, those of upper-case letters missing."""
    folder.mkdir(exist_ok=True)
    for name in filter(str.islower, names):
        Image.new("RGB", (40, 30), (ord(name), 9, 9)).save(folder / f"{name}.png")
    write_lines(folder / "in.jsonl", [{"image": f"{one.lower()}.png", "caption": [text]} for one in names])
    return folder / "in.jsonl"


def test_images_that_come_later_or_change_are_read(tmp_path: Path) -> None:
    """A shard is made again if an image of it is there now, or has other bytes."""
    lines = small(tmp_path / "in", "abCd")
    assert run(lines, tmp_path / "out", per_shard=2).tally("left_out").counts == {"image file missing": 1}
    small(tmp_path / "in", "abcd")
    done = run(lines, tmp_path / "out", per_shard=2)
    assert done.total("samples") == 4 and not done.tally("left_out").counts
    assert len(open_source(str(tmp_path / "out"))) == 4
    Image.new("RGB", (20, 20), "white").save(tmp_path / "in/a.png")
    run(lines, tmp_path / "out", per_shard=2)
    assert open_source(str(tmp_path / "out"))[0].image == (tmp_path / "in/a.png").read_bytes()


def test_files_that_filters_name_are_part_of_the_settings(tmp_path: Path) -> None:
    lines = small(tmp_path / "in", "ab", "a dog runs")
    words, own = tmp_path / "words.txt", tmp_path / "my_filter.py"
    words.write_text("cat\n")
    code = "from xvlm.prepare.filtering import Filter\ndef make():\n    return Filter(text=lambda text: {})\n"
    own.write_text(code.format(None))
    settings = Settings(filters=(f"blocked:file={words}", str(own)))
    assert run(lines, tmp_path / "out", settings).total("captions") == 2
    words.write_text("dog\n")
    with pytest.raises(InputError, match="blocked word"):
        run(lines, tmp_path / "out", settings)
    words.write_text("cat\n")
    own.write_text(code.format("'mine'"))
    with pytest.raises(InputError, match="mine"):
        run(lines, tmp_path / "out", settings, workers=2)


def test_shards_of_samples_that_are_gone_are_removed(tmp_path: Path) -> None:
    """Nothing else is: neither a shard of the user's own nor one whose samples are still there."""
    lines = small(tmp_path / "in", "abcdef")
    run(lines, tmp_path / "out", per_shard=2)
    (tmp_path / "out/mine.tar").write_bytes(bytes(10240))
    small(tmp_path / "in", "abc")
    run(lines, tmp_path / "out", per_shard=2)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [
        "all-00000.tar",
        "all-00001.tar",
        "mine.tar",
    ]
    assert not list((tmp_path / "out").rglob("*00002*"))


def test_remote_shards_of_samples_that_are_gone_are_removed(tmp_path: Path) -> None:
    out = "memory://gone/out"
    run(small(tmp_path / "in", "abcdef"), out, per_shard=2)
    run(small(tmp_path / "in", "abc"), out, per_shard=2)
    assert [name for name in storage.list_names(out) if name.endswith(".tar")] == [
        "all-00000.tar",
        "all-00001.tar",
    ]
    assert not [name for name in storage.list_names(f"{out}/_shards") if "00002" in name]


def test_another_release_is_refused(tmp_path: Path) -> None:
    run(small(tmp_path / "one", "abc"), tmp_path / "out")
    with pytest.raises(OutputError, match=r"another preparation, with root .*one/in\.jsonl instead of .*two"):
        run(small(tmp_path / "two", "ab"), tmp_path / "out")
    assert len(open_source(str(tmp_path / "out"))) == 3
    described = json.loads((tmp_path / "out/dataset.json").read_text())
    assert described["release"] == "in.jsonl" and str(tmp_path) not in json.dumps(described)


def test_another_preparation_or_another_folder_is_refused(release: Path, tmp_path: Path) -> None:
    run(release, tmp_path / "out")
    with pytest.raises(OutputError, match="holds another preparation, with per_shard 5 instead of 6"):
        run(release, tmp_path / "out", per_shard=6)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("")
    with pytest.raises(OutputError, match=r"full holds mine.txt and no preparation"):
        run(release, tmp_path / "full")
    assert (tmp_path / "full/mine.txt").exists()


def test_nothing_that_can_be_used(tmp_path: Path) -> None:
    path = write_many(tmp_path / "in", 3)
    for image in (tmp_path / "in").glob("*.jpg"):
        image.write_bytes(b"")
    with pytest.raises(InputError, match=r"no sample of .*many.jsonl can be used; first problem: image"):
        run(path, tmp_path / "out")


def test_memory_does_not_grow_with_the_shards(tmp_path: Path) -> None:
    """Neither the images of a shard nor the shards that are done are held: 40 MB of images, 20 MB at most."""
    rng, rows = np.random.default_rng(0), []
    for number in range(520):
        noise = rng.integers(0, 256, (160, 165, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": ["noise"]})
    write_lines(tmp_path / "in.jsonl", rows)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.png")) > 40e6
    run(tmp_path / "in.jsonl", tmp_path / "warm", per_shard=100)
    tracemalloc.start()
    try:
        run(tmp_path / "in.jsonl", tmp_path / "out", per_shard=100)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
