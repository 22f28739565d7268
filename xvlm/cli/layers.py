"""`xvlm layers`: weak grounding by each cross-modal layer."""

from __future__ import annotations

from pathlib import Path

from xvlm.cli.common.options import Flag
from xvlm.common.ranges import FiniteFloat, PositiveInt


def command(
    model: Path,
    data: str,
    out: Path,
    image_root: str | None = None,
    detections: Path | None = None,
    powers: tuple[FiniteFloat, ...] = (0.5,),
    limit: PositiveInt | None = None,
    max_pixels: PositiveInt = 100_000_000,
    allow_remote: Flag = False,
) -> None:
    """Compare weak grounding by the attention of each cross-modal layer, in one pass.

    Args:
        model: model folder, run folder or hub repository.
        data: phrases with a box each, as for `xvlm eval weak_grounding`; a validation split.
        out: folder for layers.json.
        image_root: folder that image paths are relative to; by default that of the file.
        detections: file of candidate boxes; by default the boxes of the image's own phrases.
        powers: exponents of the area that a candidate's score is divided by; each is tried.
        limit: number of records; by default all.
        max_pixels: maximum width x height of an image.
        allow_remote: data files may name images by URL.
    """
    from xvlm import distributed
    from xvlm.common.json_file import write_json
    from xvlm.common.outputs import check_output_file, is_json_object
    from xvlm.data.files.limits import change_limits
    from xvlm.data.sources.open import open_source
    from xvlm.evaluation.layer_search import layers_json, layers_table, search_layers
    from xvlm.predict import Predictor

    change_limits(max_pixels=max_pixels, allow_remote=allow_remote)
    distributed.init()
    check_output_file(out / "layers.json", is_json_object, "JSON object")
    predictor, source = Predictor.load(model, distributed.device()), open_source(data, image_root)
    results = search_layers(predictor, source, limit, powers, detections)
    if distributed.is_main():
        write_json(out / "layers.json", layers_json(results))
        print(layers_table(results))
