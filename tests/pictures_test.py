from __future__ import annotations

import io
import time

import einops
import numpy as np
import pytest
from PIL import Image

from maskfeat_jax import pictures

RNG = np.random.default_rng(0)


def long_axis(image: np.ndarray) -> float:
    """Angle between the row axis and the main axis of a drawing, in degrees, [0, 180)."""
    ink = image[..., 0].astype(np.float64)
    y, x = (
        axis - (size - 1) / 2 for axis, size in zip(np.indices(ink.shape), ink.shape, strict=True)
    )
    moments = np.array([[(ink * y * y).sum(), (ink * y * x).sum()], [0, (ink * x * x).sum()]])
    _, vectors = np.linalg.eigh(moments, UPLO="U")
    return float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])) % 180)


@pytest.mark.parametrize("k", range(9))
def test_strokes_are_perpendicular_to_the_gradient(k):
    histograms = np.zeros((1, 1, 3, 9), np.float32)
    histograms[..., k] = 1
    drawn = pictures.draw_hog(histograms, cell=8, scale=8)
    direction = ((k + 0.5) * 20 + 90) % 180
    assert abs((long_axis(drawn) - direction + 90) % 180 - 90) < 1


def test_strokes_of_all_directions_have_one_length():
    strokes = np.zeros((1, 9, 1, 9), np.float32)
    strokes[0, range(9), 0, range(9)] = 1
    drawn = pictures.draw_hog(strokes, cell=8, scale=8)[..., 0].astype(np.float32)
    ink = einops.reduce(drawn, "y (cell x) -> cell", "sum", cell=9)
    np.testing.assert_allclose(ink, ink.mean(), rtol=0.05)


def test_signed_bins_cover_the_whole_circle():
    histograms = np.zeros((1, 1, 1, 8), np.float32)
    histograms[..., 1] = 1
    drawn = pictures.draw_hog(histograms, cell=8, scale=8, signed=True)
    assert abs(long_axis(drawn) - (67.5 + 90)) < 1
    histograms = np.roll(histograms, 4, axis=-1)
    np.testing.assert_array_equal(
        drawn, pictures.draw_hog(histograms, cell=8, scale=8, signed=True)
    )


def test_strokes_are_centred_and_grow_with_the_value():
    histograms = np.zeros((2, 3, 3, 9), np.float32)
    histograms[0, 1, :, 4] = 1
    histograms[1, 2, :, 4] = 0.25
    drawn = pictures.draw_hog(histograms, cell=8, scale=2)[..., 0]
    cells = einops.rearrange(drawn, "(r y) (c x) -> r c y x", r=2, c=3)
    assert not cells[0, 0].any()
    for strong in (cells[0, 1], cells[1, 2]):
        np.testing.assert_array_equal(strong, strong[::-1, ::-1])
    assert (cells[1, 2] > 0).sum() < (cells[0, 1] > 0).sum()
    assert cells[1, 2].max() < cells[0, 1].max()


def test_zero_and_non_finite_values_are_drawn_black():
    assert not pictures.draw_hog(np.zeros((2, 3, 3, 9), np.float32)).any()
    histograms = np.full((2, 3, 3, 9), np.nan, np.float32)
    histograms[0] = -1
    histograms[1, 0] = np.inf
    assert not pictures.draw_hog(histograms).any()


def test_peak_makes_two_pictures_comparable():
    weak = np.full((1, 1, 3, 9), 0.1, np.float32)
    own = pictures.draw_hog(weak)
    shared = pictures.draw_hog(weak, peak=1.0)
    assert shared.max() < own.max()


def test_drawing_an_image_takes_a_fifth_of_a_second_at_most():
    histograms = RNG.random((28, 28, 3, 9), np.float32)
    pictures.draw_hog(histograms)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        pictures.draw_hog(histograms)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def test_tokens_to_cells_undoes_the_layout_of_the_target():
    gh, gw, channels, bins, u, v = 2, 3, 3, 5, 2, 1
    cells = RNG.random((gh * u, gw * v, channels, bins), np.float32)
    features = np.empty((gh, gw, channels * bins * u * v), np.float32)
    for index in np.ndindex(gh, gw, channels, bins, u, v):
        ty, tx, c, k, y, x = index
        features[ty, tx, ((c * bins + k) * u + y) * v + x] = cells[ty * u + y, tx * v + x, c, k]
    found = pictures.tokens_to_cells(features, bins, channels, (u, v))
    np.testing.assert_array_equal(found, cells)
    with pytest.raises(ValueError, match=r"expected \(grid_h, grid_w, 108\)"):
        pictures.tokens_to_cells(features)


def test_to_uint8_undoes_the_normalisation_and_clips():
    pixels = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_array_equal(pictures.to_uint8((pixels / 255 - mean) / std, mean, std), pixels)
    extremes = np.array([[[-0.5, 1.5, np.nan]]])
    np.testing.assert_array_equal(pictures.to_uint8(extremes), [[[0, 255, 0]]])


