"""Images of evaluation data are found in training data by id, by bytes and by what they look like."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.prepare.many import run
from tests.prepare.releases import RELEASES
from tests.published_data import write_lines
from tests.refcoco_data import IMAGES
from xvlm.common.errors import InputError
from xvlm.data.sources.open import open_source
from xvlm.prepare.common_ids import flickr_id
from xvlm.prepare.copies import NEAR_BITS, earlier_copies
from xvlm.prepare.leaks import LeakError, find_leaks, raise_leaks, write_leaks
from xvlm.prepare.prepare import prepare
from xvlm.prepare.settings import Settings


def picture(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A picture with edges, as photos have them."""
    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(25):
        x0, x1 = np.sort(rng.integers(0, size[0], 2))
        y0, y1 = np.sort(rng.integers(0, size[1], 2))
        pixels[y0:y1, x0:x1] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


COPIES = {
    "bytes": None,
    "encoded again": lambda image: image,
    "resized": lambda image: image.resize((120, 90)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped": lambda image: image.crop((6, 5, 234, 176)),
}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """Twelve images."""
    rows = []
    for number in range(12):
        path = tmp_path / "eval" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path, quality=95)
        rows.append({"image": path.name, "caption": ["a picture"]})
    write_lines(tmp_path / "eval/eval.jsonl", rows)
    return tmp_path / "eval/eval.jsonl"


def training(folder: Path, images: dict[str, Image.Image | bytes]) -> Path:
    """Prepare a training set of these images."""
    folder.mkdir()
    for name, image in images.items():
        if isinstance(image, bytes):
            (folder / f"{name}.jpg").write_bytes(image)
        else:
            image.save(folder / f"{name}.jpg", quality=70)
    write_lines(folder / "in.jsonl", [{"image": f"{name}.jpg", "caption": [name]} for name in images])
    run(folder / "in.jsonl", folder / "out")
    return folder / "out"


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_found(kind: str, evaluation: Path, tmp_path: Path) -> None:
    change = COPIES[kind]
    images: dict[str, Image.Image | bytes] = {
        f"other{number}": picture(1000 + number) for number in range(12)
    }
    for number in range(12):
        path = evaluation.parent / f"{number}.jpg"
        images[f"copy{number}"] = path.read_bytes() if change is None else change(Image.open(path))
    out = training(tmp_path / "train", images)
    found = find_leaks([str(out)], [str(evaluation)], workers=1).leaks
    assert len(found) == 12, (kind, [one.key for one in found])
    for leak in found:
        number = int(leak.other.rpartition(":")[2]) - 1
        assert leak.how == "the same bytes" if change is None else leak.how.startswith("looks the same")
        assert (leak.shard, leak.number) == (f"all-{(12 + number) // 5:05}", (12 + number) % 5)


def test_by_the_id_of_coco_and_of_flickr(tmp_path: Path) -> None:
    """Visual Genome's image 713 is COCO's 73, which Karpathy tests on."""
    for name in ("visual_genome", "coco", "sbu"):
        RELEASES[name](tmp_path / name)
        split = "test" if name == "coco" else ""
        prepare(name, str(tmp_path / name), str(tmp_path / f"{name}-out"), split, workers=1)
    train = [str(tmp_path / f"{name}-out") for name in ("visual_genome", "sbu")]
    found = find_leaks(train, [str(tmp_path / "coco-out")], workers=1).leaks
    assert [(one.key, one.how) for one in found] == [("713.jpg", "the same coco id, 73")]


