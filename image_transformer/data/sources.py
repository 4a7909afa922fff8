"""Where a data set lies, and the readers that give its splits as they are there; decoding comes later."""

from __future__ import annotations

import codecs
import difflib
import glob
import importlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_transformer.data.captions import Wordings, face_captions
from image_transformer.data.images import DataError, first_line
from image_transformer.data.made import MADE, make_splits
from image_transformer.data.shape_edits import EDIT_WORLDS, make_edits
from image_transformer.data.shapes import WORLDS, make_shapes

NAMES = ("cifar10", "cifar10-mini", *MADE, *WORLDS, *EDIT_WORLDS)
SPLITS = ("train", "validation", "test")
ALIASES = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
TEXTS = ("text", "texts", "caption", "captions")  # columns of captions
INDEX = "emoji.json"  # of a package of emoji, unpacked: what lies in img/SET/64
METADATA = "metadata.jsonl"  # captions of the images beside it, as Hugging Face has them
MINI = Path(__file__).parent / "cifar10_mini"


@dataclass(frozen=True)
class Pool:
    """One split as its source has it, not decoded yet."""

    items: Any  # a list of paths, a column of Arrow structs {bytes, path}, or an array (n, c, h, w)
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    captions: Sequence[tuple[str, ...]] | None = None  # wordings of each image
    sources: Any = None  # of edits: as items, what each image was made of


@dataclass(frozen=True)
class Origin:
    """Where a data set lies: its root, its files (none for a hub id), and what reads them into pools by split."""

    root: str
    files: tuple[Path, ...]
    read: Callable[[Origin], Mapping[str, Pool]]
    hint: str = ""  # what to do where it cannot be had


def locate(source: str) -> Origin:
    """The files behind a source and their reader, found without opening any. What is made has its name everywhere."""
    if source == "cifar10-mini":
        return Origin(str(MINI), tuple(sorted(MINI.iterdir())), _read_mini)
    path = path_of(source)
    if source in MADE:
        return Origin(source, (), lambda found: {split: Pool(part) for split, part in make_splits(found.root).items()})
    if source in WORLDS | EDIT_WORLDS:
        return Origin(source, (), _read_made)
    if source == "cifar10" or (re.fullmatch(r"[\w-]+", source) and not path.exists()):
        path = in_data_folder(source) or path
    if path.is_dir():
        return _pick_reader(path.resolve(), files_below(path.resolve()))
    if source == "cifar10":
        return Origin("uoft-cs/cifar10", (), _read_datasets, f"; or {_how_to_find(source)}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not path.exists() and not path.parent.is_dir():
        return Origin(source, (), _read_datasets)
    files = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(source, recursive=True))]
    files = [file.absolute() for file in files if file.is_file()]  # resolving could lose the suffix of a link
    if not files:
        near = difflib.get_close_matches(source, NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"names are {', '.join(NAMES)}"
        hint += f"; for another, {_how_to_find(source)}" if re.fullmatch(r"[\w-]+", source) else ""
        raise DataError(f"{source}: no such file, folder or data set; {hint}")
    return _pick_reader(Path(os.path.commonpath([file.parent for file in files])), files)


def path_of(source: str) -> Path:
    """A source as a path; DataError where it cannot be one."""
    if not source:
        raise DataError("expected a data set's name or path, got an empty one")
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # of a user that is not there
        raise DataError(f"{source}: {first_line(error)}") from None


def in_data_folder(name: str) -> Path | None:
    """The folder of that name in `$IMAGE_TRANSFORMER_DATA`, if there is one."""
    data = os.environ.get("IMAGE_TRANSFORMER_DATA")
    return Path(data, name) if data and Path(data, name).is_dir() else None


def _how_to_find(name: str) -> str:
    """How to say where the folder of that name lies."""
    data = os.environ.get("IMAGE_TRANSFORMER_DATA")
    return f"set IMAGE_TRANSFORMER_DATA to the folder that holds {name}/" + (f", which {data} does not" if data else "")


def files_below(root: Path) -> list[Path]:
    """All files below a folder, through links, but the hidden ones."""
    found: list[Path] = []
    been = {root.resolve()}  # links may lead in circles
    for folder, folders, names in os.walk(root, followlinks=True):
        new = {one: Path(folder, one).resolve() for one in sorted(folders) if one[0] != "."}
        folders[:] = [one for one, real in new.items() if real not in been]
        been |= set(new.values())
        found += [Path(folder, name) for name in names if name[0] != "."]
    return sorted(file for file in found if file.is_file())


def _pick_reader(root: Path, files: Sequence[Path]) -> Origin:
    """The files that one reader takes: emoji, then Parquet before images before NumPy."""
    drawings = tuple(
        file for file in files if file.suffix == ".png" and file.parts[-4:-3] + file.parts[-2:-1] == ("img", "64")
    )
    if drawings and any(file.name == INDEX for file in files):
        indices = (file for file in files if file.name == INDEX)
        return Origin(str(root), (*indices, *drawings), _read_packages)
    parquet, images, arrays = (
        tuple(file for file in files if file.suffix.lower() in suffixes)
        for suffixes in ({".parquet"}, SUFFIXES, {".npy", ".npz"})
    )
    split = next((file for file in arrays if file.stem in SPLITS), None)
    if images and split and not parquet:
        raise DataError(f"{root}: holds {split.name} and {images[0].name}: name files of one kind, as in '*.npy'")
    for read, chosen in ((_read_datasets, parquet), (_read_images, images), (_read_numpy, arrays)):
        if chosen:
            about = tuple(file for file in files if file.name == METADATA) if read is _read_images else ()
            return Origin(str(root), chosen + about, read)
    what = files[0] if len(files) == 1 else root
    raise DataError(f"{what}: expected images (.png, .jpg, .webp, ...), .parquet, .npy or .npz, found none")


def _read_mini(found: Origin) -> dict[str, Pool]:
    """The embedded part of CIFAR-10: strips of 32x32 images, one above the other."""
    index = json.loads((MINI / "index.json").read_text())
    pools = {}
    for split in SPLITS:
        strips = [np.asarray(Image.open(file)) for file in found.files if file.name.startswith(split)]
        images = np.concatenate(strips).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)  # (n, c, h, w)
        pools[split] = Pool(images, np.array(index[split]["labels"]), tuple(index["classes"]))
    return pools


