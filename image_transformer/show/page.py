"""The report of a run: one HTML page made of what lies in the run's folder, its pictures inside the file.

It reads files only; what a run is and how it is trained is not known here.
"""

import base64
import io
import math
import os
import re
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from PIL import Image

from image_transformer.conditions.base import drawing
from image_transformer.config.model import CONDITIONS
from image_transformer.config.run import resuming
from image_transformer.files import write_atomically
from image_transformer.show.charts import bars, curve
from image_transformer.show.grids import png_bytes
from image_transformer.show.records import Metrics, Table, read_metrics, read_tables

LARGE, SMALL = 1600, 400  # px, the widest that a picture is put into the page, large and small
EARLIER = 6  # sample pictures shown beside the newest


def training_curve(metrics: Metrics) -> Image.Image | None:
    """The chart of bits/dim over images seen, beside PNG and WebP where `demo` has measured them."""
    series = {
        name: ([m["images"] for m in lines], [m["bpd"] for m in lines])
        for name, kind in (("training", "train"), ("validation", "validation"))
        if (lines := _measured(metrics, kind))
    }
    if not series:
        return None
    return curve(series, "images seen", "bits/dim", _references(metrics), smoothed=["training"])


def write_report(run: str | os.PathLike[str], model: str | os.PathLike[str] | None = None) -> Path:
    """Writes `report.html` into the folder of a run, from what is there so far, and returns its path.

    model: that the page is about, where it does not lie in that folder.
    """
    run = Path(run)
    metrics = read_metrics(run / "metrics.jsonl")
    config = (run / "config.yaml").read_text("utf-8") if (run / "config.yaml").exists() else ""
    values = yaml.safe_load(config) or {}
    recipe = str(values.get("recipe", run.resolve().name))
    told = {one.get("name") for one in (values.get("model") or {}).get("conditions", [])}
    samples = sorted((run / "samples").glob("images-*.png"))
    assessed = sorted((run / "pictures").glob("*.png"))
    found = {*run.glob("*.png"), *run.glob("*/*.png")}  # not within checkpoints, which come and go meanwhile
    others = sorted(found - set(samples) - set(assessed))
    earlier = samples[:-1]
    spread = earlier[:: math.ceil(len(earlier) / EARLIER) or 1]

    def pictures(paths: Sequence[Path], width: int = LARGE) -> list[str]:
        return [_picture(path, _caption(path.relative_to(run)), width) for path in paths]

    sections = [
        _section("Bits per dimension", _charts(metrics, recipe), "charts"),
        _section("Measures", [*map(_table, read_tables(run)), *pictures(assessed)]),
        _section("Newest samples", pictures(samples[-1:])),
        _section("Earlier samples", pictures(spread, SMALL), "strip"),
        _section("More pictures", pictures(others)),
        _section("Go on from here", [f"<pre>{escape(_commands(run, recipe, told, model))}</pre>"]),
        f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>" if config else "",
    ]
    page = PAGE.format(
        title=escape(recipe),
        style=STYLE,
        about=escape(_about(metrics)),
        figures="\n".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
            for name, value, note in _key_figures(metrics)
        ),
        sections="\n".join(sections),
    )
    write_atomically(run / "report.html", page.encode())
    return run / "report.html"


# ---- what the metrics say ----


def _measured(metrics: Metrics, kind: str) -> Metrics:
    """The lines of this kind with a finite bits/dim (a diverged run logs NaN) after a number of images."""
    lines = [m for m in metrics if m.get("kind") == kind and "images" in m]
    return [m for m in lines if math.isfinite(m.get("bpd") or math.nan)]


def _last(metrics: Metrics, kind: str) -> dict[str, Any]:
    return next((m for m in reversed(metrics) if m.get("kind") == kind), {})


def _references(metrics: Metrics) -> dict[str, float]:
    test = _last(metrics, "test")
    return {"uniform": 8.0} | {name: test[name.lower()] for name in ("PNG", "WebP") if test.get(name.lower())}


def _key_figures(metrics: Metrics) -> list[tuple[str, str, str]]:
    """(name, value, note) of each figure that is known."""
    start, train, test = (_last(metrics, kind) for kind in ("start", "train", "test"))
    figures = []
    if validations := _measured(metrics, "validation"):
        best = min(validations, key=lambda m: m["bpd"])
        note = f"bits/dim, after {best['images']:,} images"
        figures.append(("best validation", f"{best['bpd']:.3f}", note))
    if "bpd" in test:
        of = f", {test['count']:,} images" if "count" in test else ""
        of += f", after {test['images']:,}" if "images" in test and test["images"] != train.get("images") else ""
        figures.append((test.get("split", "test"), f"{test['bpd']:.3f}", f"bits/dim{of}"))
    if "images" in train:
        epochs = f"{train['images'] / start['train_images']:.1f} epochs" if start.get("train_images") else ""
        figures.append(("images seen", f"{train['images']:,}", epochs))
    if "parameters" in start:
        figures.append(("parameters", f"{start['parameters'] / 1e6:,.2f} M", f"{start['parameters']:,}"))
    if speeds := [m["images_per_s"] for m in metrics if m.get("kind") == "train" and m.get("images_per_s")]:
        where = " ".join(str(start[key]) for key in ("device", "dtype") if key in start)
        figures.append(("images/s", f"{median(speeds[-50:]):,.1f}", where))
    if "seconds" in train:
        figures.append(("time", _duration(train["seconds"]), ""))
    return figures