def test_hide_greys_masked_patches_only():
    image = RNG.integers(0, 100, (8, 15, 3)).astype(np.uint8)
    mask = np.array([[True, False, False], [False, False, True]])
    hidden = pictures.hide(image, mask, (4, 5))
    assert (hidden[:4, :5] == 128).all()
    assert (hidden[4:, 10:] == 128).all()
    np.testing.assert_array_equal(hidden[:4, 5:], image[:4, 5:])
    np.testing.assert_array_equal(hidden[4:, :10], image[4:, :10])
    with pytest.raises(ValueError, match="8x15 is not 2x3 patches of 4x4"):
        pictures.hide(image, mask, (4, 4))


def test_panel_scales_to_one_height_and_keeps_every_image():
    red = np.full((20, 10, 3), (255, 0, 0), np.uint8)
    green = np.full((40, 60, 3), (0, 255, 0), np.uint8)
    grid = pictures.panel([[red, green], [red, green]], ["red", "green"])
    height, width, _ = grid.shape
    assert width == 20 + 60 + 3 * 4
    assert height > 2 * 40
    assert (grid == (255, 0, 0)).all(axis=-1).sum() == 2 * 40 * 20
    assert (grid == (0, 255, 0)).all(axis=-1).sum() == 2 * 40 * 60
    title = grid[: height - 2 * 44]
    assert (title.sum(axis=-1) < 200).any()
    with pytest.raises(ValueError, match=r"rows of \[2, 1\] images and 2 titles"):
        pictures.panel([[red, green], [red]], ["a", "b"])


def test_panel_wraps_long_titles():
    image = np.zeros((30, 80, 3), np.uint8)
    one = pictures.panel([[image]], ["target"])
    two = pictures.panel([[image]], ["targets of the masked patches"])
    assert two.shape[0] > one.shape[0]
    assert two.shape[1] == one.shape[1]


def test_panel_labels_rows():
    image = np.zeros((40, 30, 3), np.uint8)
    plain = pictures.panel([[image]] * 2, ["a"])
    labelled = pictures.panel([[image]] * 2, ["a"], labels=["first", "second row of two"])
    assert labelled.shape[0] == plain.shape[0]
    added = labelled.shape[1] - plain.shape[1]
    np.testing.assert_array_equal(labelled[:, added:], plain)
    rows = [labelled[18:62, :added], labelled[66:, :added]]
    assert all((row < 128).any() for row in rows)
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        pictures.panel([[image]] * 2, ["a"], labels=["first"])


def colour_of(features):
    """Draws each token as one pixel, red where the features are 0, green where they are 1."""
    on = features[..., 0] > 0
    return np.stack([255 * ~on, 255 * on, 0 * on], -1).astype(np.uint8).repeat(4, 0).repeat(4, 1)