def _read_packages(found: Origin) -> dict[str, Pool]:
    """Drawings of emoji with all their names, as the emoji-datasource packages of npm have them."""
    drawings: list[tuple[Path, Wordings, str]] = []
    for index in (file for file in found.files if file.name == INDEX):
        folders = sorted(index.parent.glob("img/*/64"))
        try:
            for one in json.loads(index.read_bytes()):
                short = [name.replace("_", " ").replace("-", " ") for name in one["short_names"]]  # which people type
                names = tuple(dict.fromkeys([one["name"].lower(), *short]))
                drawings += [(folder / one["image"], names, one["category"]) for folder in folders]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{index}: expected the index of an emoji-datasource package ({first_line(error)})"
            ) from None
    drawings = [one for one in drawings if one[0].exists()]
    if not drawings:
        raise DataError(f"{found.root}: {INDEX} found, but none of its drawings in img/*/64")
    files, names_of_each, categories = zip(*drawings, strict=True)
    classes = tuple(sorted(set(categories)))
    labels = np.array([classes.index(one) for one in categories])
    return {"train": Pool(list(files), labels, classes, list(names_of_each))}


class Pools(dict[str, Any]):
    """The pools of a source by split, made when they are first asked for: of {split: what gives its pool}."""

    def __getitem__(self, split: str) -> Pool:
        found = super().__getitem__(split)
        if not isinstance(found, Pool):
            self[split] = found = found()
        return found


def _read_made(found: Origin) -> dict[str, Pool]:
    """A made world; a split is made when it is asked for."""
    return Pools({split: partial(_made, found.root, split) for split in (WORLDS | EDIT_WORLDS)[found.root]})


def _made(name: str, split: str) -> Pool:
    if name in EDIT_WORLDS:
        sources, images, captions = make_edits(name, split)
        return Pool(images, captions=captions, sources=sources)
    images, captions = make_shapes(name, split)
    return Pool(images, captions=captions)


