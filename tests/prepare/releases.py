"""Miniature releases of the public data sets: the files and fields of the originals, with invented content.

Each has what is known to be wrong in the original: crowds, boxes past the edge, missing images, ids with
zeros, two image folders, CMYK and rotated JPEGs, damaged captions.
"""
# Long because: one function a data set, with the names of its release's fields.

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import refcoco_data
from tests.published_data import write_lines
from tests.tiny import photo

SIZE = (80, 60)
WORDS = ("red dog", "blue car", "small tree", "old cat", "green bird", "round table")


def text(number: int) -> str:
    """A caption."""
    return f"a {WORDS[number % len(WORDS)]} beside a {WORDS[(number + 1) % len(WORDS)]}"


def picture(path: Path, seed: int = 0, mode: str = "RGB", orientation: int = 1) -> Path:
    """Write a JPEG or PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = photo(*SIZE, seed)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.convert(mode).save(path, exif=exif)
    return path


def dump(path: Path, value: Any) -> Path:
    """Write JSON, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def coco(root: Path) -> None:
    """Karpathy's split; a crowd, a box past the edge, an image without a file, one that is CMYK."""
    names = {9: "train2014", 25: "train2014", 30: "train2014", 42: "val2014", 73: "val2014"}
    karpathy, images, objects = [], {"train2014": [], "val2014": []}, {"train2014": [], "val2014": []}  # type: ignore[var-annotated]
    parts = {9: "train", 25: "train", 30: "train", 42: "restval", 73: "test"}
    for number, (image_id, folder) in enumerate(names.items()):
        file = f"COCO_{folder}_{image_id:012}.jpg"
        if image_id != 30:
            picture(root / folder / file, number, "CMYK" if image_id == 25 else "RGB")
        sentences = [{"raw": text(number + one), "sentid": 10 * image_id + one} for one in range(5)]
        row = {"filepath": folder, "filename": file, "cocoid": image_id, "split": parts[image_id]}
        karpathy.append(
            {**row, "imgid": number, "sentences": sentences, "sentids": [s["sentid"] for s in sentences]}
        )
        url = f"http://farm5.staticflickr.com/4116/475507632{number}_59ae88f2e1_z.jpg"
        images[folder].append(
            {"id": image_id, "file_name": file, "width": 80, "height": 60, "flickr_url": url}
        )
        box = [60.5, 40.25, 25.0, 30.0] if image_id == 9 else [4.0, 5.0, 30.0, 20.0]
        one = {"id": number, "image_id": image_id, "category_id": 18, "bbox": box, "iscrowd": 0, "area": 9.0}
        objects[folder] += [one, {**one, "id": 100 + number, "bbox": [0, 0, 80, 60], "iscrowd": 1}]
    dump(root / "dataset_coco.json", {"dataset": "coco", "images": karpathy})
    for folder, some in images.items():
        categories = [{"id": 18, "name": "dog", "supercategory": "animal"}]
        dump(
            root / f"annotations/instances_{folder}.json",
            {"images": some, "annotations": objects[folder], "categories": categories},
        )
        captions = [{"id": 10 * one["id"], "image_id": one["id"], "caption": text(one["id"])} for one in some]
        dump(root / f"annotations/captions_{folder}.json", {"images": some, "annotations": captions})