def features_of(frames, tubelet):
    """Two clips of frames of one grey each; features should be 1, and 0 is predicted."""
    greys = 10 * np.arange(2 * frames).reshape(2, frames)
    video = np.broadcast_to(greys[..., None, None, None], (2, frames, 8, 12, 3)).astype(np.uint8)
    mask = np.zeros((2, frames // tubelet, 2, 3), bool)
    mask[0, -1, 1, 2] = True
    ones = np.ones((*mask.shape, 5), np.float32)
    return pictures.draw_features(video, mask, 0 * ones, ones, (tubelet, 4, 4), colour_of)


def area(picture, colour):
    return (picture == np.array(colour)).all(-1).sum()


def test_features_of_images_are_one_panel():
    drawn = features_of(1, 1)
    assert set(drawn) == {"predictions"}
    picture = drawn["predictions"]
    whole = 224 * 336
    # Predicted where masked, the target everywhere else.
    assert area(picture, (255, 0, 0)) == whole // 6
    assert area(picture, (0, 255, 0)) == 4 * whole - whole // 6
    assert 0 <= area(picture, (128, 128, 128)) - whole // 6 < 50  # the rest is text


def test_features_of_videos_are_a_strip_and_an_animation():
    drawn = features_of(6, 2)
    assert set(drawn) == {"predictions", "predictions_moving"}
    strip, moving = drawn["predictions"], drawn["predictions_moving"]
    whole = 144 * 216
    assert area(strip, (255, 0, 0)) == whole // 6
    assert area(strip, (0, 255, 0)) == 12 * whole - whole // 6
    assert 0 <= area(strip, (128, 128, 128)) - whole // 6 < 50  # the rest is text
    for grey in (20, 40, 60, 80, 100):  # the first frame of each tubelet, as input and masked
        assert area(strip, (grey,) * 3) >= whole
    for hidden in (10, 30, 50, 70, 90):
        assert area(strip, (hidden,) * 3) < 50
    assert len(moving) == 3
    whole = 224 * 336
    for t, frame in enumerate(moving):
        assert 0 <= area(frame, (60 + 20 * t,) * 3) - 2 * whole < 50
        assert 0 <= area(frame, (128, 128, 128)) - (whole // 6 if t == 2 else 0) < 50
    with pytest.raises(ValueError, match="clips of 6 frames are not 3 tokens of 1"):
        pictures.draw_features(
            np.zeros((1, 6, 8, 12, 3), np.uint8),
            np.zeros((1, 3, 2, 3), bool),
            *np.zeros((2, 1, 3, 2, 3, 5), np.float32),
            (1, 4, 4),
            colour_of,
        )


def test_strips_leave_frames_out_evenly():
    drawn = features_of(40, 2)
    assert drawn["predictions"].shape[1] == features_of(16, 2)["predictions"].shape[1]
    assert len(drawn["predictions_moving"]) == 20


def test_titled_clips():
    video = RNG.integers(0, 256, (3, 4, 8, 12, 3)).astype(np.uint8)
    titles = ["one", "two", "three"]
    image = pictures.draw_titled(video[:, :1], titles)
    assert set(image) == {"predictions"}
    drawn = pictures.draw_titled(video, titles)
    assert drawn["predictions_moving"].shape == (4, *image["predictions"].shape)
    np.testing.assert_array_equal(drawn["predictions_moving"][0], image["predictions"])
    height, width, _ = drawn["predictions"].shape
    assert height > 3 * 144
    assert width > 4 * 216


def test_boxes_and_their_classes():
    video = np.zeros((2, 4, 28, 42, 3), np.uint8)
    video[:] = 200, 100, 200
    video[:, 2] = 255  # the middle one
    boxes = np.array([[[0, 0, 14, 14], [14, 7, 41, 27]], [[7, 7, 21, 21], [0, 0, 0, 0]]])
    valid = np.array([[True, True], [True, False]])
    probabilities = np.tile([0.9, 0.5, 0.3, 0.1, 0.02], (2, 2, 1))
    true = np.zeros((2, 2, 5), bool)

    def draw(true, valid=valid):
        names = ["sit", "stand", "walk", "run", "swim"]
        arguments = boxes.astype(float), valid, probabilities, true, names
        return pictures.draw_boxes(video, *arguments)["predictions"]

    drawn = draw(true)
    assert area(drawn, (200, 100, 200)) == 0
    rows = [drawn[22 : 22 + 448], drawn[22 + 452 : 22 + 900]]
    assert sum(map(len, rows)) == 896
    first, second = ((194, 10, 10), (10, 65, 194))  # of boxes
    words = 4 + 672 + 4
    assert [area(row[:, :words], first) > 3 * 4 * 200 for row in rows] == [True, True]
    assert [area(row[:, :words], second) > 3 * 4 * 300 for row in rows] == [True, False]
    # Line 3 of the left side of the second box, which is 16 times as large as in the clip.
    assert (rows[0][250, 4 + 14 * 16 : 4 + 14 * 16 + 3] == second).all()
    green = (0, 128, 0)
    assert area(drawn, green) == 0
    true[1, 0, 1] = True
    likely = draw(true)
    assert area(likely, green) > 10
    assert area(likely[: 22 + 450], green) == 0
    true[1, 0, 4] = True  # not one of the three, so it is one more line
    more = draw(true)
    assert area(more, green) > area(likely, green)
    assert area(more, (0, 0, 0)) == area(likely, (0, 0, 0))


def test_a_frame_grows_with_the_classes_of_its_boxes():
    boxes = np.tile([0.0, 0, 8, 8], (1, 20, 1))
    valid, chances = np.ones((1, 20), bool), np.ones((1, 20, 3))
    arguments = boxes, valid, chances, chances > 2, ["a", "b", "c"]
    drawn = pictures.draw_boxes(np.zeros((1, 2, 8, 8, 3), np.uint8), *arguments)["predictions"]
    assert drawn.shape[0] > 20 * 4 * 18
    assert (drawn[-40:, -320:] < 200).any()  # the last box is there


def test_files_hold_what_was_drawn():
    picture = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    extension, content = pictures.encode(picture)
    assert extension == ".png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), picture)
    moving = np.stack([np.full((20, 30, 3), colour, np.uint8) for colour in (0, 90, 255)])
    moving[1, :10] = (250, 10, 40)
    extension, content = pictures.encode(moving)
    assert extension == ".gif"
    with Image.open(io.BytesIO(content)) as file:
        assert (file.n_frames, file.info["loop"]) == (3, 0)
        for t in range(3):
            file.seek(t)
            assert file.info["duration"] == 660
            stored = np.asarray(file.convert("RGB")).astype(int)
            assert np.abs(stored - moving[t]).max() <= 4  # 256 colours
    with pytest.raises(ValueError, match=r"shape \(4, 3\): expected"):
        pictures.encode(np.zeros((4, 3), np.uint8))
