"""Why reranking gains what it gains: how hard the false candidates are, and where attention lies.

Two charts are written.  `accuracy.svg`: how often contrastive scores, matching and phrases put the true
candidate above a false one, by the place of the false one in the contrastive list, on training images and
on images that were not trained on.  `attention.svg`: how often the maximum of matching's attention (Grad-CAM,
each layer), and the patch that is most similar to a phrase, lie within the phrase's box, and the share of the
image that the boxes cover.  `attention.jpg` shows some of the maps.  For example:

    python benchmarks/reranking_diagnosis.py --model runs/photos --train runs/photos/split300/train.jsonl
        --unseen photos/dev.jsonl --phrases photos/dev_grounding.json --root photos --out runs/diagnosis
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image
from torch import Tensor

from xvlm.data.sources.json import JsonSource
from xvlm.evaluation.common.reading import SampleReader
from xvlm.evaluation.grounding import Phrase, encode_phrases
from xvlm.evaluation.reranking_accuracy import PLACES, TERMS, accuracy_by_place
from xvlm.evaluation.retrieval import evaluate_retrieval
from xvlm.evaluation.weak_grounding import enlarge, is_maximum_inside
from xvlm.inference.model import InferenceModel
from xvlm.models.text.encoder import TextFeatures
from xvlm.models.text.grad_cam import grad_cam_maps
from xvlm.models.vision.encoder import ImageFeatures
from xvlm.reports import Bars, bars_svg, write_svg
from xvlm.reports.draw import BoxAnnotation, draw_boxes, overlay_heatmap
from xvlm.reports.pictures import load_picture

PICTURES, PICTURE_SIZE = 6, 220


@dataclass(frozen=True)
class Study:
    """What is evaluated.

    Attributes:
        model: model folder, or folder of a run.
        train, unseen: JSON lines with captions.
        phrases: phrases with a box each, of images that were not trained on.
        root: folder of the images.
        out: folder for the charts.
        limit: images, and phrases, of each file.
    """

    model: Path
    train: Path
    unseen: Path
    phrases: Path
    root: Path
    out: Path
    limit: int = 1000


def accuracy_chart(model: InferenceModel, study: Study) -> str:
    """Return the chart of the accuracies, mean of both directions, as SVG; and print them."""
    series: dict[str, list[float]] = {}
    for seen, lines in (("trained on", study.train), ("unseen", study.unseen)):
        source = JsonSource(lines, str(study.root))
        _, result = evaluate_retrieval(model, source, study.limit, matching_weight=1.0, phrase_weight=1.0)
        for term, label in TERMS.items():
            both = [accuracy_by_place(one, term) for one in result.scores]
            series[f"{label}, {seen}"] = [100 * sum(pair) / 2 for pair in zip(*both, strict=True)]
    groups = [f"false candidate at place {a}" + (f" to {b}" if b > a else "") for a, b in PLACES]
    print_series(groups, series)
    return bars_svg(Bars("True above false candidate (chance: 50 %)", groups, series, " %"))


def attention_chart(model: InferenceModel, study: Study) -> str:
    """Return the chart of where attention lies, as SVG; print it, and write some of the maps."""
    layers = range(len(model.model.fusion.layers))
    names = [*(f"attention, layer {layer}" for layer in layers), "most similar patch", "area of the box"]
    inside: dict[str, list[float]] = {name: [] for name in names}
    pictures: list[Image.Image] = []
    samples = SampleReader(model, JsonSource(study.phrases, str(study.root)), study.limit, None, "matching")
    for batch, features, texts, image_N in encode_phrases(samples, 16):
        maps = phrase_maps(model, features, texts, image_N, list(layers))
        for row, (query, index) in enumerate(zip(batch.queries, batch.image_index, strict=True)):
            file, phrase = batch.images[index].file, query.content
            for name, map_Nhw in zip(names[:-1], maps, strict=True):
                heatmap = enlarge(map_Nhw[row], file.height, file.width)
                inside[name].append(float(is_maximum_inside(heatmap, phrase.box_xyxy)))
            x0, y0, x1, y1 = phrase.box_xyxy
            inside[names[-1]].append((x1 - x0) * (y1 - y0) / (file.width * file.height))
            if len(pictures) < PICTURES and row == 0:
                picture = load_picture(query.record.image)
                pictures.append(picture_of_maps(picture, phrase, [map_Nhw[row] for map_Nhw in maps]))
    write_sheet(pictures, study.out / "attention.jpg")
    series = {name: [100 * sum(values) / len(values)] for name, values in inside.items()}
    print_series(["within the box"], series)
    return bars_svg(Bars("Maximum within the phrase's box", ["share of phrases"], series, " %"))


def phrase_maps(
    model: InferenceModel, features: ImageFeatures, texts: TextFeatures, image_N: Tensor, layers: list[int]
) -> list[Tensor]:
    """Return the (N, h, w) maps of N phrases: Grad-CAM of each layer, and the similarity to each patch."""
    concepts, _ = model.model.encode_whole(features)
    maps = grad_cam_maps(model.model, texts, torch.arange(len(image_N)), concepts, image_N, layers)
    head = model.model.contrastive
    patch_BPE = head.embed_concepts(concepts.patches_SPD)
    phrase_NE = head.embed_texts(texts.cls_ND)
    similarity_NP = torch.einsum("npe,ne->np", patch_BPE[image_N].float(), phrase_NE.float())
    return [*(one.float() for one in maps), similarity_NP.unflatten(1, features.grid_hw).detach()]


def picture_of_maps(picture: Image.Image, phrase: Phrase, maps_hw: list[Tensor]) -> Image.Image:
    """Return a row of pictures: the image with the phrase's box, then each map over it."""
    boxed = draw_boxes(picture, [BoxAnnotation(phrase.box_xyxy, phrase.text)])
    tiles = [boxed, *(overlay_heatmap(picture, map_hw.tolist()) for map_hw in maps_hw)]
    row = Image.new("RGB", (PICTURE_SIZE * len(tiles), PICTURE_SIZE), "white")
    for column, tile in enumerate(tiles):
        tile.thumbnail((PICTURE_SIZE - 6, PICTURE_SIZE - 6))
        row.paste(tile, (column * PICTURE_SIZE, 0))
    return row


def write_sheet(rows: list[Image.Image], path: Path) -> None:
    """Write rows of equal size below each other."""
    sheet = Image.new("RGB", (rows[0].width, rows[0].height * len(rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, number * row.height))
    sheet.save(path, quality=90)


def print_series(groups: list[str], series: dict[str, list[float]]) -> None:
    """Print a table in Markdown: a row for each name, a column for each group."""
    print(f"| | {' | '.join(groups)} |\n|---{'|---' * len(groups)}|")
    for name, values in series.items():
        print(f"| {name} | {' | '.join(f'{value:.1f} %' for value in values)} |")


def main(study: Study) -> None:
    """Print the tables, and write the charts."""
    study.out.mkdir(parents=True, exist_ok=True)
    model = InferenceModel.load(study.model)
    write_svg(study.out / "attention.svg", attention_chart(model, study))
    write_svg(study.out / "accuracy.svg", accuracy_chart(model, study))


if __name__ == "__main__":
    main(tyro.cli(Study, description=__doc__))
