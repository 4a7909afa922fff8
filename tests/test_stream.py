"""Data in shards: every image once an epoch, in an order of the seed, and no more shards in memory than it says."""

import io
import os
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from image_transformer import checkpoint
from image_transformer.cli.main import main
from image_transformer.conditions.text import Text
from image_transformer.config.data import DataConfig
from image_transformer.config.model import Modern
from image_transformer.config.run import RunConfig
from image_transformer.config.train import TrainConfig
from image_transformer.data import stream as streams
from image_transformer.data.images import DataError, class_labels, class_names
from image_transformer.data.stream import HELD, TOGETHER, Stream, load_stream
from image_transformer.training.batches import Batches
from image_transformer.training.errors import TrainingError
from image_transformer.training.loop import train
from image_transformer.training.run import Run
from image_transformer.training.update import Loss


def png(image):
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "PNG")
    return file.getvalue()


def write_tar(path, images, first=0, labels=None):
    with tarfile.open(path, "w") as archive:
        for i, image in enumerate(images):
            parts = {f"{first + i:06d}.png": png(image), f"{first + i:06d}.json": b"{}"}
            parts |= {} if labels is None else {f"{first + i:06d}.cls": str(labels[i]).encode()}
            for name, content in parts.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (130, 3, 4, 4)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path, images, monkeypatch):
    """13 shards of the training of nine images each, but for one of two, and one for validation."""
    monkeypatch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "shards"
    home.mkdir()
    sizes = [9] * 12 + [2]
    for i, (start, count) in enumerate(zip(np.cumsum([0, *sizes]), sizes, strict=False)):
        write_tar(
            home / f"train-{i:03d}.tar", images[start : start + count], start, np.arange(start, start + count) % 7
        )
    write_tar(home / "validation-000.tar", images[110:], 110, np.arange(110, 130) % 7)
    return home


def numbers(found, images):
    """Which of the images were found, by their bytes."""
    known = {image.tobytes(): i for i, image in enumerate(images)}
    return [known[image.tobytes()] for image in found.images]


@pytest.mark.parametrize(("how", "count"), [("", 110), ("/train-*.tar", 108), ("/train-{000..012}.tar", 108)])
def test_shards_hold_what_was_written(folder, images, how, count):
    """Where none is for validation, the last one is held out."""
    stream = load_stream(f"{folder}{how}")
    assert len(stream) == count
    found = stream.rows(np.array([107, 0, 9, 8]))
    assert numbers(found, images) == [107, 0, 9, 8]
    assert found.labels.tolist() == [107 % 7, 0, 2, 1]


def test_validation_is_a_shard_of_its_own_or_the_last_of_the_training(folder, images):
    assert numbers(load_stream(str(folder), "validation"), images) == list(range(110, 130))
    (folder / "validation-000.tar").unlink()
    assert numbers(load_stream(str(folder), "validation"), images) == [108, 109]
    assert len(load_stream(str(folder))) == 108


def test_parquet_on_any_file_system_is_read_shard_by_shard(tmp_path, images, monkeypatch):
    import fsspec

    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path / "cache"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["duck", "frog"])})
    memory = fsspec.filesystem("memory")
    for i in range(2):
        part = images[10 * i : 10 * (i + 1)]
        pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in part]
        pictures[7 * i] = None if i else pictures[0]
        made = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 5}, features=features)
        made.to_parquet(tmp_path / "one.parquet")
        memory.pipe(f"/set/train-{i}.parquet", (tmp_path / "one.parquet").read_bytes())
    stream = load_stream("memory://set/*.parquet")
    assert stream.classes == ("duck", "frog")
    assert numbers(stream.rows(np.array([3, 9])), images) == [3, 9]
    assert stream.rows(np.array([3, 9])).labels.tolist() == [1, 1]
    ask = {"source": "memory://set/*.parquet", "split": "validation"}
    with pytest.raises(DataError, match=r"train-1.parquet, image 7: unreadable image"):  # a row without one
        load_stream(**ask)
    assert numbers(load_stream(**ask, skip_bad=True), images) == [*range(10, 17), 16, 18, 19]


