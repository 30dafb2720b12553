"""Pictures of clips, masks, predictions and targets, drawn with numpy and Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from maskfeat_jax.typing import PyTree

_GREY = 128
_GAP = 4  # pixels between images of a panel
_LINE = 18  # pixels, height of a title line
_LABEL = 80  # pixels, width of the labels of rows
_ROW = 144  # pixels, height of a frame in a strip
_COLUMNS = 8  # most frames in a strip
_DRAWN = 224  # pixels, least height of a picture with words
_WRITTEN = 5  # classes
_BOXED = 448  # pixels, least height of a frame with boxes
_CLASSES = 320  # pixels, width of the classes next to it
_WIDE = 3  # pixels, line of a box
_PREDICTED = 3  # classes of a box
_LOOP_MS = 2000  # duration of an animation: that of 16 frames with stride 4 at 30 frames/s


def draw_hog(
    histograms: Float[np.ndarray, "rows cols channels bins"],
    cell: int = 8,
    scale: int = 2,
    *,
    signed: bool = False,
    peak: float | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws each cell's histogram as strokes that run along the edges of the image.

    A stroke is centred in its cell. Its brightness grows with the bin's value, its length with
    the square root, so that weak directions stay visible. Channels are averaged; negative or
    non-finite predictions count as zero.

    Args:
      histograms: bin k stands for gradients at (k + 1/2) * pi / bins from the vertical axis,
        phi = atan2(gx, gy); strokes are drawn at right angles to that.
      cell: side of a cell in pixels of the image.
      scale: pixels of the drawing per pixel of the image.
      signed: bins cover 2 pi instead of pi; opposite gradients are drawn as the same stroke.
      peak: value that is drawn as a full stroke; None for the largest of this picture.

    Returns:
      White strokes on black, (rows * cell * scale, cols * cell * scale, 3).

    Raises:
      ValueError: the histograms do not have four axes, or a size is not positive.
    """
    if histograms.ndim != 4 or cell < 1 or scale < 1:
        raise ValueError(
            f"histograms of shape {histograms.shape}, cell {cell}, scale {scale}: expected "
            "(rows, cols, channels, bins) and positive sizes"
        )
    rows, cols, _, bins = histograms.shape
    values = np.nan_to_num(np.asarray(histograms, np.float32), posinf=0.0, neginf=0.0)
    values = np.maximum(values.mean(axis=2), 0.0)
    largest = float(values.max(initial=0.0)) if peak is None else peak
    values = np.minimum(values / largest, 1.0) if largest > 0 else np.zeros_like(values)

    side = cell * scale
    half_width = max(side / 16, 0.5)
    centres = np.arange(side, dtype=np.float32) + 0.5 - side / 2
    down, right = np.meshgrid(centres, centres, indexing="ij")
    drawing = np.zeros((rows, cols, side, side), np.float32)
    for k in range(bins):
        phi = (k + 0.5) * (2 if signed else 1) * np.pi / bins
        # The gradient points to (cos phi down, sin phi right); the edge is perpendicular to it.
        along = np.abs(right * np.cos(phi) - down * np.sin(phi))
        across = np.abs(down * np.cos(phi) + right * np.sin(phi))
        value = values[:, :, k, None, None]
        # Coverage of a pixel by the stroke, to first order: this is what anti-aliases it.
        stroke = np.clip(half_width + 0.5 - across, 0, 1)
        length = np.clip(np.sqrt(value) * side / 2 - along, 0, 1)
        np.maximum(drawing, value * stroke * length, out=drawing)
    grey = rearrange(drawing, "rows cols y x -> (rows y) (cols x)")
    return np.repeat(_as_bytes(255 * grey)[:, :, None], 3, axis=2)


def tokens_to_cells(
    features: Float[np.ndarray, "grid_h grid_w d"],
    bins: int = 9,
    channels: int = 3,
    cells: tuple[int, int] = (2, 2),
) -> Float[np.ndarray, "rows cols channels bins"]:
    """Rearranges HOG targets: features of patches to histograms of cells.

    Args:
      features: feature ((c * bins + bin) * rows + y) * columns + x of a patch is the value of
        `bin` of channel `c` in the cell at row y, column x of the patch.
      bins: orientation bins per histogram.
      channels: histograms per cell.
      cells: rows and columns of cells in a patch.

    Returns:
      Histograms of (grid_h * rows, grid_w * columns) cells.

    Raises:
      ValueError: d is not channels * bins * rows * columns.
    """
    y, x = cells
    if features.ndim != 3 or features.shape[2] != channels * bins * y * x:
        raise ValueError(
            f"features of shape {features.shape}: expected (grid_h, grid_w, "
            f"{channels * bins * y * x}) for {channels} channels, {bins} bins, {y}x{x} cells"
        )
    pattern = "gh gw (c bin y x) -> (gh y) (gw x) c bin"
    return rearrange(features, pattern, c=channels, bin=bins, y=y, x=x)