def visual_genome(root: Path) -> None:
    """Two folders; a region of negative size, one past the edge, an object without a name, no image."""
    data, regions, objects, attributes = [], [], [], []
    for number, image_id in enumerate((1, 713, 2400001, 5)):
        folder = "VG_100K_2" if image_id < 100 else "VG_100K"
        if image_id != 5:
            picture(root / folder / f"{image_id}.jpg", 10 + number, orientation=6 if image_id == 713 else 1)
        # The sizes of Visual Genome are those of the stored image.
        url = f"https://cs.stanford.edu/people/rak248/{folder}/{image_id}.jpg"
        data.append(
            {
                "image_id": image_id,
                "url": url,
                "width": 80,
                "height": 60,
                "coco_id": 73 if image_id == 713 else None,
                "flickr_id": None,
            }
        )
        own = [
            {
                "region_id": 1,
                "image_id": image_id,
                "phrase": " a red dog ",
                "x": 2,
                "y": 3,
                "width": 30,
                "height": 20,
            },
            {
                "region_id": 2,
                "image_id": image_id,
                "phrase": "the left car",
                "x": -2,
                "y": 30,
                "width": 40,
                "height": 20,
            },
            {
                "region_id": 3,
                "image_id": image_id,
                "phrase": "nothing",
                "x": 10,
                "y": 10,
                "width": -5,
                "height": 4,
            },
        ]
        regions.append({"id": image_id, "regions": own})
        thing = {
            "object_id": 50 + number,
            "x": 5,
            "y": 6,
            "w": 20,
            "h": 30,
            "names": ["cat", "animal"],
            "synsets": ["cat.n.01"],
        }
        objects.append(
            {
                "image_id": image_id,
                "image_url": url,
                "objects": [thing, {**thing, "object_id": 90 + number, "names": []}],
            }
        )
        attributes.append(
            {"image_id": image_id, "attributes": [{**thing, "attributes": ["old ", "old", "brown"]}]}
        )
    dump(root / "image_data.json", data)
    dump(root / "region_descriptions.json", regions)
    dump(root / "objects.json", objects)
    dump(root / "attributes.json", attributes)


def tar_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def web(root: Path, url: str = "https://example.org/{}.jpg") -> None:
    """Shards of img2dataset; a failed download, half an image, an empty caption, bytes that are no text."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(root / f"{shard:05}.tar", "w") as tar:
            for number in range(5):
                key = f"{shard:05}{number:04}"
                data = picture(root.parent / "one.jpg", 20 + 5 * shard + number).read_bytes()
                fields = {
                    "caption": text(number),
                    "url": url.format(4385058960 + number),
                    "key": key,
                    "status": "success",
                    "error_message": None,
                    "width": 80,
                    "height": 60,
                    "exif": "{}",
                    "sha256": "0",
                }
                caption = text(number).encode()
                if shard and number == 1:
                    fields |= {"status": "failed_to_download", "error_message": "HTTP Error 404"}
                    tar_member(tar, f"{key}.json", json.dumps(fields).encode())
                    continue
                if shard and number == 2:
                    data = data[: len(data) // 2]
                if shard and number == 3:
                    caption = b" "
                if shard and number == 4:
                    caption = b"a caf\xe9 table"
                tar_member(tar, f"{key}.jpg", data)
                tar_member(tar, f"{key}.txt", caption)
                tar_member(tar, f"{key}.json", json.dumps(fields).encode())


def sbu(root: Path) -> None:
    """Shards, with addresses of Flickr."""
    web(root, "http://static.flickr.com/2723/{}_b0f291553e.jpg")


def cc12m(root: Path) -> None:
    """The table as it is published, beside a folder of images; a third of the links are dead."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [f"https://example.org/{number}.jpg\t{text(number)}" for number in range(6)]
    (root / "cc12m.tsv").write_text("\n".join([*rows, "one column"]) + "\n")
    for number in (0, 2, 3, 5):
        picture(root / "images" / f"{number}_{number * 77}.jpg", number)


def objects365(root: Path) -> None:
    """Version 2: patches in the names; a crowd, a box past the edge."""
    images, annotations = [], []
    for number, patch in ((1, 0), (908726, 16), (3, 16)):
        name = f"objects365_v2_{number:08}.jpg"
        if number != 3:
            picture(root / f"train/patch{patch}" / name, number)
        images.append(
            {
                "id": number,
                "file_name": f"images/v2/patch{patch}/{name}",
                "width": 80,
                "height": 60,
                "license": 5,
                "url": "",
            }
        )
        one = {
            "id": 2 * number,
            "image_id": number,
            "category_id": 1,
            "bbox": [40.0, 30.0, 41.5, 29.0],
            "iscrowd": 0,
            "area": 1.0,
        }
        annotations += [one, {**one, "id": 2 * number + 1, "bbox": [1, 1, 70, 50], "iscrowd": 1}]
    categories = [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}]
    dump(
        root / "zhiyuan_objv2_train.json",
        {"images": images, "annotations": annotations, "categories": categories},
    )