def test_an_epoch_has_every_image_once_and_few_shards_at_a_time(folder, images, monkeypatch):
    """The same views whether they are taken from the start or from anywhere, by one process or in parts."""
    reads = []
    read = streams._read
    monkeypatch.setattr(streams, "_read", lambda shard: (reads.append(shard.path), read(shard))[1])
    batches = Batches(load_stream(str(folder)), DataConfig(), seed=3)
    seen = []
    for first in range(0, 220, 10):
        seen += numbers(batches.take(first, 10), images)
        assert len(batches.data._held) <= HELD
    assert sorted(seen[:110]) == sorted(seen[110:]) == list(range(110))
    assert seen[:110] != seen[110:]
    assert len(reads) <= 2 * 13 + HELD  # each about once an epoch
    near = [{number // 9 for number in seen[i : i + 9]} for i in range(0, 99, 9)]
    assert all(1 < len(some) <= 2 * TOGETHER for some in near)  # mixed, but not over all
    other = Batches(load_stream(str(folder)), DataConfig(), seed=3)
    assert [n for first in (150, 155) for n in numbers(other.take(first, 5), images)] == seen[150:160]


def test_the_count_of_images_is_kept(folder, monkeypatch):
    assert len(load_stream(str(folder))) == 110
    look_up, seen = streams._look_up, []
    monkeypatch.setattr(streams, "_look_up", lambda shard: (seen.append(shard), look_up(shard))[1])
    assert len(load_stream(str(folder))) == 110 and not seen
    shutil.copy(folder / "train-001.tar", folder / "train-002.tar")  # of the same size, written later
    os.utime(folder / "train-002.tar", (1, 1))
    assert len(load_stream(str(folder))) == 110 and seen


def test_a_shard_that_was_replaced_is_noticed(folder, images):
    """By its table of contents, at the start; by the number of its images, while a run reads it."""
    before, stream = load_stream(str(folder)).digest(), load_stream(str(folder))
    size = (folder / "train-001.tar").stat().st_size
    write_tar(folder / "train-001.tar", images[9:18], 1009, np.arange(9, 18) % 7)
    assert (folder / "train-001.tar").stat().st_size == size
    assert load_stream(str(folder)).digest() != before
    write_tar(folder / "train-001.tar", images[9:17], 9, np.arange(9, 17) % 7)
    with pytest.raises(DataError, match=r"train-001.tar: expected 9 images, found 8: was it replaced\?"):
        stream.rows(np.array([9]))


def test_classes_are_those_of_all_shards(folder):
    """The first image is of class 0, the last shard has two images."""
    stream = load_stream(str(folder))
    assert class_names(stream) == tuple("0123456") and stream.labels.tolist() == [0]
    some = stream.rows(np.arange(5, 9))
    assert class_labels(some, class_names(stream)).tolist() == [5, 6, 0, 1]


def test_a_name_may_hold_brackets(folder, tmp_path):
    home = shutil.copytree(folder, tmp_path / "set [1]")
    for source in (home, home / "train-001.tar"):
        assert load_stream(str(source)).labels.tolist()


def test_bad_shards_and_images_are_named(folder, images, tmp_path):
    with pytest.raises(DataError, match=r"nowhere: expected shards \(.tar or .parquet\), found none"):
        load_stream(str(tmp_path / "nowhere"))
    whole = (folder / "train-001.tar").read_bytes()
    (folder / "train-001.tar").write_bytes(whole.replace(b"IDAT", b"IDAX"))
    stream = load_stream(str(folder))
    with pytest.raises(DataError, match=r"train-001.tar, image 0: unreadable image"):
        stream.rows(np.array([9]))
    skipping = load_stream(str(folder), skip_bad=True)
    with pytest.raises(DataError, match="image 8: unreadable"):  # none of the shard can be read
        skipping.rows(np.array([9]))
    part = bytearray(whole)
    first = part.index(b"IDAT")
    part[first : first + 4] = b"IDAX"
    (folder / "train-001.tar").write_bytes(part)
    assert numbers(load_stream(str(folder), skip_bad=True).rows(np.array([9, 10, 11])), images) == [10, 10, 11]
    part = bytearray(whole)
    second = part.index(b"IDAT", part.index(b"IDAT") + 1)
    part[second : second + 4] = b"IDAX"
    (folder / "train-001.tar").write_bytes(part)
    assert numbers(load_stream(str(folder), skip_bad=True).rows(np.array([9, 10, 11])), images) == [9, 9, 11]
    (folder / "train-001.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"train-001.tar: not a whole shard"):
        load_stream(str(folder)).rows(np.array([9]))


def test_a_run_on_shards_resumes_to_the_image_and_refuses_others(folder, tmp_path, images):
    model = Modern(shape=(3, 4, 4), depth=1, width=8, heads=2, feed_forward=8, components=2)
    training = TrainConfig(images=64, batch=4, validate_every=32, sample_every=None, save_every=16, bf16="off",
                           closed_form_start=True)  # fmt: skip
    config = RunConfig("test", model, DataConfig(str(folder), stream=True), training)
    train(config, tmp_path / "whole", show_progress=False)
    half = replace(config, train=replace(training, images=32))
    train(half, tmp_path / "cut", show_progress=False)
    train(config, tmp_path / "again", show_progress=False)
    for run in checkpoint.checkpoints(tmp_path / "again"):
        if checkpoint.read_state(run).images_seen > 48:
            checkpoint.remove(run)
    train(config, tmp_path / "again", resume=True, show_progress=False)
    ends = [checkpoint.checkpoints(tmp_path / name)[-1] / "model.safetensors" for name in ("whole", "again")]
    assert ends[0].read_bytes() == ends[1].read_bytes()
    assert main(["evaluate", str(tmp_path / "whole"), "--gap", "2"]) == 0
    write_tar(folder / "train-013.tar", images[:3])
    with pytest.raises(DataError, match=r"is not what .*cut was trained on"):
        train(config, tmp_path / "cut", resume=True, show_progress=False)


def test_a_diagnosis_without_an_image_to_blame(folder, tmp_path, monkeypatch):
    forward = Loss.forward
    monkeypatch.setattr(Loss, "forward", lambda loss, x, *rest: forward(loss, x, *rest) / (len(x) == 1))
    model = Modern(shape=(3, 4, 4), depth=1, width=8, heads=2, feed_forward=8, components=2)
    training = TrainConfig(batch=4, bf16="off", max_left_out=0)
    run = Run(RunConfig("test", model, DataConfig(str(folder), stream=True), training), tmp_path / "run")
    with pytest.raises(TrainingError, match="each image by itself gives finite numbers"):
        run.update()


def test_a_stream_reads_ahead(folder):
    stream = load_stream(str(folder))
    assert isinstance(stream, Stream)
    order = stream.order(np.random.default_rng(0))
    stream.rows(order[:1])
    assert len(stream._held) == 1 + TOGETHER


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_captions_come_with_their_images(tmp_path, images, kind, monkeypatch):
    """Several wordings of one image, none of another; images of shards without any have none."""
    monkeypatch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path / "cache"))
    names = ["", "number 01", "number 2", "", "nümbér 4", "number 5"]  # the longest by letters, and by bytes
    said = [(name, "another") if name else ("",) for name in names]
    splits = {"train-0": range(3), "train-1": range(3, 6), "validation-0": range(6), "test-0": range(6)}
    for name, rows in splits.items():
        if kind == "tar":
            write_tar(tmp_path / f"{name}.tar", images[rows.start : rows.stop], rows.start, None)
            with tarfile.open(tmp_path / f"{name}.tar", "a") as archive:
                for i in rows:
                    text = "\n".join(said[i]).encode()
                    member = tarfile.TarInfo(f"{i:06d}.txt")
                    member.size = len(text)
                    archive.addfile(member, io.BytesIO(text))
        else:
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            table = {"image": [{"bytes": png(images[i])} for i in rows], "text": [list(said[i]) for i in rows]}
            parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")
    stream = load_stream(str(tmp_path))
    found = stream.rows(np.array([4, 0, 2]))
    assert found.captions == tuple(said[i] for i in numbers(found, images)) and len(stream.captions) == 2
    assert stream.captions[1] == ("nümbér 4",), "the longest of all"
    assert load_stream(str(tmp_path), "test").captions == tuple(said)
    stream._held.clear()
    stream.rows(np.array([4]))
    assert list(stream._held) == [1], "captions of one shard are looked for in no other"
    text = Text(9)
    with pytest.raises(DataError, match="has 10 bytes, the model reads 9"):
        text.suits(stream)
    model = Modern(shape=(3, 4, 4), depth=1, width=8, heads=2, feed_forward=8, components=2, conditions=(Text(10),))
    training = TrainConfig(images=8, batch=4, validate_every=8, sample_every=None, bf16="off")
    train(
        RunConfig("test", model, DataConfig(str(tmp_path), stream=True), training),
        tmp_path / "run",
        show_progress=False,
    )
    untold = replace(model, conditions=())
    flipped = RunConfig("test", untold, DataConfig(str(tmp_path), stream=True, flips=True), training)
    train(flipped, tmp_path / "plain", show_progress=False)
