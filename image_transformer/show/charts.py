"""Charts of numbers, as pictures: where in an image its bits are, curves, bars.

What the numbers mean is not known here. matplotlib takes half a second to import: the functions that draw with it do.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from image_transformer.data.images import Images, check_arrays
from image_transformer.show.grids import BACKGROUND, INK, grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#1f6feb", "#e5532d", "#1a9850", "#8250df", "#b58900", "#0e8a9c", "#d63384", "#24292f")
MARKERS = "osD^vPX*"
STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))  # told apart without colours
GREY, PALE = "#6e7781", "#c9ced4"


def bits_map(images: Images, bits: NDArray[np.floating], columns: int) -> Image.Image:
    """Each image above the map of its bits per pixel (n, h, w), and one colour scale for all of them.

    The scale ends at the 99.5th percentile, so that a few very surprising pixels do not darken the rest.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    check_arrays(images)
    n, c, h, w = images.shape
    if bits.shape != (n, h, w):
        raise ValueError(f"expected bits of shape {(n, h, w)}, got {bits.shape}")
    colours = ScalarMappable(Normalize(0, max(1, np.percentile(bits, 99.5))), matplotlib.colormaps["magma"])
    rgba = np.asarray(colours.cmap(colours.norm(bits), bytes=True))  # (n, h, w, 4)
    heat = rgba[..., :3].transpose(0, 3, 1, 2)  # (n, 3, h, w)
    pairs = np.concatenate([np.broadcast_to(images, heat.shape), heat], axis=2)  # (n, 3, 2h, w)
    rates = bits.mean(axis=(1, 2)) / c
    body = grid(pairs, columns, labels=[f"{rate:.2f} bits/dim" for rate in rates])

    size = (body.width / 100, 0.6)
    figure = Figure(size, dpi=100, layout="constrained", facecolor=_hex(BACKGROUND))
    bar = figure.colorbar(colours, cax=figure.add_subplot(), orientation="horizontal", extend="max")
    bar.set_label("bits per pixel", color=_hex(INK))
    bar.ax.tick_params(color=_hex(INK), labelcolor=_hex(INK))
    bar.outline.set_visible(False)
    scale = _render(figure)
    canvas = Image.new("RGB", (body.width, body.height + scale.height), BACKGROUND)
    canvas.paste(body, (0, 0))
    canvas.paste(scale, (0, body.height))
    return canvas


def curve(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    references: Mapping[str, float] | None = None,
    smoothed: Collection[str] = (),
) -> Image.Image:
    """A chart of each named (x, y), with dashed horizontal lines at the references.

    The series named in `smoothed` are drawn as a running mean over their pale raw line, the others as joined
    points. The first 5 % of the curves may leave the chart; references that would squash the rest are named
    above it. NaN and infinite values are left out. Raises ValueError if nothing else is in a series.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    references = references or {}
    finite = {name: _finite(x, y) for name, (x, y) in series.items()}
    if not finite or not all(len(y) for _, y in finite.values()):
        raise ValueError(f"expected finite values in every series, got {dict(series)}")
    low, high = _y_limits(list(finite.values()), list(references.values()))
    figure = Figure(figsize=(7, 4), dpi=220, layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel, ylim=(low, high))
    for (name, (x, y)), colour in zip(finite.items(), cycle(PALETTE)):
        if name in smoothed and len(x) > 1:
            axes.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(x, _running_mean(y), color=colour, linewidth=1.8, label=name)
        else:
            axes.plot(x, y, color=colour, linewidth=1.2, marker="o", markersize=4, label=name)
            text, end = f"{y[-1]:.2f}", (x[-1], y[-1])
            axes.annotate(text, end, (0, 6), textcoords="offset points", ha="center", color=colour)
    outside = []
    for name, value in references.items():
        if low <= value <= high:
            axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 4)))
            crowded = any(0 < other - value < 0.08 * (high - low) for other in references.values())
            axes.annotate(
                f"{name} {value:.2f}", (1, value), (-2, -3 if crowded else 2), ("axes fraction", "data"),
                textcoords="offset points", ha="right", va="top" if crowded else "bottom", color=GREY,
                bbox={"color": "white", "pad": 0},
            )  # fmt: skip
        else:
            outside.append(f"{name} {value:.2f} {'↑' if value > high else '↓'}")
    axes.set_title("    ".join(outside), loc="right", color=GREY, fontsize=10)
    if max(x[-1] for x, _ in finite.values()) >= 10_000:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
    axes.grid(axis="y", color=PALE, alpha=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(series), frameon=False, borderaxespad=0)
    return _render(figure)


def bars(values: Mapping[str, float], highlight: str | None = None, unit: str = "bits/dim") -> Image.Image:
    """A horizontal bar for each named value, from the top in the order given, one of them highlighted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.4 * len(values) + 0.3), dpi=220, layout="constrained")
    axes = figure.add_subplot()
    colours = [PALETTE[0] if name == highlight else PALE for name in values]
    drawn = axes.barh(list(values), list(values.values()), color=colours, height=0.7)
    axes.bar_label(drawn, fmt=f"%.2f {unit}", padding=5)
    axes.margins(x=0.2, y=0.02)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    return _render(figure)