def test_refcocos_images_are_cocos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images that cannot be read are compared by id, and are an error unless that is allowed."""
    RELEASES["refcoco"](tmp_path / "refcoco")
    RELEASES["coco"](tmp_path / "coco")
    karpathy = json.loads((tmp_path / "coco/dataset_coco.json").read_text())
    karpathy["images"][0]["cocoid"] = next(iter(IMAGES))
    (tmp_path / "coco/dataset_coco.json").write_text(json.dumps(karpathy))
    prepare("coco", str(tmp_path / "coco"), str(tmp_path / "out"), workers=1)
    spec = f"refcoco:{tmp_path / 'refcoco/refcoco'}:unc"
    first, second = (tmp_path / "refcoco/images/train2014" / name for name in IMAGES.values())
    for missing in (first, second):
        found = find_leaks([str(tmp_path / "out")], [spec], workers=1)
        assert f"the same coco id, {next(iter(IMAGES))}" in [one.how for one in found.leaks]
        with pytest.raises(LeakError):
            raise_leaks(found)
        assert missing.name in capsys.readouterr().err
        with pytest.raises(InputError, match=r"images of refcoco:.* cannot be read.*image file missing"):
            raise_leaks(replace(found, leaks=[]))
        raise_leaks(replace(found, leaks=[]), allow_unread=True)
        shutil.copy(first, tmp_path / "refcoco/refcoco")


def test_images_that_cannot_be_read_are_compared_by_id(tmp_path: Path) -> None:
    """Also those of shards' own form, and records that are damaged are counted as not compared."""
    row = {"image": "gone.jpg", "caption": ["a"], "ids": {"coco": "7"}}
    picture(1).save(tmp_path / "0.jpg")
    write_lines(tmp_path / "in.jsonl", [{**row, "image": "0.jpg"}])
    write_lines(tmp_path / "eval.jsonl", [row, {"image": "0.jpg", "caption": 3}])
    run(tmp_path / "in.jsonl", tmp_path / "out")
    found = find_leaks([str(tmp_path / "out")], [str(tmp_path / "eval.jsonl")], workers=1)
    assert [one.how for one in found.leaks] == ["the same coco id, 7"]
    assert len(found.unread[str(tmp_path / "eval.jsonl")]) == 2


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://farm5.staticflickr.com/4116/4755076329_59ae88f2e1_z.jpg", "4755076329"),
        ("http://static.flickr.com/2723/4385058960_b0f291553e.jpg", "4385058960"),
        ("https://live.staticflickr.com/65535/36979_aaaaaaaaaa_b.jpg", None),
        ("https://example.org/4755076329_59ae88f2e1_z.jpg", None),
        (None, None),
    ],
)
def test_ids_of_flickr(url: str | None, found: str | None) -> None:
    assert flickr_id(url) == ({"flickr": found} if found else {})


def test_the_images_of_a_list_are_left_out(evaluation: Path, tmp_path: Path) -> None:
    copy = (evaluation.parent / "3.jpg").read_bytes()
    images = {"a": picture(500), "b": copy, "c": picture(501)}
    out = training(tmp_path / "train", images)
    found = find_leaks([str(out)], [str(evaluation)], workers=1)
    with pytest.raises(LeakError, match=r"1 images are also elsewhere: .*the same bytes"):
        raise_leaks(found)
    write_leaks(str(tmp_path / "leaks.jsonl"), found.leaks)
    again = run(
        tmp_path / "train/in.jsonl", tmp_path / "clean", Settings(exclude=str(tmp_path / "leaks.jsonl"))
    )
    assert again.tally("left_out").counts == {"image of evaluation data": 1}
    assert find_leaks([str(tmp_path / "clean")], [str(evaluation)], workers=1).leaks == []


def test_one_of_each_copy_stays(tmp_path: Path) -> None:
    """Copies are left out by name and bytes, in their own release alone; the first one stays."""
    one = training(tmp_path / "one", {"a": picture(1), "b": picture(2), "c": picture(1)})
    two = training(tmp_path / "two", {"a": picture(2), "b": picture(3), "c": picture(3)})
    write_leaks(str(tmp_path / "l.jsonl"), find_leaks([str(one), str(two)], [], duplicates=True).leaks)
    kept = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}-again"
        done = run(tmp_path / name / "in.jsonl", out, Settings(exclude=str(tmp_path / "l.jsonl")))
        assert done.tally("left_out").counts == {"copy of another image": 1 if name == "one" else 2}
        kept += [str(out)]
    assert [len(open_source(out)) for out in kept] == [2, 1]
    assert find_leaks(kept, [], duplicates=True).leaks == []


def test_an_image_with_several_samples_is_no_copy(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "caption": [text], "key": "a"} for text in ("one", "two")]
    picture(1).save(tmp_path / "a.jpg")
    write_lines(tmp_path / "in.jsonl", rows)
    run(tmp_path / "in.jsonl", tmp_path / "out")
    assert find_leaks([str(tmp_path / "out")], [], duplicates=True).leaks == []


