"""Masked feature prediction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from maskfeat_jax import pictures, steps
from maskfeat_jax.augment import Normalise
from maskfeat_jax.masking import MASKERS, Masker
from maskfeat_jax.models import MODELS
from maskfeat_jax.ops.patches import Size3, token_grid
from maskfeat_jax.optim import Optimizer
from maskfeat_jax.sections import Reader, RecipeError, call, named, shorten
from maskfeat_jax.state import TrainState
from maskfeat_jax.steps import Batch, Metrics
from maskfeat_jax.targets import TARGETS, Inputs, LabelMaps, Sum, Target
from maskfeat_jax.tasks.base import (
    TRAINING_SECTIONS,
    Columns,
    Results,
    Task,
    encoder_of,
    head_name,
    normalise_and_augment,
)
from maskfeat_jax.typing import Array, PyTree

_CONSTANT = "constant/"
# Of a batch: a label map as Token Labeling makes them; the size does not change the targets.
MAP: Columns = {
    "map_logits": ((5, 18, 18), jnp.float16),
    "map_classes": ((5, 18, 18), jnp.int16),
    "box": ((4,), jnp.float32),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrain(Task):
    """Masked feature prediction: MaskFeat (arXiv:2112.09133) and masked autoencoders.

    Attributes:
      masker: draws the masks.
      target: computes the features to predict at masked tokens.
    """

    masker: Masker
    target: Target

    heads: ClassVar[tuple[str, ...]] = ("mae", "maskfeat")
    metric: ClassVar[str] = "loss"
    sections: ClassVar[tuple[str, ...]] = (*TRAINING_SECTIONS, "target", "mask")

    @classmethod
    def from_recipe(cls, reader: Reader, clip: Size3) -> Pretrain | None:
        """See `Task`."""
        encoder = grid = target = masker = model = pixels = None
        problems = reader.problems
        with problems.gather():
            encoder = encoder_of(reader)
            grid = call("view, eval_view and model.tubelet", encoder.grid, {}, clip=clip)
        with problems.gather():
            if encoder is not None:
                target = target_of(reader, "target", reader["target"], encoder.tubelet)
                if target.tubelet != encoder.tubelet:
                    raise RecipeError(
                        f"target: tubelet {target.tubelet} differs from {encoder.tubelet}, "
                        "that of the model"
                    )
            if grid is not None:
                where = "target, view and eval_view"
                call(where, shapes_of, {}, target=target, clip=clip)
        with problems.gather():
            masker = reader.choose("mask", MASKERS, Masker)
            if grid is not None:
                masker.check(grid)
        with problems.gather():
            if grid is not None and target is not None and masker is not None:
                model = cls._model(reader, encoder, target, masker, clip)
        with problems.gather():
            pixels = normalise_and_augment(reader)
        if problems or model is None or pixels is None or masker is None or target is None:
            return None
        given = {"model": model, "clip": clip, "seed": reader["seed"], **pixels}
        return cls(masker=masker, target=target, **given)

    @classmethod
    def _model(
        cls, reader: Reader, encoder: nn.Module, target: Target, masker: Masker, clip: Size3
    ) -> nn.Module:
        name = head_name(reader, cls.heads)
        given: dict[str, Any] = {"encoder": encoder, "dim": target.dim}
        if name == "mae":  # computes the visible tokens only, and shapes are static
            if not masker.exact:
                raise RecipeError(
                    f"mask: {type(masker).__name__} masks a varying number of tokens, but "
                    "head.name='mae' needs the same number in each clip; set mask.exact=True"
                )
            grid = encoder.grid(clip)
            given["visible"] = math.prod(grid) - masker.masked(grid)
        return reader.choose("head", MODELS, **given)

    @property
    def columns(self) -> Columns:
        """See `Task`."""
        return MAP if self.target.map_classes else {}

    @property
    def teacher(self) -> PyTree:
        """See `Task`."""
        return self.target.teacher

    @property
    def teacher_products(self) -> int:
        """See `Task`."""
        return self.target.teacher_products(self.clip)

    @property
    def grid(self) -> Size3:
        """Tokens along time, height and width of a clip."""
        return token_grid(self.clip, self.target.tubelet)

    def init(self, key: jax.Array) -> Any:
        """See `Task`."""
        clips, mask = np.zeros((1, *self.clip, 3), np.float32), np.zeros((1, *self.grid), bool)
        return self.model.init(key, clips, mask)["params"]

    def train_step(
        self, state: TrainState, batch: Batch, *, optimizer: Optimizer, accumulate: int = 1
    ) -> tuple[TrainState, Metrics]:
        """One update: mask tokens, predict their targets, apply the gradient."""
        augment_key, mask_key, drop_key = steps.step_keys(self.seed, state.step)
        clips = self.augment(augment_key, self.normalise(batch["video"]))
        flipped = self.augment.flipped(augment_key, len(clips))
        inputs = self._inputs(state, clips, batch, flipped)
        targets = jax.lax.stop_gradient(self.target(inputs))
        mask = self.masker(mask_key, len(clips), self.grid)  # True = masked
        counted = mask & batch["valid"][:, None, None, None]  # masked, in a readable clip
        total = jnp.maximum(counted.sum(), 1)  # in the whole batch

        def loss_of(
            params: Any, key: Array, clips: Array, targets: PyTree, mask: Array, counted: Array
        ):
            predicted = steps.forward(self.model, params, clips, mask, dropout=key)
            by_token = self.target.loss(predicted, targets)
            means = {name: jnp.sum(x * counted) / total for name, x in by_token.items()}
            return means.pop("loss"), means

        rows = (clips, targets, mask, counted)
        (loss, others), grads = steps.accumulated_gradient(
            loss_of, state.params, drop_key, rows, accumulate
        )
        return steps.update(state, loss, grads, optimizer, others)

    def eval_step(
        self, state: TrainState, batch: Batch, *, views: int = 1
    ) -> tuple[Metrics, Metrics]:
        """Sums over the masked tokens of the examples whose views are all valid.

        Masks depend on `seed` and the row in the batch only.

        Returns:
          `examples`; masked `tokens`; `loss` and the other values of the target's loss; under
          names with `constant/`, its statistics for the loss of the best constant. Nothing by
          example.
        """
        complete = batch["valid"].reshape(-1, views).all(1)
        clips = self.normalise(batch["video"])
        targets = self.target(self._inputs(state, clips, batch))
        mask = self.masker(jax.random.key(self.seed), len(clips), self.grid)
        predicted = steps.forward(self.model, state.evaluated, clips, mask)
        counted = mask & jnp.repeat(complete, views)[:, None, None, None]
        of_constant = self.target.loss.statistics(targets)
        by_token = {
            **self.target.loss(predicted, targets),
            **{f"{_CONSTANT}{name}": x for name, x in of_constant.items()},
        }
        weight = counted.astype(jnp.float32)
        sums = {
            name: jnp.tensordot(weight, x, weight.ndim, precision="highest")
            for name, x in by_token.items()
        }
        return {"examples": jnp.sum(complete), "tokens": jnp.sum(counted), **sums}, {}

    def results(self, sums: Mapping[str, Any], examples: Mapping[str, Any], source: Any) -> Results:
        """Means over the masked tokens, and those of the best constant prediction for them."""
        means = {name: x / sums["tokens"] for name, x in sums.items()}
        of_constant = self.target.loss.best_constant(
            {k.removeprefix(_CONSTANT): x for k, x in means.items() if k.startswith(_CONSTANT)}
        )
        found = {}
        for name, constant in of_constant.items():
            found[name] = float(means[name])
            found[f"{name}_of_best_constant"] = constant
        return Results(found)

    def show_step(self, state: TrainState, batch: Batch) -> dict[str, PyTree]:
        """Mask, predicted features and targets, restored for drawing."""
        clips = self.normalise(batch["video"])
        inputs = self._inputs(state, clips, batch)
        mask = self.masker(jax.random.key(self.seed), len(clips), self.grid)
        predicted = steps.forward(self.model, state.evaluated, clips, mask)
        return {
            "mask": mask,
            "predicted": self.target.restore(predicted, inputs, predicted=True),
            "targets": self.target.restore(self.target(inputs), inputs, predicted=False),
        }

    def draw(
        self, video: np.ndarray, outputs: Mapping[str, PyTree], class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Input, masked input, predicted features, targets."""
        mean, std = self.normalise.mean, self.normalise.std
        target = self.target.named(class_names)
        return pictures.draw_features(
            video,
            outputs["mask"],
            outputs["predicted"],
            outputs["targets"],
            self.target.tubelet,
            lambda features: target.draw(features, mean, std),
        )

    def check_labels(self, where: str, source: Any) -> None:
        """See `Task`: the data needs label maps if the target does."""
        maps, classes = getattr(source, "label_maps", None), self.target.map_classes
        if not classes:
            return
        if maps is None:
            raise RecipeError(
                f"{where}.label_maps: missing; set it to the folder of the label maps of its "
                "images, or target.file to a classifier"
            )
        if maps.classes != classes:
            raise RecipeError(
                f"{where}.map_classes={maps.classes} differs from target.classes={classes}"
            )

    def _inputs(
        self, state: TrainState, clips: Array, batch: Batch, flipped: Array | None = None
    ) -> Inputs:
        maps = None
        if self.target.map_classes and "box" in batch:
            flipped = jnp.zeros(len(clips), bool) if flipped is None else flipped
            maps = LabelMaps(batch["map_logits"], batch["map_classes"], batch["box"], flipped)
        return Inputs(clips, self.normalise, state.teacher, maps)