def openimages(root: Path) -> None:
    """Fractions; a group, an image with groups alone, attributes, a narrative."""
    ids = ("0001eeaf4aed83f9", "00075905539074f2", "0a0b0c0d0e0f0001")
    for number, image_id in enumerate(ids):
        picture(root / "train" / f"{image_id}.jpg", 30 + number)
    (root / "class-descriptions-boxable.csv").write_text('/m/0cgh4,Building\n/m/04bcr3,"Table"\n')
    (root / "oidv6-attributes-description.csv").write_text("id,name\n/m/083vt,(made of)Wood\n")
    head = [
        "ImageID",
        "Source",
        "LabelName",
        "Confidence",
        "XMin",
        "XMax",
        "YMin",
        "YMax",
        "IsOccluded",
        "IsTruncated",
        "IsGroupOf",
        "IsDepiction",
        "IsInside",
    ]
    rows = [
        [ids[0], "xclick", "/m/0cgh4", 1, 0.1, 0.6, 0.2, 0.9, 0, 1, 0, 0, 0],
        [ids[0], "xclick", "/m/04bcr3", 1, 0.5, 1.0, 0.5, 1.0, 0, 0, 0, 0, 0],
        [ids[0], "xclick", "/m/04bcr3", 1, 0.0, 1.0, 0.0, 1.0, 0, 0, 1, 0, 0],
        [ids[1], "xclick", "/m/0cgh4", 1, 0.0, 1.0, 0.0, 1.0, 0, 0, 1, 0, 0],
    ]
    with (root / "oidv6-train-annotations-bbox.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    names = [
        "ImageID",
        "LabelName1",
        "LabelName2",
        "XMin1",
        "XMax1",
        "YMin1",
        "YMax1",
        "XMin2",
        "XMax2",
        "YMin2",
        "YMax2",
        "RelationshipLabel",
    ]
    row = [ids[0], "/m/04bcr3", "/m/083vt", 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, "is"]
    with (root / "oidv6-train-annotations-vrd.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, row])
    one = {"dataset_id": "open_images_train", "annotator_id": 1, "timed_caption": [], "traces": []}
    narratives = [
        {**one, "image_id": ids[0], "caption": "In this image there is a building."},
        {**one, "image_id": ids[2], "caption": "A table."},
    ]
    write_lines(root / "open_images_train_v6_localized_narratives-00000-of-00010.jsonl", narratives)


def flickr_photos(root: Path, ids: Sequence[int]) -> None:
    """The folder of photos."""
    for number, photo_id in enumerate(ids):
        picture(root / "flickr30k-images" / f"{photo_id}.jpg", 40 + number)


def flickr30k(root: Path) -> None:
    """Karpathy's file."""
    flickr_photos(root, (1000092795, 36979, 10002456))
    images = [
        {
            "filename": f"{photo_id}.jpg",
            "imgid": number,
            "split": split,
            "sentids": [],
            "sentences": [{"raw": f"{text(number + one)} ."} for one in range(5)],
        }
        for number, (photo_id, split) in enumerate(
            ((1000092795, "train"), (36979, "train"), (10002456, "val"))
        )
    ]
    dump(root / "dataset_flickr30k.json", {"dataset": "flickr30k", "images": images})


def flickr30k_entities(root: Path) -> None:
    """An entity with two boxes, one without, one that is the scene; a file of annotations that is damaged."""
    flickr_photos(root, (36979, 65567))
    (root / "Sentences").mkdir()
    (root / "Annotations").mkdir()
    (root / "train.txt").write_text("36979\n65567\n")
    lines = (
        "[/EN#1/people Two dogs] sit in [/EN#2/scene a green park] .\n"
        "[/EN#1/people The dogs] look at [/EN#0/notvisual it] near [/EN#3/bodyparts/other a hand] .\n"
    )
    (root / "Sentences/36979.txt").write_text(lines)
    (root / "Sentences/65567.txt").write_text(lines)
    boxes = "".join(
        f"<object><name>1</name><bndbox><xmin>{x}</xmin><ymin>4</ymin><xmax>{x + 30}</xmax>"
        "<ymax>50</ymax></bndbox></object>"
        for x in (3, 44)
    )
    scene = "<object><name>2</name><scene>1</scene><nobndbox>0</nobndbox></object>"
    size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
    whole = f"<annotation><filename>36979.jpg</filename>{size}{boxes}{scene}</annotation>"
    (root / "Annotations/36979.xml").write_text(whole)
    (root / "Annotations/65567.xml").write_text(whole[:80])


def refs(folder: str, split_by: str) -> Callable[[Path], None]:
    """A release of the RefCOCO family."""

    def write(root: Path) -> None:
        (root / folder).mkdir(parents=True)
        import pickle

        (root / folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refcoco_data.refs(), protocol=0))
        dump(root / folder / "instances.json", refcoco_data.instances())
        for name in refcoco_data.IMAGES.values():
            path = root / "images/train2014" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            photo(*refcoco_data.SIZE, 3).save(path)

    return write