def test_both_images_of_a_pair_are_compared(tmp_path: Path) -> None:
    """Of NLVR2: an image that is the second one in training and the first one in evaluation."""
    RELEASES["nlvr2"](tmp_path / "nlvr2")
    right = next((tmp_path / "nlvr2/images/train").rglob("*-img1.png"))
    (tmp_path / "nlvr2/dev").mkdir()
    shutil.copy(right, tmp_path / "nlvr2/dev/dev-1-0-img0.png")
    picture(7).save(tmp_path / "nlvr2/dev/dev-1-0-img1.png")
    statement = {"identifier": "dev-1-0-1", "label": "True", "sentence": "a dog"}
    write_lines(tmp_path / "nlvr2/dev.json", [statement])
    for split in ("train", "dev"):
        prepare("nlvr2", str(tmp_path / "nlvr2"), str(tmp_path / split), split, workers=1)
    found = find_leaks([str(tmp_path / "train")], [str(tmp_path / "dev")], workers=1).leaks
    assert "the same bytes" in [one.how for one in found]
    write_leaks(str(tmp_path / "l.jsonl"), found)
    again = prepare(
        "nlvr2",
        str(tmp_path / "nlvr2"),
        str(tmp_path / "again"),
        "train",
        Settings(exclude=str(tmp_path / "l.jsonl")),
        workers=1,
    )
    assert again.tally("left_out").counts["image of evaluation data"] >= 1


def test_copies_that_were_encoded_again(tmp_path: Path) -> None:
    """A copy of half the size and one of poor quality are found, and the first one of all stays."""
    first = picture(1)
    first.resize((first.width // 2, first.height // 2)).save(tmp_path / "small.jpg", quality=85)
    first.save(tmp_path / "poor.jpg", quality=40)
    with Image.open(tmp_path / "small.jpg") as small, Image.open(tmp_path / "poor.jpg") as poor:
        one = training(tmp_path / "one", {"a": first, "b": picture(2)})
        two = training(tmp_path / "two", {"c": small, "d": poor})
    found = find_leaks([str(one), str(two)], [], duplicates=True).leaks
    assert [(leak.key, leak.other) for leak in found] == [
        ("in.jsonl:1", "in.jsonl:1"),
        ("in.jsonl:2", "in.jsonl:1"),
    ]
    assert all(leak.against == str(one) and leak.how.startswith("looks the same, ") for leak in found)


def test_every_earlier_copy_is_found() -> None:
    """As by comparing all pairs, with hashes that differ in 0 to 12 bits."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (40, 256)).astype(np.uint8)
    rows = [bits]
    for _ in range(10):
        changed = bits.copy()
        for row in changed:
            places = rng.choice(256, rng.integers(0, 13), replace=False)
            row[places] ^= 1
        rows.append(changed)
    hashes = np.packbits(np.concatenate(rows), axis=1)
    first, different = earlier_copies(hashes)
    distances = np.unpackbits(hashes[:, None] ^ hashes[None], axis=2).sum(2)
    for number in range(len(hashes)):
        near = np.flatnonzero(distances[number, :number] <= NEAR_BITS)
        assert first[number] == (near[0] if len(near) else -1)
        assert first[number] < 0 or different[number] == distances[number, first[number]]
    assert len(earlier_copies(np.zeros((0, 32), np.uint8))[0]) == 0
    same, _ = earlier_copies(np.zeros((500, 32), np.uint8))
    assert same[0] == -1 and (same[1:] >= 0).all(), "more copies than an image is compared with"


def test_copies_within_and_across(tmp_path: Path) -> None:
    one = training(tmp_path / "one", {"a": picture(1), "b": picture(2), "c": picture(1)})
    two = training(tmp_path / "two", {"d": picture(2), "e": picture(3)})
    found = find_leaks([str(one), str(two)], [], duplicates=True).leaks
    assert [(leak.key, leak.other, leak.how) for leak in found] == [
        ("in.jsonl:3", "in.jsonl:1", "the same bytes"),
        ("in.jsonl:1", "in.jsonl:2", "the same bytes"),
    ]