def _read_images(found: Origin) -> dict[str, Pool]:
    """A folder of images; where it has split sub-folders, only these count. All splits number the classes alike."""
    said, made_of = _read_metadata([file for file in found.files if file.name == METADATA])
    groups: dict[str, list[tuple[Path, str]]] = {}  # split, or "" -> files with their class folders, or ""
    for file in found.files:
        if file.name == METADATA or (made_of and file not in made_of):  # of pairs, results are the images
            continue
        folders = file.relative_to(found.root).parts[:-1]
        split = ALIASES.get(folders[0].lower(), "") if folders else ""
        groups.setdefault(split, []).append((file, "".join(folders[bool(split) :][:1])))
    loose = groups.pop("", [])
    inside = next((file for file, folder in loose if folder or "train" not in groups), None)
    if inside and groups:  # a class may be called "train", and what is to learn from may lie beside test/
        raise DataError(f"{found.root}: {inside.relative_to(found.root)} lies beside the folders of splits")
    groups = groups or {"train": loose}
    classes = sorted({name for group in groups.values() for _, name in group})
    pools = {}
    for split, group in groups.items():
        files, labels = [file for file, _ in group], np.array([classes.index(name) for _, name in group])
        pools[split] = Pool(files) if "" in classes else Pool(files, labels, tuple(classes))
        if said:
            pools[split] = replace(pools[split], captions=[said.get(file, ("",)) for file in files])
        if made_of:
            pools[split] = replace(pools[split], sources=[made_of[file] for file in files])
    return pools


def _read_metadata(files: Sequence[Path]) -> tuple[dict[Path, tuple[str, ...]], dict[Path, Path]]:
    """The captions of image files, and the sources of those that are results of edits.

    From lines {"file_name": ..., "text": ..., "source_file_name": ...}, text being one wording or several.
    """
    found, made_of = {}, {}
    for file in files:
        for number, line in enumerate(file.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), 1):
            if not line.strip():
                continue
            try:
                told = json.loads(line)
                path = Path(os.path.normpath(file.parent / told["file_name"]))
                wordings = wordings_of(told.get("text", told.get("caption")))
                if "source_file_name" in told:
                    made_of[path] = Path(os.path.normpath(file.parent / told["source_file_name"]))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise DataError(f'{file}, line {number}: expected {{"file_name": ..., "text": ...}}') from None
            if isinstance(old := told.get("source"), str) and (file.parent / old).is_file():
                raise DataError(f'{file}, line {number}: the field "source" is called "source_file_name" now')
            for image in (path, made_of.get(path)):
                if image is not None and not image.is_file():
                    raise DataError(f"{file}, line {number}: there is no {image}")
            if wordings != ("",):  # there may be a label alone
                found[path] = wordings
    return found, made_of


def wordings_of(told: Any) -> tuple[str, ...]:
    """A caption or several, as data sets have them; the empty text, which tells nothing, where there is none."""
    several = [told] if isinstance(told, str) else told if isinstance(told, list) else []
    return tuple(one for one in several if isinstance(one, str)) or ("",)


def _read_numpy(found: Origin) -> dict[str, Pool]:
    """Arrays of .npy (by file name) or .npz (by key), named by split or only one; labels are NAME_labels or labels."""
    arrays: dict[str, NDArray[Any]] = {}
    homes: dict[str, Path] = {}  # the file of each array
    for file in found.files:
        try:
            if file.suffix.lower() == ".npy":
                new = {file.stem: np.lib.format.open_memmap(file, mode="r")}
            else:
                with file.open("rb") as opened:
                    new = dict(np.load(opened))
        except Exception as error:  # OSError, ValueError, EOFError, BadZipFile, ...
            raise DataError(f"{file}: unreadable as a NumPy file ({first_line(error)})") from None
        for name in new:
            if homes.setdefault(name, file) != file:
                raise DataError(f"{homes[name]} and {file} both hold an array {name}: expected one of them")
        arrays |= new
    names = [name for name in arrays if name != "labels" and not name.endswith("_labels")]
    what = found.root if len(found.files) > 1 else str(found.files[0])
    if len(names) != 1 and not (names and set(names) <= set(SPLITS)):
        raise DataError(f"{what}: expected arrays train, validation, test or only one, found {', '.join(arrays)}")
    pools = {}
    for name in names:
        images = _channels_first(arrays[name], what)
        labels = arrays.get(f"{name}_labels", arrays.get("labels") if len(names) == 1 else None)
        if labels is not None and (labels.shape != (len(images),) or labels.dtype.kind not in "iu"):
            raise DataError(f"{what}: expected {len(images)} integer labels, got {labels.dtype} {labels.shape}")
        pools[name if name in SPLITS else "train"] = Pool(images, labels if labels is None else labels.astype(np.int64))
    return pools