def grefcoco(root: Path) -> None:
    """Phrases with one box, two, and none."""
    refs("grefcoco", "unc")(root)
    (root / "grefcoco/refs(unc).p").unlink()
    one = {
        "ref_id": 1,
        "image_id": 58,
        "split": "train",
        "file_name": "",
        "category_id": [18],
        "sent_ids": [1],
    }
    found = [
        {
            **one,
            "ann_id": [581],
            "no_target": False,
            "sentences": [{"sent": "red dog", "raw": "", "sent_id": 1}],
        },
        {
            **one,
            "ref_id": 2,
            "ann_id": [581, 582],
            "no_target": False,
            "sentences": [{"sent": "both", "raw": "", "sent_id": 2}],
        },
        {
            **one,
            "ref_id": 3,
            "ann_id": [-1],
            "no_target": True,
            "sentences": [{"sent": "purple cow", "raw": "", "sent_id": 3}],
        },
    ]
    dump(root / "grefcoco/grefs(unc).json", found)


def vqa(root: Path) -> None:
    """Ids without zeros, files with; a question without answers."""
    questions, annotations = [], []
    for number, image_id in enumerate((9, 9, 25)):
        question_id = 1000 * image_id + number
        questions.append({"image_id": image_id, "question": f"What is {number}?", "question_id": question_id})
        answers = [
            {"answer": "dog" if one < 8 else "cat", "answer_confidence": "yes", "answer_id": one + 1}
            for one in range(10)
        ]
        annotations.append(
            {
                "question_id": question_id,
                "image_id": image_id,
                "answers": answers,
                "multiple_choice_answer": "dog",
                "question_type": "what is",
                "answer_type": "other",
            }
        )
        picture(root / f"train2014/COCO_train2014_{image_id:012}.jpg", image_id)
    questions.append({"image_id": 25, "question": "Is it?", "question_id": 7})
    dump(
        root / "v2_OpenEnded_mscoco_train2014_questions.json",
        {"questions": questions, "data_subtype": "train2014"},
    )
    dump(root / "v2_mscoco_train2014_annotations.json", {"annotations": annotations})


def nlvr2(root: Path) -> None:
    """Images in numbered folders; a pair without its second image."""
    lines = []
    for number in range(3):
        name = f"train-1017{number}-0"
        for side in (0, 1) if number < 2 else (0,):
            picture(root / f"images/train/{number + 5}" / f"{name}-img{side}.png", 50 + 2 * number + side)
        lines.append(
            {
                "identifier": f"{name}-1",
                "directory": number + 5,
                "label": ("True", "False")[number % 2],
                "sentence": text(number),
                "synset": "dog",
                "query": "dog0",
                "left_url": "",
                "right_url": "",
                "writer": 1,
                "validation": {},
            }
        )
    write_lines(root / "train.json", lines)