def target_of(reader: Reader, where: str, section: Any, tubelet: Size3) -> Target:
    """The target of a section, and of the sections of its parts if it is a sum."""
    if not isinstance(section, Mapping) or section.get("name") != "sum":
        return reader.choose(where, TARGETS, Target, section, tubelet=tubelet)
    _, rest = named(where, TARGETS, section)
    parts = rest.pop("parts", {})
    if not isinstance(parts, Mapping):
        raise RecipeError(f"{where}.parts={shorten(parts)}: expected sections by name")
    targets = {}
    for name, part in parts.items():
        part = {"name": name, **part} if isinstance(part, Mapping) else part
        targets[name] = target_of(reader, f"{where}.parts.{name}", part, tubelet)
    return reader.call(where, Sum, rest, name="sum", tubelet=tubelet, parts=targets)


def shapes_of(target: Target, clip: Size3) -> PyTree:
    """Shapes and dtypes of the targets of one clip.

    Raises:
      ValueError: the target does not fit the clip.
    """
    clips = jax.ShapeDtypeStruct((1, *clip, 3), np.float32)
    logits, classes, box = (np.zeros((1, *shape), dtype) for shape, dtype in MAP.values())
    maps = LabelMaps(logits, classes, box, np.zeros(1, bool))
    return jax.eval_shape(
        lambda *given: target(Inputs(given[0], Normalise(), *given[1:])),
        clips,
        target.teacher,
        maps,
    )
