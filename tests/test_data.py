"""Laws of the room data: all kinds of sources give the same integers, splits are disjoint, errors say what is wrong."""

import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from image_transformer.data.clips import load_clips
from image_transformer.data.decode import read_exactly, read_image
from image_transformer.data.images import DataError, ImageData
from image_transformer.data.loading import carve, load_data, load_file, load_files
from image_transformer.data.sources import MINI, SPLITS, locate

N, C, H, W = 47, 3, 5, 7
# Where CIFAR-10 may lie: as the user says, or beside the repository. Only the slow test looks there.
DATA = Path(os.environ.get("IMAGE_TRANSFORMER_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IMAGE_TRANSFORMER_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (N, C, H, W), dtype=np.uint8)


@pytest.fixture
def labels():
    return np.arange(N) % 3


@pytest.fixture
def hf(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    return datasets


def save(path, image):
    """Write one image (c, h, w) losslessly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.transpose(1, 2, 0) if len(image) == 3 else image[0]).save(path)


def folder(root, images):
    for i, image in enumerate(images):
        save(root / f"{i:03d}.png", image)
    return root


def hf_dataset(datasets, images, labels):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    return datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=datasets.Features(features))


def whole(source, **options):
    """Images and labels of a source that is carved into all three splits, back in its own order."""
    parts = {split: load_data(str(source), split, **options) for split in SPLITS}
    n = sum(len(part) for part in parts.values())
    rows = carve(n, ("validation", "test"))
    images = np.empty((n, *parts["train"].images.shape[1:]), np.uint8)
    labels = None if parts["train"].labels is None else np.empty(n, np.int64)
    for split, part in parts.items():
        images[rows[split]] = part.images
        if labels is not None:
            labels[rows[split]] = part.labels
    return images, labels


# ---- splits ----


@pytest.mark.parametrize("n", [3, 4, 39, 47, 1000, 50_000])
@pytest.mark.parametrize("held_out", [(), ("validation",), ("validation", "test")])
def test_splits_are_disjoint_and_exhaustive(n, held_out):
    rows = carve(n, held_out)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(n))
    assert {len(rows[name]) for name in held_out} <= {max(1, min(n // 20, 2000))}


def test_validation_rows_do_not_depend_on_a_test_split():
    assert np.array_equal(carve(1000, ("validation",))["validation"], carve(1000, ("validation", "test"))["validation"])


def test_splits_are_fixed_for_good():
    rows = carve(47, ("validation", "test"))
    assert rows["validation"].tolist() == [3, 11]
    assert rows["test"].tolist() == [13, 20]


def test_a_source_with_test_images_gives_only_validation_from_its_training_images(tmp_path, images):
    np.savez(tmp_path / "two.npz", train=images, test=images[:9])
    rows = carve(N, ("validation",))
    for split in ("train", "validation"):
        assert np.array_equal(load_data(str(tmp_path / "two.npz"), split).images, images[rows[split]])
    assert np.array_equal(load_data(str(tmp_path / "two.npz"), "test").images, images[:9])


def test_a_source_with_validation_images_has_no_test_split_made_up(tmp_path, images):
    np.savez(tmp_path / "two.npz", train=images, validation=images[:9])
    assert len(load_data(str(tmp_path / "two.npz"), "train")) == N
    with pytest.raises(DataError, match="no test split, only train, validation"):
        load_data(str(tmp_path / "two.npz"), "test")


# ---- every kind of source gives the same integers ----


def test_folder(tmp_path, images):
    found, labels = whole(folder(tmp_path / "set", images))
    assert np.array_equal(found, images)
    assert labels is None


@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_npy(tmp_path, images, layout):
    np.save(tmp_path / "set.npy", images if layout == "chw" else images.transpose(0, 2, 3, 1))
    assert np.array_equal(whole(tmp_path / "set.npy")[0], images)


def test_grey_npy(tmp_path, images):
    np.save(tmp_path / "set.npy", images[:, 0])
    assert np.array_equal(whole(tmp_path / "set.npy")[0], images[:, :1])


@pytest.mark.parametrize("names", [("train", "train_labels"), ("images", "labels"), ("x", "x_labels")])
def test_npz(tmp_path, images, labels, names):
    np.savez(tmp_path / "set.npz", **dict(zip(names, (images, labels), strict=True)))
    found, found_labels = whole(tmp_path / "set.npz")
    assert np.array_equal(found, images)
    assert np.array_equal(found_labels, labels)


def test_folder_of_npy_is_mapped_where_it_lies(tmp_path, cache, images, labels):
    for split, part in (("train", images), ("validation", images[:9].transpose(0, 2, 3, 1)), ("test", images[9:])):
        np.save(tmp_path / f"{split}.npy", part)
    np.save(tmp_path / "train_labels.npy", labels)
    found = load_data(str(tmp_path), shape=(C, H, W))
    assert np.array_equal(found.images, images)
    assert np.array_equal(found.labels, labels)
    assert np.array_equal(load_data(str(tmp_path), "validation").images, images[:9])
    assert Path(found.images.filename) == tmp_path / "train.npy"
    assert not cache.exists()


@pytest.mark.parametrize("how", ["file", "folder", "glob"])
def test_parquet(tmp_path, hf, images, labels, how):
    (tmp_path / "set").mkdir()
    hf_dataset(hf, images[:20], labels[:20]).to_parquet(tmp_path / "set" / "train-00000-of-00002.parquet")
    hf_dataset(hf, images[20:], labels[20:]).to_parquet(tmp_path / "set" / "train-00001-of-00002.parquet")
    hf_dataset(hf, images, labels).to_parquet(tmp_path / "set.parquet")
    sources = {"file": "set.parquet", "folder": "set", "glob": "set/train-*.parquet"}
    found, found_labels = whole(tmp_path / sources[how])
    assert np.array_equal(found, images)
    assert np.array_equal(found_labels, labels)
    assert load_data(str(tmp_path / sources[how])).classes == ("ant", "bee", "cat")


def test_parquet_files_are_splits_by_name(tmp_path, hf, images, labels):
    hf_dataset(hf, images, labels).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    hf_dataset(hf, images[:9], labels[:9]).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    assert np.array_equal(load_data(str(tmp_path), "test").images, images[:9])
    assert len(load_data(str(tmp_path), "train")) == N - 2


def test_hub(hf, monkeypatch, images, labels):
    asked = []
    parts = {"train": hf_dataset(hf, images, labels), "valid": hf_dataset(hf, images[:9], labels[:9])}
    monkeypatch.setattr(hf, "load_dataset", lambda path: asked.append(path) or parts)
    assert np.array_equal(load_data("someone/pictures").images, images)
    assert np.array_equal(load_data("someone/pictures", "validation").labels, labels[:9])
    load_data("someone/pictures")  # from the cache
    assert asked == ["someone/pictures"] * 2


def test_cifar10_comes_from_the_data_folder_before_the_hub(tmp_path, hf, monkeypatch, images, labels):
    monkeypatch.setenv("IMAGE_TRANSFORMER_DATA", str(tmp_path))
    (tmp_path / "cifar10").mkdir()
    hf_dataset(hf, images, labels).to_parquet(tmp_path / "cifar10" / "train-00000-of-00001.parquet")
    assert np.array_equal(whole("cifar10")[0], images)
    monkeypatch.delenv("IMAGE_TRANSFORMER_DATA")
    monkeypatch.setattr(hf, "load_dataset", lambda path: {"test": hf_dataset(hf, images[:9], labels[:9])})
    assert len(load_data("cifar10", "test")) == 9


def test_a_name_is_a_folder_in_the_data_folder_and_in_no_other(tmp_path, monkeypatch, images):
    folder(tmp_path / "shared" / "data" / "zebra", images)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(DataError, match="zebra: no such file, folder or data set"):
        load_data("zebra")
    monkeypatch.setenv("IMAGE_TRANSFORMER_DATA", "../shared/data")
    assert np.array_equal(whole("zebra")[0], images)


def test_folders_name_splits_and_classes(tmp_path, images):
    for i, path in enumerate(["train/bee/0", "train/ant/1", "train/ant/deep/2", "val/cat/3", "test/bee/4", "5"]):
        save(tmp_path / f"{path}.png", images[i])
    for split, rows, labels in (("train", [1, 2, 0], [0, 0, 1]), ("validation", [3], [2]), ("test", [4], [1])):
        part = load_data(str(tmp_path), split)
        assert np.array_equal(part.images, images[rows])
        assert part.labels.tolist() == labels
        assert part.classes == ("ant", "bee", "cat")


def test_a_class_that_is_called_like_a_split_is_not_taken_for_one(tmp_path, images):
    for i, name in enumerate(["bus", "car", "train"]):
        save(tmp_path / name / "0.png", images[i])
    with pytest.raises(DataError, match=r"bus/0\.png lies beside the folders of splits"):
        load_data(str(tmp_path))
    for i in range(9):
        save(tmp_path / "set" / ("test" if i < 3 else "") / f"{i}.png", images[i])
    with pytest.raises(DataError, match=r"3\.png lies beside the folders of splits"):
        load_data(str(tmp_path / "set"))


def test_folders_that_are_links_are_read_and_circles_end(tmp_path, images):
    folder(tmp_path / "elsewhere", images[:20])
    folder(tmp_path / "set" / "dog", images[20:])
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "set" / "dog" / "up").symlink_to(tmp_path / "set", target_is_directory=True)
    (tmp_path / "set" / "dog" / "to_cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "to_dog").symlink_to(tmp_path / "set" / "dog", target_is_directory=True)
    found = load_data(str(tmp_path / "set"), "all")
    assert np.array_equal(found.images, images) and found.classes == ("cat", "dog")


def test_hidden_and_other_files_are_passed_over(tmp_path, images):
    folder(tmp_path, images)
    for name in ("README.txt", ".hidden.png", ".git/object.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    assert np.array_equal(whole(tmp_path)[0], images)


def test_a_link_to_a_file_without_suffix_is_read(tmp_path, images):
    np.save(tmp_path / "set.npy", images)
    (tmp_path / "set.npy").rename(tmp_path / "blob")
    (tmp_path / "link.npy").symlink_to(tmp_path / "blob")
    assert np.array_equal(whole(tmp_path / "link.npy")[0], images)


def test_load_files_keeps_the_order(tmp_path, images):
    folder(tmp_path, images)
    found = load_files([tmp_path / "002.png", tmp_path / "001.png"], shape=(C, H, W))
    assert np.array_equal(found, images[[2, 1]])


# ---- conversion ----


def one(tmp_path, picture, suffix="png", **options):
    """A picture as it is read back from a file, (c, h, w)."""
    picture.save(tmp_path / f"one.{suffix}")
    return load_files([tmp_path / f"one.{suffix}"], **options)[0]


def test_grey_becomes_rgb_and_rgb_grey(tmp_path, images):
    grey = images[0, 0]
    assert np.array_equal(one(tmp_path, Image.fromarray(grey)), np.stack([grey] * 3))
    assert np.array_equal(one(tmp_path, Image.fromarray(grey), shape=(1, H, W)), grey[None])
    colour = Image.fromarray(images[0].transpose(1, 2, 0))
    assert np.array_equal(one(tmp_path, colour, shape=(1, H, W))[0], np.asarray(colour.convert("L")))
    np.save(tmp_path / "set.npy", images[:, 0])
    assert np.array_equal(whole(tmp_path / "set.npy", shape=(3, H, W))[0], images[:, :1].repeat(3, axis=1))


def test_what_is_transparent_lies_on_white(tmp_path, images):
    opacity = np.random.default_rng(0).choice([0, 100, 255], images[0, :1].shape).astype(np.uint8)
    rgba = np.concatenate([images[0], opacity]).transpose(1, 2, 0)
    found = one(tmp_path, Image.fromarray(rgba))
    expected = 255 - opacity / 255 * (255.0 - images[0])
    assert np.abs(found - expected).max() <= 1 and np.array_equal(
        found[:, opacity[0] == 255], images[0][:, opacity[0] == 255]
    )
    assert (found[:, opacity[0] == 0] == 255).all()
    grey = one(tmp_path, Image.fromarray(rgba[..., 2:]), shape=(1, H, W))
    assert np.abs(grey - expected[2]).max() <= 1


def test_palettes_become_rgb(tmp_path, images):
    palette = Image.fromarray(images[0].transpose(1, 2, 0)).quantize(256)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(one(tmp_path, palette), expected)
    clear = np.asarray(palette) < 100
    palette.info["transparency"] = bytes(100)
    assert np.array_equal(one(tmp_path, palette), np.where(clear, 255, expected))


def test_a_palette_with_more_opacities_than_colours_is_named(tmp_path, images):
    palette = Image.fromarray(images[0].transpose(1, 2, 0)).quantize(16)
    palette.save(tmp_path / "one.png", transparency=bytes(16))
    damaged = (tmp_path / "one.png").read_bytes().replace(_chunk(b"tRNS", bytes(16)), _chunk(b"tRNS", bytes(300)))
    (tmp_path / "one.png").write_bytes(damaged)
    with pytest.raises(DataError, match=r"one\.png: unreadable image"):
        load_files([tmp_path / "one.png"])


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_exif_orientation_is_applied(tmp_path, images):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    Image.fromarray(images[0].transpose(1, 2, 0)).save(tmp_path / "one.png", exif=exif)
    assert np.array_equal(load_files([tmp_path / "one.png"])[0], np.rot90(images[0], -1, axes=(1, 2)))


@pytest.mark.parametrize(("factor", "left"), [(1, 3), (2, 2), (3, 0), (4, 5)])
def test_shrinking_by_a_whole_factor_is_the_mean_of_the_central_blocks(tmp_path, factor, left):
    image = np.random.default_rng(1).integers(0, 256, (3, 5 * factor, 7 * factor + 2 * left), dtype=np.uint8)
    means = image[:, :, left : left + 7 * factor].reshape(3, 5, factor, 7, factor).mean(axis=(2, 4))
    found = one(tmp_path, Image.fromarray(image.transpose(1, 2, 0)), size=(5, 7))
    if factor != 3:  # half rounds up
        assert np.array_equal(found, np.floor(means + 0.5))
    assert np.abs(found - means).max() < 0.6  # Pillow's fixed-point division by 9 may fall short


@pytest.mark.parametrize("size", [(5, 7), (10, 14), (3, 8), (1, 1), (13, 2)])
def test_size_is_height_and_width(tmp_path, images, size):
    found = one(tmp_path, Image.fromarray(images[0].transpose(1, 2, 0)), size=size)
    assert found.shape == (3, *size)
    if size == (H, W):
        assert np.array_equal(found, images[0])


def test_size_makes_mixed_images_one(tmp_path, images):
    folder(tmp_path, [*images[:30], *images[30:, :, :4, :4]])
    assert whole(tmp_path, size=(4, 6), shape=(3, 4, 6))[0].shape == (N, 3, 4, 6)


# ---- the cache ----


def test_second_load_maps_the_cache(tmp_path, cache, images, monkeypatch):
    folder(tmp_path / "set", images)
    first = load_data(str(tmp_path / "set"))
    assert isinstance(first.images, np.memmap)
    assert not first.images.flags.writeable
    assert [path.suffix for path in cache.iterdir()] == [".npy"]
    monkeypatch.setattr("image_transformer.data.cache.write_images", None)  # decoding again would fail
    second = load_data(str(tmp_path / "set"))
    assert np.array_equal(first.images, second.images)


def test_labels_and_skipped_survive_the_cache(tmp_path, images):
    for i, image in enumerate(images):
        save(tmp_path / "set" / ("bee" if i % 2 else "ant") / f"{i:03d}.png", image)
    (tmp_path / "set" / "bee" / "bad.png").write_bytes(b"no image")
    first, second = (load_data(str(tmp_path / "set"), skip_bad=True) for _ in range(2))
    assert np.array_equal(first.labels, second.labels)
    assert first.classes == second.classes == ("ant", "bee")
    assert first.skipped == second.skipped


def test_a_changed_file_is_decoded_again(tmp_path, images):
    folder(tmp_path / "set", images)
    before, _ = whole(tmp_path / "set")
    save(tmp_path / "set" / "003.png", 255 - images[3])
    os.utime(tmp_path / "set" / "003.png", ns=(1, 1))
    after, _ = whole(tmp_path / "set")
    assert np.flatnonzero((before != after).any(axis=(1, 2, 3))).tolist() == [3]


def test_another_size_is_another_entry(tmp_path, images):
    folder(tmp_path / "set", images)
    assert load_data(str(tmp_path / "set")).images.shape[2:] == (H, W)
    assert load_data(str(tmp_path / "set"), size=(4, 4)).images.shape[2:] == (4, 4)


def test_a_failed_decode_leaves_nothing(tmp_path, cache, images):
    folder(tmp_path / "set", images)
    save(tmp_path / "set" / "999.png", images[0, :, :4])
    with pytest.raises(DataError):
        whole(tmp_path / "set")
    assert not [path for path in cache.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize("kept", [0, 1, 60, 128, 2000, -400, -2], ids="{} bytes".format)
def test_a_cut_cache_file_is_decoded_again(tmp_path, cache, images, kept):
    damage(tmp_path, cache, images, lambda whole: whole[:kept])


@pytest.mark.parametrize("kind", ["random", "zeros", "archive", "header", "tail"])
def test_an_overwritten_cache_file_is_decoded_again(tmp_path, cache, images, kind):
    overwrite = {
        "random": lambda whole: np.random.default_rng(0).bytes(len(whole)),
        "zeros": lambda whole: bytes(len(whole)),
        "archive": lambda whole: b"PK\x03\x04" + whole[4:],  # as a .npz begins
        "header": lambda whole: whole[:10] + b"(" + whole[11:],
        "tail": lambda whole: whole[: whole.rindex(b"{")] + b"{}",
    }
    damage(tmp_path, cache, images, overwrite[kind])


def damage(tmp_path, cache, images, change):
    """The law: a load after the change gives the images, and makes the cache file what it was."""
    folder(tmp_path / "set", images)
    load_data(str(tmp_path / "set"))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(change(whole))
    assert np.array_equal(load_data(str(tmp_path / "set")).images, images[carve(N, ("validation", "test"))["train"]])
    assert file.read_bytes() == whole


def test_an_unwritable_cache_is_done_without(tmp_path, monkeypatch, images):
    folder(tmp_path / "set", images)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="the cache cannot be written"):
        assert np.array_equal(whole(tmp_path / "set")[0], images)


def test_without_a_home_the_cache_must_be_named(tmp_path, monkeypatch, images):
    folder(tmp_path / "set", images)
    monkeypatch.delenv("IMAGE_TRANSFORMER_CACHE")

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(DataError, match="set IMAGE_TRANSFORMER_CACHE"):
        load_data(str(tmp_path / "set"))


def test_a_folder_of_a_long_name_is_cached(tmp_path, cache, images):
    for name in ("x" * 240, "漢" * 80):
        folder(tmp_path / name, images)
        assert np.array_equal(whole(tmp_path / name)[0], images)
    assert len(list(cache.iterdir())) == 2 * len(SPLITS)


# ---- errors ----


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cifar-10", "did you mean cifar10?"),
        ("cifar10mini", "did you mean cifar10-mini?"),
        ("zebra", "no such file, folder or data set; names are cifar10, cifar10-mini, mirror, twins, bar"),
        ("./no/such/folder", "no such file"),
        ("", "expected a data set's name or path"),
        ("~nobody-of-that-name/set", "~nobody-of-that-name/set: Could not determine home directory"),
    ],
)
def test_missing(source, message):
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        load_data(source)


def test_unknown_split():
    with pytest.raises(DataError, match="unknown split 'val': expected train, validation, test or all"):
        load_data("cifar10-mini", "val")


@pytest.mark.parametrize("options", [{"shape": (2, 5, 7)}, {"size": (0, 7)}])
def test_impossible_options(options):
    with pytest.raises(DataError, match="expected"):
        load_data("cifar10-mini", **options)
    with pytest.raises(DataError, match="expected"):
        load_files([MINI / "test-00.webp"], **options)


def test_an_impossible_size_of_one_file():
    with pytest.raises(DataError, match="expected a positive height and width"):
        load_file(MINI / "test-00.webp", 3, size=(7, 0))


def test_empty_folder(tmp_path):
    with pytest.raises(DataError, match=r"expected images .* found none"):
        load_data(str(tmp_path))


def test_images_beside_arrays_are_not_guessed_between(tmp_path, images):
    folder(tmp_path, images)
    np.save(tmp_path / "train.npy", images)
    with pytest.raises(DataError, match=r"holds train\.npy and 000\.png: name files of one kind, as in '\*\.npy'"):
        load_data(str(tmp_path))
    assert np.array_equal(whole(tmp_path / "*.npy")[0], images)


def test_too_few_images_to_split(tmp_path, images):
    folder(tmp_path, images[:2])
    with pytest.raises(DataError, match=r"2 image\(s\) are too few"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_broken_images_are_named_or_skipped(tmp_path, images, kind):
    folder(tmp_path, images)
    bad = tmp_path / "010.png"
    bad.write_bytes({"truncated": bad.read_bytes()[:-60], "empty": b"", "text": b"no image"}[kind])
    with pytest.raises(DataError, match=r"010\.png: unreadable image .*skip_bad"):
        whole(tmp_path)
    parts = [load_data(str(tmp_path), split, skip_bad=True) for split in SPLITS]
    assert sum(part.skipped for part in parts) == 1
    assert sum(len(part) for part in parts) == N - 1
    assert np.array_equal(parts[0].images, images[[i for i in carve(N, ("validation", "test"))["train"] if i != 10]])


def test_nothing_readable(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 3 images is readable"):
        load_data(str(tmp_path), skip_bad=True)


def test_mixed_sizes_name_both_files_and_the_way_out(tmp_path, images):
    save(tmp_path / "a.png", images[0])
    save(tmp_path / "b.png", images[1, :, :4])
    with pytest.raises(DataError, match=r"mixed sizes, .*a\.png is 5x7, .*b\.png is 4x7: pass --size 5 7"):
        load_files([tmp_path / "a.png", tmp_path / "b.png"])


@pytest.mark.parametrize(("shape", "how"), [((3, 32, 32), "32 32 to enlarge"), ((3, 4, 4), "4 4 to shrink")])
@pytest.mark.parametrize("kind", ["folder", "npy", "mapped", "cached"])
def test_another_shape_than_the_model_wants(tmp_path, images, shape, how, kind):
    source = tmp_path / "set"
    source.mkdir()
    if kind in ("folder", "cached"):
        folder(source, images)
    else:
        np.save(source / "train.npy", images)
    if kind == "mapped":
        np.save(source / "validation.npy", images)
    if kind == "cached":
        load_data(str(source))
    wants = f"images are 5x7, the model wants {shape[1]}x{shape[2]}: pass --size {how}"
    with pytest.raises(DataError, match=wants):
        load_data(str(source), shape=shape)


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_more_than_8_bits_are_refused(tmp_path, mode):
    picture = Image.fromarray(np.zeros((H, W), np.uint16 if mode == "I;16" else np.float32))
    with pytest.raises(DataError, match="expected 8 bits a channel"):
        one(tmp_path, picture, suffix="tiff")


def test_16_bit_colour_is_refused(tmp_path):
    """Pillow would quietly drop the lower bytes, and cannot write such a file."""
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head, pixels = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0), zlib.compress(bytes(1 + 12))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    with pytest.raises(DataError, match=r"deep\.png: expected 8 bits a channel"):
        load_files([tmp_path / "deep.png"])


@pytest.mark.parametrize(
    ("file", "largest", "message"),
    [
        (b"P6 2 1 65535\n" + bytes(range(12)), 65535, "expected 8 bits a channel"),
        (b"P3 2 1 300\n 1 2 3 4 5 6", 300, "expected 8 bits a channel"),
        (b"P6 2 1 100\n" + bytes(range(6)), 100, "its largest value is 100, expected 255"),
        (b"P6 2 1 255\n" + bytes(range(6)), 255, None),
        (b"P3 2 1 255\n 0 1 2 3 4 5", 255, None),
    ],
)
def test_values_of_a_ppm_are_read_as_they_are_or_refused(file, largest, message):
    if largest < 256:
        scaled = np.arange(6).reshape(2, 3).T[:, None] / largest * 255
        assert np.abs(read_image(file, "image", 3, None) - scaled).max() <= 0.5
    if message is None:
        assert read_exactly(file, "image").tolist() == [[[0, 3]], [[1, 4]], [[2, 5]]]
        return
    with pytest.raises(DataError, match=message):
        read_exactly(file, "image")


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "TIFF", "MPO", "AVIF", "JPEG2000"])
def test_what_would_be_lost_of_a_file_is_refused(images, kind):
    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}.get(kind, "zlib")):
        pytest.skip(f"this Pillow cannot write {kind}")
    still, moving = io.BytesIO(), io.BytesIO()
    frames = [Image.fromarray(image.transpose(1, 2, 0)) for image in images[:3]]
    frames[0].save(still, kind)
    if kind in ("AVIF", "JPEG2000"):  # 10 bits look like 8
        with pytest.raises(DataError, match="may hold more than 8 bits a channel: convert it to PNG first"):
            read_exactly(still.getvalue(), "image")
        return
    frames[0].save(moving, kind, save_all=True, append_images=frames[1:])
    assert read_exactly(still.getvalue(), "image").shape == (3, H, W)
    if kind == "MPO":  # what cameras write: a photograph, and previews of it
        assert read_exactly(moving.getvalue(), "image").shape == (3, H, W)
        return
    with pytest.raises(DataError, match="it holds several images, expected one"):
        read_exactly(moving.getvalue(), "image")
    assert read_image(moving.getvalue(), "image", 3, None).shape == (3, H, W)


def test_icons_and_files_whose_later_frames_are_broken(images):
    icon, moving = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64)).save(icon, "ICO", sizes=[(16, 16), (64, 64)])
    with pytest.raises(DataError, match="it holds several images, expected one"):
        read_exactly(icon.getvalue(), "image")
    frames = [Image.fromarray(np.kron(image[0], np.ones((9, 9), np.uint8))) for image in images[:9]]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    assert read_image(moving.getvalue()[:-2000], "image", 3, None).shape == (3, 9 * H, 9 * W)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((9, 5, 7), np.float32), "expected uint8 values 0..255, got float32"),
        (np.zeros((9, 5, 7, 2), np.uint8), r"got \(9, 5, 7, 2\)"),
        (np.zeros((9, 5), np.uint8), r"got \(9, 5\)"),
        (np.zeros((0, 3, 5, 7), np.uint8), "holds no images|unreadable"),
        (np.array([None]), "unreadable as a NumPy file"),
    ],
)
def test_bad_npy(tmp_path, array, message):
    np.save(tmp_path / "set.npy", array)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "set.npy"))


def test_an_archive_that_is_called_npy_is_refused(tmp_path, images):
    np.savez(tmp_path / "set.npz", train=images)
    (tmp_path / "set.npz").rename(tmp_path / "set.npy")
    with pytest.raises(DataError, match="unreadable as a NumPy file"):
        load_data(str(tmp_path / "set.npy"))


def test_bad_npz(tmp_path, images):
    np.savez(tmp_path / "set.npz", a=images, b=images)
    with pytest.raises(DataError, match=r"expected arrays train, validation, test or only one, found a, b"):
        load_data(str(tmp_path / "set.npz"))
    np.savez(tmp_path / "set.npz", train=images, train_labels=np.zeros(3, np.int64))
    with pytest.raises(DataError, match=r"expected 47 integer labels, got int64 \(3,\)"):
        load_data(str(tmp_path / "set.npz"))
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04 no zip file")
    with pytest.raises(DataError, match="unreadable as a NumPy file"):
        load_data(str(tmp_path / "set.npz"))


@pytest.mark.parametrize(
    ("one", "other"),
    [("train.npy", "old/train.npy"), ("a.npz", "b.npz"), ("train.npy", "a.npz"), ("a/labels.npy", "b/labels.npy")],
)
def test_two_arrays_of_one_name_are_refused(tmp_path, images, labels, one, other):
    for file in (tmp_path / one, tmp_path / other):
        file.parent.mkdir(exist_ok=True)
        np.savez(file, train=images) if file.suffix == ".npz" else np.save(file, images if "train" in one else labels)
    if "labels" in one:
        np.save(tmp_path / "images.npy", images)
    with pytest.raises(DataError, match=r"^.* and .* both hold an array \w+: .*$") as error:
        load_data(str(tmp_path))
    assert {str(tmp_path / one), str(tmp_path / other)} <= set(re.split("[ :]", str(error.value)))


@pytest.mark.parametrize("name", ["celeba32", "imagenet32", "cifar100"])
def test_a_name_that_is_nowhere_says_how_to_say_where_data_lies(tmp_path, monkeypatch, name):
    how = f"set IMAGE_TRANSFORMER_DATA to the folder that holds {name}/"
    with pytest.raises(DataError, match=f"^{name}: no such file, folder or data set; .*{how}$"):
        load_data(name)
    monkeypatch.setenv("IMAGE_TRANSFORMER_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"{how}, which {tmp_path} does not$"):
        load_data(name)


@pytest.mark.parametrize("why", ["no package", "no network"])
def test_cifar10_that_is_nowhere_says_how_to_say_where_data_lies(hf, monkeypatch, why):
    def unreachable(path):
        raise ConnectionError("no network")

    monkeypatch.setattr(hf, "load_dataset", unreachable)
    if why == "no package":
        monkeypatch.setitem(sys.modules, "datasets", None)
    for source, hint in (("cifar10", True), ("owner/name", False)):
        with pytest.raises(DataError) as error:
            load_data(source)
        assert ("set IMAGE_TRANSFORMER_DATA to the folder that holds cifar10/" in str(error.value)) == hint


@pytest.mark.parametrize("source", ["set.parquet", "cifar10", "owner/name"])
def test_without_datasets_the_message_says_what_to_install(tmp_path, monkeypatch, source):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    Path("set.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"pip install 'image-transformer-pytorch\[hf\]'.*cifar10-mini needs nothing"):
        load_data(source)


def test_bad_parquet(tmp_path, hf):
    (tmp_path / "set.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_data(str(tmp_path / "set.parquet"))
    hf.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="expected a column img or image, found text"):
        load_data(str(tmp_path / "text.parquet"))


def test_torch_is_not_imported():
    code = "import sys, image_transformer.data.loading; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- some of the images ----


@pytest.fixture
def sorted_by_class():
    """Four classes of a hundred images, one after the other; every image differs from every other."""
    images = np.arange(400, dtype=np.uint16).view(np.uint8).reshape(400, 2, 1, 1)
    return ImageData("set", "test", images, np.arange(400) // 100, ("ant", "bee", "cat", "dog"), skipped=3)


def test_rows_are_images_with_what_is_known_of_them(sorted_by_class):
    rows = np.array([390, 7, 7])
    found = sorted_by_class.rows(rows)
    assert np.array_equal(found.images, sorted_by_class.images[rows])
    assert found.labels.tolist() == [3, 0, 0]
    assert (found.name, found.split, found.classes, found.skipped) == ("set", "test", ("ant", "bee", "cat", "dog"), 3)
    assert replace(sorted_by_class, labels=None).rows(rows).labels is None


def test_rows_of_a_mapped_file_are_in_memory(tmp_path, images):
    np.save(tmp_path / "train.npy", images)
    np.save(tmp_path / "validation.npy", images)
    mapped = load_data(str(tmp_path))
    assert isinstance(mapped.images, np.memmap)
    assert not isinstance(mapped.rows(np.arange(3)).images, np.memmap)


@pytest.mark.parametrize("count", [1, 10, 399])
def test_some_images_are_a_fixed_subset_in_the_order_of_the_whole(sorted_by_class, count):
    places = drawn(sorted_by_class, count)
    assert len(set(places)) == count
    assert places == sorted(places)
    assert places == drawn(sorted_by_class, count)
    assert sorted_by_class.some(count).labels.tolist() == [place // 100 for place in places]


def test_some_images_are_among_more_of_them(sorted_by_class):
    assert set(drawn(sorted_by_class, 10)) < set(drawn(sorted_by_class, 20)) < set(drawn(sorted_by_class, 399))


def test_some_images_of_a_sorted_set_are_of_several_classes(sorted_by_class):
    assert len(set(sorted_by_class.labels[:10])) == 1
    assert len(set(sorted_by_class.some(10).labels)) > 1


@pytest.mark.parametrize("count", [None, 400, 401])
def test_enough_of_the_images_are_all_of_them(sorted_by_class, count):
    assert sorted_by_class.some(count) is sorted_by_class


def drawn(data, count):
    """The places of the drawn images, read off the images themselves."""
    return data.some(count).images.reshape(count, 2).copy().view(np.uint16)[:, 0].tolist()


# ---- CIFAR-10 ----


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGE_TRANSFORMER_CACHE", str(tmp_path_factory.mktemp("mini")))
        return {split: load_data("cifar10-mini", split, shape=(3, 32, 32)) for split in SPLITS}


@pytest.mark.parametrize(("split", "n"), [("train", 4300), ("validation", 500), ("test", 1000)])
def test_the_embedded_set_is_what_its_index_says(mini, split, n):
    part, index = mini[split], json.loads((MINI / "index.json").read_text())[split]
    assert part.images.shape == (n, 3, 32, 32)
    assert len(set(index["rows"])) == n
    assert hashlib.sha256(part.images.tobytes()).hexdigest() == index["sha256"]
    assert hashlib.sha256(part.labels.astype(np.uint8).tobytes()).hexdigest() == index["labels_sha256"]
    for tens in part.labels.reshape(-1, 10):
        assert sorted(tens) == list(range(10))


def test_the_embedded_splits_share_no_image(mini):
    assert len({image.tobytes() for part in mini.values() for image in part.images}) == sum(map(len, mini.values()))


def test_the_embedded_set_takes_at_most_10_million_bytes():
    assert sum(file.stat().st_size for file in MINI.iterdir()) <= 10_000_000


@pytest.mark.slow
def test_cifar10_is_the_published_one_and_holds_the_embedded_set(hf, monkeypatch):
    if not (DATA / "cifar10").is_dir():
        pytest.skip("needs the Parquet files of CIFAR-10")
    monkeypatch.setenv("IMAGE_TRANSFORMER_DATA", str(DATA))
    parts = {split: load_data("cifar10", split, shape=(3, 32, 32)) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 48_000, "validation": 2_000, "test": 10_000}
    rows = carve(50_000, ("validation",))
    images, labels = np.empty((50_000, 3, 32, 32), np.uint8), np.empty(50_000, np.uint8)
    for split in ("train", "validation"):
        images[rows[split]], labels[rows[split]] = parts[split].images, parts[split].labels
    digests = [
        hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        for array in (
            images.transpose(0, 2, 3, 1),
            labels,
            parts["test"].images.transpose(0, 2, 3, 1),
            parts["test"].labels.astype(np.uint8),
        )
    ]
    assert digests == [
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    ]
    index = json.loads((MINI / "index.json").read_text())
    for split in SPLITS:
        source = parts["test"].images if split == "test" else images
        assert np.array_equal(load_data("cifar10-mini", split).images, source[index[split]["rows"]])
    assert set(index["train"]["rows"]).isdisjoint(index["validation"]["rows"])


def test_some_images_are_these_for_good():
    """Figures of --limit, validation and reports depend on the draw."""
    numbered = ImageData("n", "test", np.arange(1000, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(1000))
    assert numbered.some(5).labels.tolist() == [100, 217, 738, 975, 985]


def test_a_strict_load_does_not_take_what_a_lenient_one_cached(tmp_path, images):
    folder(tmp_path / "photos", images)
    (tmp_path / "photos" / "zz.png").write_bytes(b"not a picture")
    assert load_data(str(tmp_path / "photos"), "all", skip_bad=True).skipped == 1
    with pytest.raises(DataError, match=r"zz\.png"):
        load_data(str(tmp_path / "photos"), "all")


def test_what_is_made_has_its_name_everywhere(tmp_path, monkeypatch):
    """A folder that happens to be called so, such as that of a run, is meant by ./NAME alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("mirror", "shapes", "bouncing"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "one.png")
    assert load_data("mirror", "test").images.shape[1:] == (1, 16, 16)
    assert locate("shapes").files == () and len(locate("./shapes").files) == 1
    assert load_clips("bouncing", "test").past is not None