def _channels_first(array: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """A view (n, c, h, w) of (n, h, w), (n, h, w, c) or (n, c, h, w); where both axes could be c, the last reading."""
    if array.dtype != np.uint8:
        raise DataError(f"{name}: expected uint8 values 0..255, got {array.dtype}")
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3):
        return array
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return array.transpose(0, 3, 1, 2)
    raise DataError(f"{name}: expected (n, h, w), (n, h, w, c) or (n, c, h, w) with c 1 or 3, got {array.shape}")


def _read_datasets(found: Origin) -> dict[str, Pool]:
    """Parquet files or a hub id, through Hugging Face `datasets`; splits other than the three are left out."""
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        need = "Parquet and the hub need `pip install 'image-transformer-pytorch[hf]'`; cifar10-mini needs nothing"
        where = "" if found.files else "no such file or folder, and as a hub id: "
        raise DataError(f"{found.root}: {where}{need}{found.hint}") from None
    try:
        options = {"path": "parquet", "data_files": _by_split(found)} if found.files else {"path": found.root}
        parts = datasets.load_dataset(**options)
        return {ALIASES[name]: _arrow_pool(datasets, parts[name]) for name in parts if name in ALIASES}
    except Exception as error:  # missing on the hub, no network, a broken file, another schema, ...
        kind = "cannot be read as Parquet" if found.files else "no such file or folder, and not on the hub"
        raise DataError(f"{found.root}: {kind} ({first_line(error)}){found.hint}") from None


def _by_split(found: Origin) -> dict[str, list[str]]:
    """Parquet files by the first word of their path below the root that names a split; train if none does."""
    groups: dict[str, list[str]] = {}
    for file in found.files:
        words = re.split(r"[\W_]+", str(file.relative_to(found.root)).lower())
        groups.setdefault(next((ALIASES[word] for word in words if word in ALIASES), "train"), []).append(str(file))
    return groups


def _arrow_pool(datasets: Any, part: Any) -> Pool:
    """One split of a Hugging Face data set, its images still encoded."""
    column = next((column for column in ("img", "image") if column in part.column_names), None)
    if column is None:
        raise ValueError(f"expected a column img or image, found {', '.join(part.column_names)}")
    items = part.cast_column(column, datasets.Image(decode=False)).data.column(column)
    labels = part.data.column("label").to_numpy() if "label" in part.column_names else np.empty(0)
    captions = _arrow_captions(part)
    if labels.dtype.kind not in "iu":  # none at all, some missing, or text
        return Pool(items, captions=captions)
    return Pool(items, labels.astype(np.int64), tuple(getattr(part.features["label"], "names", ())), captions)


def _arrow_captions(part: Any) -> list[tuple[str, ...]] | None:
    """Those of a column text or caption, one wording or several; or what CelebA's attributes say; None without any."""
    names = part.column_names
    for column in TEXTS:
        if column in names and re.fullmatch(r"(large_)?(string|list<.*string>)", str(part.data.column(column).type)):
            return [wordings_of(one) for one in part.data.column(column).to_pylist()]
    if {"Smiling", "Male", "Young"} <= set(names):
        told = {
            name: part.data.column(name).to_pylist() for name in names if str(part.data.column(name).type) == "bool"
        }
        return [face_captions(dict(zip(told, row, strict=True))) for row in zip(*told.values(), strict=True)]
    return None