def snli_ve(root: Path) -> None:
    """Hypotheses about two photos, one of which is not labelled."""
    flickr_photos(root, (36979, 65567))
    labels = ("entailment", "neutral", "contradiction", "entailment", "-")
    lines = [
        {
            "annotator_labels": [label],
            "captionID": f"{photo_id}.jpg#0",
            "gold_label": label,
            "pairID": f"{photo_id}.jpg#0r{number}",
            "sentence1": text(0),
            "sentence2": text(number),
            "Flickr30K_ID": str(photo_id),
        }
        for photo_id in (36979, 65567)
        for number, label in enumerate(labels)
    ]
    write_lines(root / "snli_ve_train.jsonl", lines)


def nocaps(root: Path) -> None:
    """Two images, one of which has no caption."""
    images = []
    for number, name in enumerate(("0013ea2087020901", "0029cb8b24d1ec2a")):
        picture(root / "images" / f"{name}.jpg", 60 + number)
        images.append(
            {
                "id": number,
                "file_name": f"{name}.jpg",
                "open_images_id": name,
                "domain": "near-domain",
                "width": 80,
                "height": 60,
                "coco_url": "",
                "license": 0,
                "date_captured": "",
            }
        )
    annotations = [{"id": one, "image_id": 0, "caption": text(one)} for one in range(10)]
    dump(
        root / "nocaps_val_4500_captions.json",
        {"images": images, "annotations": annotations, "licenses": [], "info": {}},
    )


def vlue(root: Path) -> None:
    """Files of the repository, with images of MaRVL, whose folders are not ASCII."""
    names = ("ta/images/73-கரிக்கோல்/73-1.jpg", "sw/images/6-Ng'ombe/6-1.jpg")
    for number, name in enumerate(names):
        picture(root / "images" / name, 70 + number)
    captions = [{"image": name, "caption": [text(one) for one in range(5)]} for name in names]
    dump(root / "data/itr_vlue_test.json", captions)
    pairs = [{"sentence": text(0), "images": list(names), "label": "True"}]
    dump(root / "data/nlvr2_vlue_test.json", pairs)
    questions = [{"question_id": 1, "question": "Is it red?", "image": names[0], "answer": "yes"}]
    dump(root / "data/vqa_vlue_test.json", questions)


def finehard(root: Path) -> None:
    """Regions with scores and perturbed texts; a box in pixels, an image that was not downloaded."""
    rows = []
    for number in range(3):
        name = f"coyo_image_1/00010/{number}.jpg"
        if number != 2:
            picture(root / "grit-12m" / name, 80 + number)
        info = {
            "bbox": [0.1, 0.2, 0.6, 0.9, 0.83],
            "short_expr": "red dog",
            "long_expr": "a red dog that sits",
        }
        info |= {"flag_short_neg": 1, "short_expr_negs": {"0": "blue dog"}}  # type: ignore[dict-item]
        row = {
            "f_path": f"grit-20m/data-12m/{name}",
            "caption": text(number) * 3,
            "short_caption": text(number),
        }
        rows.append({**row, "bbox_info": [info]})
    wrong = {**rows[0], "bbox_info": [{**info, "bbox": [8, 12, 48, 54, 0.9]}]}
    dump(root / "jsonfiles/2024-12-06_18-32-53_results_10.json", [*rows, wrong])


RELEASES: dict[str, Callable[[Path], None]] = {
    "coco": coco,
    "visual_genome": visual_genome,
    "sbu": sbu,
    "cc3m": web,
    "cc12m": cc12m,
    "objects365": objects365,
    "openimages": openimages,
    "flickr30k": flickr30k,
    "flickr30k_entities": flickr30k_entities,
    "refcoco": refs("refcoco", "unc"),
    "refcoco_plus": refs("refcoco+", "unc"),
    "refcocog": refs("refcocog", "umd"),
    "grefcoco": grefcoco,
    "vqa": vqa,
    "nlvr2": nlvr2,
    "snli_ve": snli_ve,
    "nocaps": nocaps,
    "vlue": vlue,
    "finehard": finehard,
}
"""Writers of the releases; a new file in `prepare/datasets` is tested as soon as it has one."""