def draw_classes(
    classes: Int[np.ndarray, "grid_h grid_w"],
    probabilities: Float[np.ndarray, "grid_h grid_w"],
    patch: tuple[int, int],
    names: Sequence[str] = (),
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws the class of each patch as a colour, the greyer the less probable.

    The classes of most patches are written in the middle of these.

    Args:
      classes: by patch.
      probabilities: likewise.
      patch: rows and columns of a patch in pixels of the image.
      names: by class; without them, numbers are written.
    """
    hues = classes * 0.618034 % 1  # neighbours in number differ most
    saturation = 255 * np.clip(np.nan_to_num(probabilities), 0, 1)
    hsv = np.stack([255 * hues, saturation, np.full(hues.shape, 200)], -1)
    height, width = (n * side for n, side in zip(classes.shape, patch, strict=True))
    scale = -(-_DRAWN // height)
    image = Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")
    image = image.resize((scale * width, scale * height), Image.Resampling.NEAREST)
    pencil, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    numbers, counts = np.unique(classes, return_counts=True)
    for number in numbers[np.argsort(-counts, kind="stable")][:_WRITTEN]:
        where = np.argwhere(classes == number)
        row, column = where[np.square(where - where.mean(0)).sum(1).argmin()]
        text = names[number] if names else str(number)
        y = scale * patch[0] * (row + 0.5)
        room = font.getlength(text) / 2 + 2
        x = min(max(scale * patch[1] * (column + 0.5), room), image.width - room)
        pencil.text((x, y), text, "white", font, "mm", stroke_width=1, stroke_fill="black")
    return np.array(image)


def to_uint8(
    image: Float[np.ndarray, "height width 3"], mean: object = 0.0, std: object = 1.0
) -> UInt8[np.ndarray, "height width 3"]:
    """Inverts (pixels / 255 - mean) / std; clips to 0..255, non-finite values too.

    Args:
      image: normalised pixels.
      mean: per channel, or one number; on the scale of pixels / 255.
      std: likewise.
    """
    return _as_bytes(255 * (np.asarray(image) * np.asarray(std) + np.asarray(mean)))


def hide(
    image: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "grid_h grid_w"],
    patch: tuple[int, int],
) -> UInt8[np.ndarray, "height width 3"]:
    """Paints masked patches grey.

    Args:
      image: RGB.
      mask: True = masked.
      patch: rows and columns of a patch in pixels.

    Raises:
      ValueError: image and mask do not have the same number of patches.
    """
    if image.shape[:2] != (mask.shape[0] * patch[0], mask.shape[1] * patch[1]):
        raise ValueError(
            f"image {image.shape[0]}x{image.shape[1]} is not {mask.shape[0]}x{mask.shape[1]} "
            f"patches of {patch[0]}x{patch[1]}"
        )
    hidden = mask.repeat(patch[0], axis=0).repeat(patch[1], axis=1)
    return np.where(hidden[:, :, None], np.uint8(_GREY), image)


def panel(
    rows: list[list[UInt8[np.ndarray, "_ _ 3"]]],
    titles: Sequence[str],
    height: int | None = None,
    labels: Sequence[str] = (),
) -> UInt8[np.ndarray, "height width 3"]:
    """Arranges images in a grid, one title above each column.

    Args:
      rows: images, as many per row as there are titles; sizes may differ.
      titles: one per column, wrapped to its width.
      height: of every image, in pixels; None for that of the largest. Enlarged without smoothing.
      labels: text to the left of each row; empty for none.

    Raises:
      ValueError: no images, a row with another number of images than titles, or another number of
        labels than rows.
    """
    if not rows or not titles or any(len(row) != len(titles) for row in rows):
        raise ValueError(
            f"rows of {[len(row) for row in rows]} images and {len(titles)} titles: expected at "
            "least one row, and one image per title in each"
        )
    if labels and len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows of images")
    height = height or max(image.shape[0] for row in rows for image in row)
    scaled = [[_to_height(image, height) for image in row] for row in rows]
    widths = [max(row[i].width for row in scaled) for i in range(len(titles))]
    font = ImageFont.load_default(size=13)
    lines = [_wrap(title, width, font) for title, width in zip(titles, widths, strict=True)]
    top = _GAP + _LINE * max(len(each) for each in lines)
    left = _GAP + (_LABEL + _GAP if labels else 0)
    size = (left + sum(widths) + _GAP * len(widths), top + (height + _GAP) * len(rows))
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for j, label in enumerate(labels):
        text = "\n".join(_wrap(label, _LABEL, font))
        draw.text((_GAP, top + j * (height + _GAP)), text, fill="black", font=font)
    for i, width in enumerate(widths):
        for j, line in enumerate(lines[i]):
            draw.text((left, _GAP // 2 + j * _LINE), line, fill="black", font=font)
        for j, row in enumerate(scaled):
            canvas.paste(row[i], (left, top + j * (height + _GAP)))
        left += width + _GAP
    return np.array(canvas)


def draw_features(
    video: UInt8[np.ndarray, "b t h w 3"],
    mask: Bool[np.ndarray, "b gt gh gw"],
    predicted: PyTree,
    targets: PyTree,
    tubelet: tuple[int, int, int],
    draw: Callable[[PyTree], np.ndarray],
) -> dict[str, UInt8[np.ndarray, "... 3"]]:
    """Input, masked input, predicted features and targets of clips.

    For each frame of tokens, its first frame of pixels is drawn. Predictions at visible tokens
    are not trained and mean nothing: their targets are drawn instead.

    Args:
      video: RGB.
      mask: True = masked.
      predicted: features of each token, arrays `(b, gt, gh, gw, d)`.
      targets: likewise.
      tubelet: frames, rows and columns of one token, pixels.
      draw: features of one frame of tokens, arrays `(gh, gw, d)`, to uint8 `(height, width, 3)`.

    Returns:
      `predictions`, `(height, width, 3)`: one row per image, four rows per video with time from
      left to right. For videos also `predictions_moving`, `(gt, height, width, 3)`: one row each.

    Raises:
      ValueError: the frames of the clips are not those of the tokens.
    """
    if video.shape[1] != mask.shape[1] * tubelet[0]:
        raise ValueError(
            f"clips of {video.shape[1]} frames are not {mask.shape[1]} tokens of {tubelet[0]}"
        )
    titles = ["input", "masked input", "predicted (visible: target)", "target"]
    firsts = video[:, :: tubelet[0]]
    shape = mask.shape[:2]
    masked = _each(shape, lambda frame, where: hide(frame, where, tubelet[1:]), firsts, mask)
    hidden = mask[..., None]
    shown = jax.tree.map(lambda ours, true: np.where(hidden, ours, true), predicted, targets)
    images = [  # [kind][clip][time]
        [*map(list, firsts)],
        masked,
        _each(shape, draw, shown),
        _each(shape, draw, targets),
    ]
    panels = [
        panel([[kind[i][t] for kind in images] for i in range(len(video))], titles, height=224)
        for t in range(mask.shape[1])
    ]
    if len(panels) == 1:
        return {"predictions": panels[0]}
    times = _evenly(mask.shape[1])
    rows = [[kind[i][t] for t in times] for i in range(len(video)) for kind in images]
    columns = [f"frame {t * tubelet[0]}" for t in times]
    strip = panel(rows, columns, _ROW, labels=titles * len(video))
    return {"predictions": strip, "predictions_moving": np.stack(panels)}


def stack(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "height width 3"]:
    """Images, enlarged to the width of the widest, one above the other."""
    width = max(image.shape[1] for image in images)
    heights = [round(image.shape[0] * width / image.shape[1]) for image in images]
    scaled = [np.asarray(_to_height(image, h)) for image, h in zip(images, heights, strict=True)]
    return np.concatenate([image[:, :width] for image in scaled])


def draw_titled(
    video: UInt8[np.ndarray, "b t h w 3"], titles: Sequence[str]
) -> dict[str, UInt8[np.ndarray, "... 3"]]:
    """Clips, each with a title.

    Returns:
      `predictions`, `(height, width, 3)`: images side by side, or one row per video with time from
      left to right. For videos also `predictions_moving`, `(t, height, width, 3)`: side by side.
    """
    panels = [panel([list(frames)], titles, height=224) for frames in video.swapaxes(0, 1)]
    if len(panels) == 1:
        return {"predictions": panels[0]}
    times = _evenly(len(panels))
    strip = panel(
        [list(clip[times]) for clip in video], [f"frame {t}" for t in times], _ROW, titles
    )
    return {"predictions": strip, "predictions_moving": np.stack(panels)}


def draw_boxes(
    video: UInt8[np.ndarray, "b t h w 3"],
    boxes: Float[np.ndarray, "b m 4"],
    valid: Bool[np.ndarray, "b m"],
    probabilities: Float[np.ndarray, "b m classes"],
    true: Bool[np.ndarray, "b m classes"],
    class_names: Sequence[str],
) -> dict[str, UInt8[np.ndarray, "... 3"]]:
    """The middle frames of clips with their boxes, and next to them the classes of each box.

    These are the three most probable classes and all true ones, the most probable first; true ones
    are green and have a plus.

    Args:
      video: RGB.
      boxes: left, top, right, bottom in pixels.
      valid: the others are padding.
      probabilities: of each class.
      true: the classes that a box has.
      class_names: by class.

    Returns:
      `predictions`, `(height, width, 3)`: one row per clip.
    """
    texts = [
        [_classes_of(*each, class_names) for each in zip(chances[ok], classes[ok], strict=True)]
        for chances, classes, ok in zip(probabilities, true, valid, strict=True)
    ]
    longest = max(sum(map(len, text)) + len(text) for text in texts)
    height = max(_BOXED, _LINE * longest + _GAP)
    frames = video[:, video.shape[1] // 2]
    rows = [
        [_boxed(frame, sides[ok], height), _written(text, height)]
        for frame, sides, ok, text in zip(frames, boxes, valid, texts, strict=True)
    ]
    titles = ["boxes of the middle frame", "their classes (+ true)"]
    return {"predictions": panel(rows, titles, height)}


def _classes_of(
    probabilities: Float[np.ndarray, " classes"],
    true: Bool[np.ndarray, " classes"],
    names: Sequence[str],
) -> list[tuple[str, str]]:
    """The lines of a box and their colours."""
    order = np.argsort(-probabilities, kind="stable")
    shown = [k for rank, k in enumerate(order) if rank < _PREDICTED or true[k]]
    signs, colours = (" ", "+"), ("black", "green")
    return [
        (f"{signs[int(true[k])]} {probabilities[k]:.0%} {names[k]}", colours[int(true[k])])
        for k in shown
    ]


def _boxed(
    frame: UInt8[np.ndarray, "h w 3"], boxes: Float[np.ndarray, "m 4"], height: int
) -> UInt8[np.ndarray, "height width 3"]:
    """An enlarged frame with numbered boxes."""
    image, scale = _to_height(frame, height), height / frame.shape[0]
    pencil, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    for i, sides in enumerate(scale * boxes):
        pencil.rectangle(sides.tolist(), outline=_colour(i), width=_WIDE)
    for i, (left, top, _, _) in enumerate(scale * boxes):
        text, place = f"{i + 1}", (left + _WIDE, top + _WIDE)
        _, _, right, bottom = pencil.textbbox(place, text, font)
        pencil.rectangle((left, top, right + _WIDE, bottom + _WIDE), fill=_colour(i))
        pencil.text(place, text, "white", font)
    return np.array(image)


def _written(
    boxes: Sequence[Sequence[tuple[str, str]]], height: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The lines of each box under its number."""
    image = Image.new("RGB", (_CLASSES, height), "white")
    pencil, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    y = 0
    for i, lines in enumerate(boxes):
        for text, colour in [(f"{i + 1}", _colour(i)), *lines]:
            pencil.text((_GAP, y), text, colour, font)
            y += _LINE
    return np.array(image)


def _colour(number: int) -> str:
    """A dark colour that differs from those of the next numbers."""
    return f"hsl({number * 222 % 360}, 90%, 40%)"


def encode(picture: UInt8[np.ndarray, "... 3"]) -> tuple[str, bytes]:
    """Encodes a picture as a file.

    Args:
      picture: `(height, width, 3)`, or `(frames, height, width, 3)` for an animation that repeats.

    Returns:
      The extension, `.png` or `.gif`, and the content.

    Raises:
      ValueError: the picture has another number of axes.
    """
    file = io.BytesIO()
    if picture.ndim == 3:
        Image.fromarray(picture).save(file, "PNG")
        return ".png", file.getvalue()
    if picture.ndim != 4:
        raise ValueError(
            f"picture of shape {picture.shape}: expected (height, width, 3) or "
            "(frames, height, width, 3)"
        )
    first, *others = (Image.fromarray(frame) for frame in picture)
    each = _LOOP_MS // len(picture)
    first.save(file, "GIF", save_all=True, append_images=others, duration=each, loop=0)
    return ".gif", file.getvalue()


def _each(
    shape: tuple[int, ...], draw: Callable[..., np.ndarray], *arrays: PyTree
) -> list[list[np.ndarray]]:
    """Draws each frame of each clip; `shape` is their numbers."""

    def of(i: int, t: int) -> np.ndarray:
        return draw(*jax.tree.map(lambda x: x[i, t], arrays))

    return [[of(i, t) for t in range(shape[1])] for i in range(shape[0])]


def _evenly(n: int) -> list[int]:
    """Evenly spaced indices from 0 to n - 1, at most as many as a strip has columns."""
    return np.linspace(0, n - 1, min(n, _COLUMNS)).round().astype(int).tolist()


def _to_height(image: UInt8[np.ndarray, "height width 3"], height: int) -> Image.Image:
    picture = Image.fromarray(image)
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    shrink = height < image.shape[0]
    resampling = Image.Resampling.LANCZOS if shrink else Image.Resampling.NEAREST
    return picture.resize((width, height), resampling)


def _wrap(title: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Breaks a title between words so that each line fits; a single long word may not."""
    lines = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _as_bytes(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    finite = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(finite), 0, 255).astype(np.uint8)