def spreads(values: Mapping[str, Sequence[float]], ideal: float | None = None, xlabel: str = "bits/dim") -> Image.Image:
    """Each of the named values, such as those of several seeds, and their mean, from the top in the order given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.36 * len(values) + 0.9), dpi=220, layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel)
    for name, each in values.items():
        mean = float(np.mean(each))
        axes.plot([min(each), max(each)], [name] * 2, color=GREY, linewidth=1.2, zorder=1)
        axes.plot(each, [name] * len(each), "|", color=GREY, markersize=9, zorder=1)
        axes.plot([mean], [name], "o", color=PALETTE[0], markersize=5)
        axes.annotate(f"{mean:.3f}", (mean, name), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    if ideal is not None:
        axes.axvline(ideal, color=GREY, linewidth=1, linestyle=(0, (4, 4)))
        axes.annotate(
            f"perfect {ideal:g}", (ideal, 1), (3, 2), ("data", "axes fraction"), textcoords="offset points", color=GREY
        )
    axes.margins(x=0.12, y=0.5 / len(values))
    axes.invert_yaxis()
    axes.grid(axis="x", color=PALE, alpha=0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return _render(figure)


def learning_curves(curves: Mapping[str, Sequence[Sequence[tuple[float, float, float]]]]) -> Image.Image:
    """bits/dim over CPU-seconds and over images, of each named list of curves, one for each seed, of (seconds, images,
    bits/dim): their mean, and a band from the lowest to the highest. Named in the order of the ends, the lowest last.

    What begins alike, up to a comma or bracket, has one colour and one marker at the end: "PixelCNN, our start" those
    of PixelCNN. The kind that comes first is drawn thicker.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(11, 5.2), dpi=200, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    lowest = sorted(curves, key=lambda name: -np.mean([of[-1][2] for of in curves[name]]))
    looks = _looks(list(curves))
    for name in lowest:
        look = looks[name]
        for axis, axes in enumerate((left, right)):
            seeds = [np.asarray(of, np.float64) for of in curves[name]]
            x = np.linspace(max(of[0, axis] for of in seeds), min(of[-1, axis] for of in seeds), 60)
            y = np.stack([np.interp(x, of[:, axis], of[:, 2]) for of in seeds])
            label = f"{name}  {y[:, -1].mean():.2f}" if axis == 0 else None
            axes.plot(x, y.mean(0), **look, markevery=[-1], markersize=5, label=label)
            axes.fill_between(x, y.min(0), y.max(0), color=look["color"], alpha=0.15, linewidth=0)
    ends = [of[-1][2] for name in curves for of in curves[name]]
    left.set(xlabel="CPU-seconds of one core", ylabel="bits/dim, validation images", xscale="log")
    left.set_ylim(min(ends) - 0.1, min(max(ends) + 0.4, 8))
    right.set(xlabel="images seen", xscale="log")
    for axes in (left, right):
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 6)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=PALE, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9, handlelength=3.6)
    return _render(figure)


