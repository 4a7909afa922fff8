"""Laws of the pictures: pixels stay exact, files are counted to the byte, charts show what they are given."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from image_transformer.measures.files import png_bits_per_dim, webp_bits_per_dim
from image_transformer.show import charts, grids

Pixels = NDArray[np.uint8]
N, H, W = 7, 5, 3  # all different, so that no swapped axis survives
SCALE, GAP = 4, 2


def noise(n: int = N, channels: int = 3, height: int = H, width: int = W) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (n, channels, height, width), dtype=np.uint8)


def pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"))


def enlarged(image: Pixels) -> Pixels:
    """One image (c, h, w) as the RGB pixels (h, w, 3) that it must have in a picture."""
    rgb = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    return np.kron(rgb, np.ones((SCALE, SCALE, 1), np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, [f"a rather long label {i}" for i in range(N)]])
def test_grid_holds_the_exact_pixels_of_every_image(channels: int, labels: list[str] | None) -> None:
    images = noise(channels=channels)
    picture = pixels(grids.grid(images, columns=3, scale=SCALE, gap=GAP, labels=labels))
    line = grids.LINE if labels else 0
    assert picture.shape == (GAP + 3 * (H * SCALE + GAP + line), GAP + 3 * (W * SCALE + GAP), 3)
    for i, image in enumerate(images):
        top = GAP + i // 3 * (H * SCALE + GAP + line)
        left = GAP + i % 3 * (W * SCALE + GAP)
        assert np.array_equal(picture[top : top + H * SCALE, left : left + W * SCALE], enlarged(image))


@pytest.mark.parametrize("columns", [1, 4, 8, 16])
def test_grid_is_by_default_about_as_wide_as_a_page(columns: int) -> None:
    picture = grids.grid(noise(16, height=32, width=32), columns)
    assert abs(picture.width - grids.PAGE_WIDTH) <= columns * 32 / 2


def test_labelled_rows_hold_the_exact_pixels_of_every_image() -> None:
    first, second = noise(6)[:3], noise(6)[3:]
    headers = ["given", "samples", "samples"]
    picture = pixels(grids.labelled_rows([("one", first), ("another", second)], headers, scale=SCALE, gap=GAP))
    body = pixels(grids.grid(noise(6), columns=3, scale=SCALE, gap=GAP))
    assert np.array_equal(picture[-body.shape[0] :, -body.shape[1] :], body)
    assert (picture[: grids.LINE] < 128).any(), "headers are written above"
    assert (picture[grids.LINE :, : -body.shape[1]] < 128).any(), "labels are written at the left"


@pytest.mark.parametrize("shape", [(H, W), (N, 1, H, W), (N, 3, H, W)])
def test_masked_images_keep_the_known_and_show_nothing_of_the_rest(shape: tuple[int, ...]) -> None:
    images, others = noise(), 255 - noise()
    known = np.random.default_rng(1).random(shape) < 0.5
    everywhere = np.broadcast_to(known, images.shape)
    shown = grids.masked(images, known)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown[everywhere], images[everywhere])
    assert np.array_equal(shown[~everywhere], grids.masked(others, known)[~everywhere])


def test_bits_map_brightens_with_the_bits() -> None:
    bits = np.linspace(0, 20, N * H * W).reshape(N, H, W)
    picture = pixels(charts.bits_map(np.zeros((N, 1, H, W), np.uint8), bits, columns=N)).astype(int)
    gap = 4
    scale = round((picture.shape[1] - gap) / N - gap) // W
    middle = picture[gap + H * scale + scale // 2 : gap + 2 * H * scale : scale, gap + scale // 2 :: scale]
    steps = np.diff(middle[:, :W].sum(-1).reshape(-1))
    assert steps.min() >= 0 and steps.max() > 0
    assert (picture[gap : gap + H * scale, gap : gap + W * scale] == 0).all(), "the original is above its map"


def test_lines_of_one_kind_look_alike_and_no_two_lines_the_same() -> None:
    names = ["ours (tiny)", "ours, raster", "PixelCNN", "PixelCNN, our start", "PixelCNN++"]
    looks = charts._looks(names)
    assert looks["PixelCNN"]["color"] == looks["PixelCNN, our start"]["color"] != looks["PixelCNN++"]["color"]
    assert looks["PixelCNN"]["marker"] == looks["PixelCNN, our start"]["marker"] != looks["PixelCNN++"]["marker"]
    assert len({str(look) for look in looks.values()}) == len(names)
    assert [name for name in names if looks[name]["linewidth"] > 2] == names[:2]


def test_curve_draws_series_and_references() -> None:
    x = np.arange(1, 301) * 100
    falling = 3 + 5 / x**0.3
    series = {"training": (x, falling), "validation": (x[::50], falling[::50])}
    plain = pixels(charts.curve(series, "images", "bits/dim", smoothed=["training"]))
    with_line = pixels(charts.curve(series, "images", "bits/dim", {"WebP": 3.5}, smoothed=["training"]))
    colours = {"#{:02x}{:02x}{:02x}".format(*colour) for colour in np.unique(plain.reshape(-1, 3), axis=0)}
    assert {charts.PALETTE[0], charts.PALETTE[1]} <= colours
    assert plain.shape == with_line.shape and (plain != with_line).any()


def test_the_first_steps_of_a_curve_do_not_squash_the_rest() -> None:
    x = np.arange(1, 101, dtype=float)
    low, high = charts._y_limits([(x, np.where(x < 4, 1000.0, 3 + 1 / x))], references=[8.0, 3.3])
    assert low < 3.01 < 3.3 < high < 4, "a near reference is inside, a far one is not"


def test_a_running_mean_keeps_constants_and_ends_and_evens_noise() -> None:
    values = np.random.default_rng(0).normal(size=400)
    assert charts._running_mean(np.full(101, 3.25)) == pytest.approx(np.full(101, 3.25))
    assert charts._running_mean(values)[0] == values[0]
    assert charts._running_mean(values).std() < 0.5 * values.std()


def test_curve_leaves_out_what_is_not_finite() -> None:
    expected = charts.curve({"a": ([1, 3], [4.0, 5.0])}, "x", "y")
    with_nan = charts.curve({"a": ([1, 2, 3], [4.0, float("nan"), 5.0])}, "x", "y")
    assert np.array_equal(pixels(expected), pixels(with_nan))
    with pytest.raises(ValueError, match="finite"):
        charts.curve({"a": ([1], [float("inf")])}, "x", "y")


def test_bars_are_as_long_as_their_values() -> None:
    picture = pixels(charts.bars({"others": 8.0, "ours": 2.0}, highlight="ours"))

    def length(colour: str) -> int:
        return int((picture == np.frombuffer(bytes.fromhex(colour[1:]), np.uint8)).all(-1).sum(1).max())

    assert length(charts.PALE) == pytest.approx(4 * length(charts.PALETTE[0]), rel=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_bits_per_dim_of_files_are_their_bytes(channels: int) -> None:
    images = noise(channels=channels)
    images[0] = 0  # compresses better than noise: the mean is over bytes, not over rates of equal size

    def size(image: Pixels, **options: Any) -> int:
        file = io.BytesIO()
        Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0).copy()).save(file, **options)
        return len(file.getvalue())

    png = sum(size(image, format="PNG", optimize=True) for image in images)
    assert png_bits_per_dim(images) == 8 * png / (N * channels * H * W)
    webp: dict[str, Any] = {"format": "WEBP", "lossless": True, "quality": 100, "exact": True}
    best = sum(min(size(image, method=1, **webp), size(image, method=4, **webp)) for image in images)
    assert webp_bits_per_dim(images) == 8 * best / (N * channels * H * W)


def test_a_saved_png_reads_back_and_leaves_nothing_else(tmp_path: Path) -> None:
    picture = grids.grid(noise(), columns=3)
    for _ in range(2):  # the second one replaces the first
        grids.save_png(picture, tmp_path / "new" / "grid.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]
    assert np.array_equal(pixels(Image.open(tmp_path / "new" / "grid.png")), pixels(picture))


@pytest.mark.parametrize(
    "images",
    [noise().astype(np.float32), noise()[0], noise().transpose(0, 2, 3, 1), noise()[:0]],
    ids=["float", "no batch axis", "channels last", "no image"],
)
def test_images_of_another_kind_are_refused(images: Pixels) -> None:
    for function in (png_bits_per_dim, lambda images: grids.grid(images, 2)):
        with pytest.raises(ValueError, match="expected uint8 images"):
            function(images)


def test_counts_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        grids.grid(noise(), 2, labels=["only one"])
    with pytest.raises(ValueError, match="headers"):
        grids.labelled_rows([("", noise())], ["only one"])
    with pytest.raises(ValueError, match="rows"):
        grids.labelled_rows([("", noise(2)), ("", noise(3))])
    with pytest.raises(ValueError, match="bits"):
        charts.bits_map(noise(), np.zeros((N, W, H)), 2)


def test_what_is_shown_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from image_transformer.show import charts, grids, page, progress, records; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_field_counts_the_fewest_pixels_that_have_nearly_all_of_it():
    even, alone = np.full((10, 10), 0.01), np.diag([1.0] + [0.0] * 9)
    assert charts.looked_at(even) == 99 and charts.looked_at(alone) == 1
    assert charts.looked_at(alone + even) == 98, "1.01 and 97 times 0.01 are 99 % of 2"
    plain = charts.fields({"net": even, "other": alone})
    over_layers = charts.fields({"net, 1 layer": alone, "net, 4 layers": even})
    assert over_layers.width == plain.width and over_layers.height > 2 * plain.height
