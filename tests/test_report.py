"""Laws of the report: it says what the run's files say, whole or not, and asks the network for nothing."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_transformer.conditions.frames import Action, Frames
from image_transformer.conditions.source import Source
from image_transformer.conditions.text import Text
from image_transformer.config.model import Modern
from image_transformer.config.run import RunConfig, save_config
from image_transformer.show import page as report
from image_transformer.show.grids import grid, save_png
from image_transformer.show.records import read_metrics

LINES: list[dict[str, Any]] = [
    {"kind": "start", "parameters": 943210, "device": "cpu", "dtype": "bfloat16", "torch": "2.13.0",
     "data": "cifar10-mini", "train_images": 4800, "flips": True, "version": "0.1.0"},
    {"kind": "train", "images": 6400, "bpd": 4.91, "lr": 0.001, "images_per_s": 20.5, "seconds": 300.2},
    {"kind": "validation", "images": 6400, "bpd": 4.321, "count": 500, "seconds": 9.0},
    {"kind": "train", "images": 12800, "bpd": float("nan"), "images_per_s": 21.5, "seconds": 7505.0},
    {"kind": "validation", "images": 12800, "bpd": 4.567, "count": 500, "seconds": 9.0},
    {"kind": "test", "bpd": 4.456, "count": 1200, "split": "test", "png": 5.87, "webp": 4.61},
    {"kind": "something new", "images": 3},
]  # fmt: skip


def write_run(folder: Path, lines: list[dict[str, Any]] = LINES, recipe: str = "tiny") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"recipe: {recipe}\nmodel:\n  depth: 6\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def noise(seed: int) -> Image.Image:
    return grid(np.random.default_rng(seed).integers(0, 256, (4, 3, 5, 7), dtype=np.uint8), 4, scale=2)


def inlined(page: str) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(r'src="data:image/png;base64,([^"]*)"', page)]


def test_the_page_says_what_the_run_measured(tmp_path: Path) -> None:
    path = report.write_report(write_run(tmp_path / "run"))
    assert path == tmp_path / "run" / "report.html"
    page = path.read_text("utf-8")
    figures = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd><dd>(.*?)</dd>", page)
    assert figures == [
        ("best validation", "4.321", "bits/dim, after 6,400 images"),
        ("test", "4.456", "bits/dim, 1,200 images"),
        ("images seen", "12,800", "2.7 epochs"),
        ("parameters", "0.94 M", "943,210"),
        ("images/s", "21.0", "cpu bfloat16"),
        ("time", "2 h 5 min", ""),
    ]
    assert "cifar10-mini · 4,800 training images · horizontal flips · torch 2.13.0 · image-transformer 0.1.0" in page
    assert "<h1>tiny</h1>" in page and "depth: 6" in page
    assert f"image-transformer train tiny --out {tmp_path / 'run'} --resume" in page
    assert len(inlined(page)) == 2, "the curve and the bars"


def test_the_page_says_of_which_moment_its_test_figure_is(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "images": 12_800, "bpd": 4.3},
        {"kind": "test", "images": 6_400, "bpd": 4.456, "count": 1_200},
    ]
    page = report.write_report(write_run(tmp_path / "run", lines)).read_text("utf-8")
    assert "bits/dim, 1,200 images, after 6,400<" in page
    lines[1]["images"] = 12_800
    page = report.write_report(write_run(tmp_path / "other", lines)).read_text("utf-8")
    assert "bits/dim, 1,200 images<" in page


def test_every_picture_is_inside_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, lines=[])
    for images in range(1000, 12001, 1000):
        save_png(noise(images), run / "samples" / f"images-{images:09}.png")
    save_png(noise(1), run / "bits_map.png")
    save_png(noise(2), run / "completions" / "top-half.png")
    save_png(noise(3), run / "checkpoints" / ".partial-17" / "never-seen.png")
    page = report.write_report(run).read_text("utf-8")
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions[0] == "after 12,000 images" and captions[1] == "after 1,000 images"
    assert captions[-2:] == ["bits map", "completions / top half"]
    assert len(captions) == 1 + report.EARLIER + 2
    assert inlined(page)[0] == (run / "samples" / "images-000012000.png").read_bytes()
    assert inlined(page)[-1] == (run / "completions" / "top-half.png").read_bytes()


def test_the_page_requests_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    save_png(noise(0), run / "samples" / "images-000012800.png")
    page = report.write_report(run).read_text("utf-8")
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)


def test_names_are_escaped(tmp_path: Path) -> None:
    run = write_run(tmp_path / "<i> & co", recipe="<script>alert(1)</script>")
    save_png(noise(0), run / "<b>.png")
    page = report.write_report(run).read_text("utf-8")
    assert not re.search("<script|<i>|<b>", page)
    assert "&lt;script&gt;" in page and "&lt;b&gt;" in page


@pytest.mark.parametrize("kept", [0, 1, 2, 4])
def test_a_report_can_be_written_at_any_time(tmp_path: Path, kept: int) -> None:
    page = report.write_report(write_run(tmp_path, LINES[:kept])).read_text("utf-8")
    assert "<h1>tiny</h1>" in page and page.endswith("</html>\n")


def test_a_folder_with_nothing_in_it_has_a_report(tmp_path: Path) -> None:
    page = report.write_report(tmp_path).read_text("utf-8")
    assert f"<h1>{tmp_path.name}</h1>" in page and "Nothing has been measured yet." in page


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert "broken: unreadable" in report.write_report(tmp_path).read_text("utf-8")


def test_large_pictures_are_shrunk(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (2 * report.LARGE, 10)), tmp_path / "wide.png")
    (data,) = inlined(report.write_report(tmp_path).read_text("utf-8"))
    assert Image.open(io.BytesIO(data)).width == report.LARGE


def test_metrics_survive_a_line_cut_at_any_byte(tmp_path: Path) -> None:
    path = write_run(tmp_path, LINES[:3]) / "metrics.jsonl"
    whole = path.read_bytes()
    last = len(json.dumps(LINES[2])) + 1
    for cut in range(2, last + 1):
        path.write_bytes(whole[:-cut])
        assert read_metrics(path) == LINES[:2]
    path.write_bytes(whole[:-last] + "é".encode()[:1])
    assert read_metrics(path) == LINES[:2]


def test_a_configuration_of_ones_own_goes_on_from_its_file(tmp_path: Path) -> None:
    page = report.write_report(write_run(tmp_path / "run", recipe="custom")).read_text("utf-8")
    run = tmp_path / "run"
    assert f"image-transformer train {run}/config.yaml --out {run} --resume" in page


@pytest.mark.parametrize(
    ("conditions", "command"),
    [
        ((Text(8),), "sample its/model --text TEXT"),
        ((Frames(1), Action()), "rollout its/model CLIP --actions ACTION..."),
        ((Source("near"), Text(8)), "edit its/model photo.png --text TEXT"),
    ],
)
def test_a_page_elsewhere_names_its_model_and_all_that_it_needs(tmp_path: Path, conditions: Any, command: str) -> None:
    folder = write_run(tmp_path / "page")
    save_config(RunConfig(model=Modern(shape=(3, 8, 8), conditions=conditions)), folder / "config.yaml")
    page = report.write_report(folder, "its/model").read_text("utf-8")
    assert f"image-transformer {command}\n" in page and "evaluate its/model" in page and "--resume" not in page