def _about(metrics: Metrics) -> str:
    start = _last(metrics, "start")
    parts = [
        str(start.get("data", "")),
        f"{start['train_images']:,} training images" if "train_images" in start else "",
        "all eight orientations" if start.get("orientations") else "horizontal flips" if start.get("flips") else "",
        f"torch {start['torch']}" if "torch" in start else "",
        f"image-transformer {start['version']}" if "version" in start else "",
    ]
    return " · ".join(filter(None, parts)) or "Nothing has been measured yet."


def _commands(run: Path, recipe: str, told: set[str], model: str | os.PathLike[str] | None) -> str:
    its = shlex.quote(str(model or run))
    draw = drawing([kind for kind in CONDITIONS if kind.name in told], its).replace("IMAGE...", "photo.png")
    commands = [draw, f"image-transformer report {its}", f"image-transformer evaluate {its}"]
    alone = model or (run / "model.safetensors").exists()  # nothing to go on with
    return "\n".join(commands if alone else [*commands, resuming(recipe, run)])


def _duration(seconds: float) -> str:
    """The two leading units: 3 d 4 h, 2 h 5 min, 6 min 40 s."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h} h {m} min" if hours else f"{m} min {s} s"


# ---- pieces of the page ----


def _section(title: str, contents: Sequence[str], layout: str = "column") -> str:
    """A titled section; nothing where there is nothing to show."""
    body = "\n".join(contents)
    return f'<section><h2>{title}</h2>\n<div class="{layout}">{body}</div></section>' if contents else ""


def _table(table: Table) -> str:
    """The figures of a table, the first column its heads."""

    def line(cells: Sequence[str], tag: str) -> str:
        head, *rest = (escape(cell) for cell in cells)
        return f"<tr><th>{head}</th>{''.join(f'<{tag}>{cell}</{tag}>' for cell in rest)}</tr>"

    body = "".join(line(row, "td") for row in table.rows)
    head = f"<thead>{line(table.columns, 'th')}</thead>"
    caption = f"<figcaption>{escape(table.caption)}</figcaption>"
    return f'<figure class="figures"><table>{head}<tbody>{body}</tbody></table>{caption}</figure>'


def _charts(metrics: Metrics, recipe: str) -> list[str]:
    charts = []
    if chart := training_curve(metrics):
        caption = "Lower is better; an image without any compression is 8 bits/dim."
        charts.append(_figure(png_bytes(chart), caption))
    test, references = _last(metrics, "test"), _references(metrics)
    if "bpd" in test and len(references) > 1:
        chart = bars(references | {recipe: test["bpd"]}, highlight=recipe)
        caption = f"The {test.get('split', 'test')} images; for PNG and WebP, the size of one file an image."
        charts.append(_figure(png_bytes(chart), caption))
    return charts


def _caption(path: Path) -> str:
    """A file name in words: samples/images-000012800.png is 'after 12,800 images'."""
    if counted := re.fullmatch(r"images-(\d+)", path.stem):
        return f"after {int(counted[1]):,} images"
    return re.sub("[-_]", " ", " / ".join([*path.parts[:-1], path.stem]))


def _picture(path: Path, caption: str, width: int) -> str:
    """A picture file as a figure, shrunk where it is wider than `width`; of a broken one, the caption."""
    try:
        data = path.read_bytes()
        image = Image.open(io.BytesIO(data))
        if image.width > width:
            image.thumbnail((width, image.height))
            data = png_bytes(image)
    except OSError:
        return f"<p>{escape(caption)}: unreadable</p>"
    return _figure(data, caption)


def _figure(png: bytes, caption: str) -> str:
    source, text = base64.b64encode(png).decode(), escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{source}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{about}</p></header>
<dl>{figures}</dl>
{sections}
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f4f5f7; --ink: #1f2328; --pale: #667080; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --card: #20252c; --ink: #e6e9ee; --pale: #98a2b0; }
  .charts img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
}
* { box-sizing: border-box; }
body { max-width: 54rem; margin: 0 auto; padding: 2rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
header p, dd + dd, figcaption { color: var(--pale); }
header p { margin: .25rem 0 1.5rem; }
dl { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; margin: 0; }
dl div { padding: .75rem 1rem; border-radius: .5rem; background: var(--card); }
dd { margin: 0; font-size: 1.6rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
dt, dd + dd, figcaption { font: .85rem/1.5 system-ui, sans-serif; }
img { display: block; max-width: 100%; border-radius: .25rem; }
figure { margin: 0 0 1.5rem; }
figcaption { margin-top: .35rem; }
.charts img { width: 100%; }
.figures { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--card); }
th:first-child { text-align: left; font-weight: 400; }
thead th { color: var(--pale); font-size: .85rem; font-weight: 600; vertical-align: bottom; }
.strip { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; }
.strip figure { margin: 0; }
pre { margin: 0; padding: 1rem; border-radius: .5rem; background: var(--card); overflow-x: auto;
  font: .85rem/1.6 ui-monospace, monospace; }
details { margin-top: 2.5rem; }
summary { margin-bottom: .75rem; font-size: 1.15rem; font-weight: 600; cursor: pointer; }
@media (max-width: 36rem) { dl { grid-template-columns: repeat(2, 1fr); } }
"""