def costs(found: Mapping[str, Sequence[tuple[int, float, float | None]]]) -> Image.Image:
    """Of each named list (side, seconds to learn, seconds to draw) both over the pixels of an image, on log scales."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=200, layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (name, points) in enumerate(found.items()):
        look = _look(number)
        for axes, axis in ((left, 1), (right, 2)):
            shown = [(point[0] ** 2, point[axis]) for point in points if point[axis] is not None]
            label = name if axis == 1 else None
            axes.plot(*zip(*shown, strict=True), **look, marker="o", markersize=4, label=label)
    left.set_ylabel("CPU-seconds of a gradient, one image")
    right.set_ylabel("CPU-seconds to draw one image")
    for axes in (left, right):
        axes.set(xlabel="pixels", xscale="log", yscale="log")
        axes.grid(color=PALE, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return _render(figure)


def fields(found: Mapping[str, NDArray[np.float64]], columns: int = 4) -> Image.Image:
    """Receptive fields (h, w), 0 where a network cannot look: of each what it may see, then how strongly it does.

    Below them the pixels of both over the layers, where there are names such as "PixelCNN, 8 layers".
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    columns = min(columns, len(found))
    rows = -(-len(found) // columns)
    sizes = {name: (int((field > 0).sum()), looked_at(field)) for name, field in found.items()}
    by_depth: dict[str, list[tuple[int, int, int]]] = {}
    for name in found:
        if match := re.fullmatch(r"(.+), (\d+) layers?", name):
            by_depth.setdefault(match[1], []).append((int(match[2]), *sizes[name]))
    heights = [2.2 * rows, *([3.4] if by_depth else [])]
    figure = Figure(figsize=(3.6 * columns, sum(heights)), dpi=160, layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    grid_of_axes = parts[0].subplots(rows, 2 * columns, squeeze=False)
    for axes in grid_of_axes.flat:
        axes.set_axis_off()
    for number, (name, field) in enumerate(found.items()):
        may, does = grid_of_axes[number // columns, 2 * (number % columns) :][:2]
        may.imshow(field > 0, cmap="Greys", vmin=-0.3, vmax=2)  # a pale ground shows where the image ends
        strength = np.log10(np.maximum(field, 1e-6))
        does.imshow(strength, cmap="magma", vmin=-6, vmax=-1)
        may.set_title(f"{name}\nmay see {sizes[name][0]:,}", fontsize=9, loc="left")
        does.set_title(f"looks at {sizes[name][1]:,}", fontsize=9, loc="left")
    if by_depth:
        axes = parts[1].subplots()
        for kind, look in _looks(list(by_depth)).items():
            layers, may_see, looks_at = zip(*sorted(by_depth[kind]), strict=True)
            axes.plot(layers, may_see, **{**look, "linestyle": "--"}, label=f"{kind}: may see")
            axes.plot(layers, looks_at, **look, label=f"{kind}: looks at")
        axes.set(xlabel="layers", ylabel="pixels", xscale="log")
        axes.set_ylim(0)
        axes.set_xticks(sorted({point[0] for points in by_depth.values() for point in points}))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=PALE, alpha=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        parts[1].legend(loc="outside right center", frameon=False, fontsize=9)
    return _render(figure)


def looked_at(field: NDArray[np.float64]) -> int:
    """The fewest pixels that have 99 % of it."""
    falling = np.sort(field, axis=None)[::-1].cumsum()
    return int(np.searchsorted(falling, 0.99 * falling[-1])) + 1


def _look(number: int) -> dict[str, Any]:
    """The colour and the style of a line of many."""
    return {"color": PALETTE[number % len(PALETTE)], "linestyle": STYLES[number // len(PALETTE) % len(STYLES)]}


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The looks of lines: one colour and marker for each kind, a style for each of a kind."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.split("[,(]", name)[0].strip(), []).append(name)
    return {
        name: {
            "color": PALETTE[kind % len(PALETTE)], "marker": MARKERS[kind % len(MARKERS)],
            "linestyle": STYLES[of_kind % len(STYLES)], "linewidth": 1.4 if kind else 2.4,
        }
        for kind, several in enumerate(kinds.values()) for of_kind, name in enumerate(several)
    }  # fmt: skip


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + bytes(colour).hex()


def _render(figure: "Figure") -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once; savefig draws it twice, and packs it
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _finite(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return x[np.isfinite(y)], y[np.isfinite(y)]


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each value and its neighbours, a fortieth of the curve to each side.

    The first values have fewer neighbours, so that the steep start stays where it is.
    """
    n = len(values)
    middle = np.arange(n)
    reach = np.minimum(middle // 2, n // 40)
    start, stop = middle - reach, np.minimum(middle + reach + 1, n)
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean: NDArray[np.float64] = (total[stop] - total[start]) / (stop - start)
    return mean


def _y_limits(
    curves: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]], references: Sequence[float]
) -> tuple[float, float]:
    """The range of all but the first 5 % of the curves, and of references that leave them a third of it."""
    end = max(x[-1] for x, _ in curves)
    late = np.concatenate([y[x >= 0.05 * end] for x, y in curves])
    low, high = late.min(), late.max()
    room = 3 * max(high - low, 0.1)
    for value in sorted(references, key=lambda value: abs(value - (low + high) / 2)):
        if max(high, value) - min(low, value) <= room:
            low, high = min(low, value), max(high, value)
    margin = 0.06 * max(high - low, 0.1)
    return low - margin, high + margin
