"""A task outside the package, with a head of its own: how well does a text fit an image?"""

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from tests.tiny import tiny_config
from xvlm import distributed
from xvlm.batch import Images, TensorTree, Texts
from xvlm.common.ranges import PositiveInt
from xvlm.config import OptimConfig
from xvlm.data.images.decode import open_image
from xvlm.data.text.tokenizer import encode_caption
from xvlm.evaluation.common.measure import Measure
from xvlm.evaluation.common.reading import SampleReader
from xvlm.models.heads import MLPHead
from xvlm.models.text.encoder import TextConfig
from xvlm.models.xvlm import HeadSpec, ModelConfig
from xvlm.tasks.common.finetuning import (
    FinetuneData,
    FinetuneRun,
    ImageSample,
    finish_setup,
    prepare_finetuning,
)
from xvlm.tasks.common.init import InitConfig
from xvlm.tasks.common.loss_module import LossModule
from xvlm.tasks.common.sources import SourceConfig
from xvlm.tasks.common.task import Task

SOURCES = (SourceConfig("./my_source.py:train?size=6"),)


def tiny_model() -> ModelConfig:
    config = tiny_config("cnn", (64, 64), vocab_size=TextConfig.vocab_size)
    return replace(config, heads=("rating",))


@dataclass(frozen=True, kw_only=True)
class RatingSample(ImageSample):
    ids: list
    rating: float


@dataclass(frozen=True)
class RatingBatch(TensorTree):
    images: Images
    texts: Texts
    rating_B: torch.Tensor


@dataclass(frozen=True)
class RatingRun(FinetuneRun):
    """A run of the task.

    Attributes:
        scale: factor of the ratings.
    """

    task: str = "./my_task.py"
    model: ModelConfig = field(default_factory=tiny_model)
    init: InitConfig = field(default_factory=lambda: InitConfig(vocab_size=60))
    data: FinetuneData = field(default_factory=lambda: FinetuneData(SOURCES, batch_size=2))
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(steps=2, warmup_steps=1))
    workers: int = 0
    scale: PositiveInt = 1


class Rating(LossModule):
    def loss_weights(self):
        return {"rating": 1.0}

    def forward(self, batch):
        rating_B = rate(self.model, self.model.encode_images(batch.images), batch.texts)
        squared_B = (rating_B - batch.rating_B) ** 2
        return {"rating": distributed.global_mean(squared_B.sum(), len(squared_B))}


def rate(model, features, texts):
    """Return the rating (B,) in [0, 1] of B texts, each about one of B images."""
    index_B = torch.arange(len(texts), device=texts.ids_T.device)
    context, _ = model.encode_whole(features)
    cls_BD = model.fuse_cls(model.encode_texts(texts), index_B, context, index_B)
    return F.sigmoid(model.head("rating", MLPHead)(cls_BD)[:, 0])


def build(run, out):
    parts = prepare_finetuning(run, out)

    def build_sample(record, rng):
        image = open_image(record.image, key=record.key)
        pixels, (text,) = parts.transform(image, record.concepts[0].texts[:1], rng)
        ids = encode_caption(parts.tokenizer, text, run.data.max_words, run.data.max_tokens)
        return RatingSample(pixels=pixels, ids=ids, rating=run.scale * record.extra["rating"])

    def collate(streams):
        samples = streams["train"]
        return RatingBatch(
            Images(torch.stack([sample.pixels for sample in samples])),
            Texts.pack([sample.ids for sample in samples]),
            torch.tensor([sample.rating for sample in samples]),
        )

    return finish_setup(run, parts, build_sample, collate, Rating(parts.bundle.model))


def evaluate(predictor, source, limit: PositiveInt | None = None, skipped=None):
    """Compute the mean squared error of ratings.

    Args:
        limit: number of records; by default all.
    """
    reader = SampleReader(predictor, source, limit, skipped, "rating")
    errors = []
    for image in reader.images("ratings"):
        features = predictor.encode_images([image.pixels])
        for index, record in image.records:
            (text,) = record.concepts[0].texts
            with torch.no_grad():
                rating = rate(predictor.model, features, predictor.tokens([text])).item()
            errors.append((index, (rating - record.extra["rating"]) ** 2))
    errors = reader.gather(errors, "rated text")
    return {"rating_mse": sum(errors) / len(errors), "rated": float(len(errors))}, []


@torch.no_grad()
def predict(predictor, image: str, text: str, scale: PositiveInt = 1):
    """Rate how well a text fits an image.

    Args:
        image: path or URL of an image.
        text: the text.
        scale: factor of the rating.
    """
    photo = predictor.image(image)
    return scale * rate(predictor.model, photo.features, predictor.tokens([text])).item()


TASK = Task(
    RatingRun,
    build,
    Measure(evaluate, {"rating_mse": "mean squared error"}),
    heads={"rating": HeadSpec(lambda config, vision: MLPHead(config.text.width, 1))},
    predict=predict,
)
