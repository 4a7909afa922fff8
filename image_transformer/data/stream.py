"""Data sets in shards, read while they are needed: tar files as of WebDataset, or Parquet, on a disk or a server.

Nothing is decoded ahead and no more than some shards are held, as they are compressed; the order of the images is a
function of the seed all the same, so that a run goes on at any image with any number of processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import json
import re
import tarfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_transformer.data.cache import cache_folder
from image_transformer.data.decode import Request, Unreadable, check_shape, read_image
from image_transformer.data.images import Captions, DataError, ImageData, NoSplitError, first_line
from image_transformer.data.sources import ALIASES, SUFFIXES, TEXTS, wordings_of
from image_transformer.files import replace_file

TOGETHER = 4  # shards whose images are mixed
HELD = 2 * TOGETHER + 1  # shards in memory: those that are read, and the next ones, which are fetched meanwhile
HELD_OUT = 2000  # images of a split other than the training's
VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "mtime", "LastModified", "last_modified")  # fsspec's, by system
CONTENTS = 2  # raise it when more is looked up in shards: what was kept before is then no longer found


class Item(NamedTuple):
    """An encoded image, its class, and the wordings of its caption, each None if there is none."""

    content: bytes
    label: int | None = None
    wordings: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Shard:
    path: str
    size: int  # bytes
    version: str = ""  # what its system says of it: another one, once it has been written again
    count: int = 0  # images
    classes: int = 0  # one more than the highest class
    mark: str = ""  # digest of its table of contents
    longest: str = ""  # caption


def load_stream(
    source: str,
    split: str = "train",
    *,
    shape: tuple[int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    skip_bad: bool = False,
) -> ImageData | Stream:
    """The training images of a data set in shards; of another split, its first 2,000 images, in memory.

    source: a folder, a pattern with * or {000..123}, of files or of any address that fsspec knows, such as
    hf://datasets/owner/name/data/*.parquet. Splits go by a word of the files' names; without a split for validation,
    the last shard of the training is held out. A tar holds KEY.png (.jpg, ...) and, if there are classes or captions,
    KEY.cls and KEY.txt, a wording in each line.
    What a shard holds is looked up once, and kept in `$IMAGE_TRANSFORMER_CACHE`. skip_bad: the place of an image that
    cannot be read is taken by the one before it in its shard, or the next.
    Raises DataError for shards that are missing or unreadable, and images that do not fit.
    """
    ask = Request(source, split, shape, size, skip_bad)
    groups: dict[str, list[Shard]] = {}
    for shard in _looked_up(_found(source)):
        words = re.split(r"[\W_]+", PurePosixPath(shard.path).name.lower())
        groups.setdefault(next((ALIASES[word] for word in words if word in ALIASES), "train"), []).append(shard)
    train = groups.get("train", [])
    if "validation" not in groups and len(train) > 1:
        groups["validation"] = [train.pop()]
    if not groups.get(split):
        raise NoSplitError(f"{source}: no shards of the {split} split, only {', '.join(groups) or 'others'}")
    stream = Stream(ask, groups[split])
    return stream if split == "train" else stream.first(HELD_OUT)


class Stream:
    """Images in shards, as `ImageData` gives them, but that only `rows` has any."""

    skipped = 0
    images = sources = None

    def __init__(self, ask: Request, shards: Sequence[Shard]) -> None:
        self.ask, self.shards = ask, tuple(shards)
        self.name, self.split = ask.source, ask.split
        self._starts = np.cumsum([0, *(shard.count for shard in shards)])  # number of each shard's first image
        self._held: OrderedDict[int, Future[list[Item]]] = OrderedDict()
        self._readers = ThreadPoolExecutor(2, "shards")
        self._next: dict[int, list[int]] = {}  # the shards that follow one in the newest order
        self._longest = max((shard.longest for shard in self.shards), key=_size)
        number = max(shard.classes for shard in self.shards)
        self.classes = _classes(self.shards[0].path) or tuple(map(str, range(number)))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Of the first image, None if it has none."""
        label = self._items(0)[0].label
        return None if label is None else np.array([label], dtype=np.int64)

    @property
    def captions(self) -> Captions | None:
        """Of the first image, and the longest one; None if there is none."""
        return (self._items(0)[0].wordings or ("",), (self._longest,)) if self._longest else None

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The numbers of all images, shuffled: shards, and then images among some shards that follow each other."""
        shards = rng.permutation(len(self.shards))
        groups = [shards[i : i + TOGETHER].tolist() for i in range(0, len(shards), TOGETHER)]
        self._next = {one: after for group, after in zip(groups, [*groups[1:], []], strict=True) for one in group}
        numbers = [np.concatenate([np.arange(*self._starts[one : one + 2]) for one in group]) for group in groups]
        return np.concatenate([rng.permutation(some) for some in numbers])

    def rows(self, index: NDArray[np.int64]) -> ImageData:
        """Some of the images, decoded, with their classes. DataError for what cannot be read or does not fit."""
        homes = np.searchsorted(self._starts, index, "right") - 1
        pairs = [(int(home), int(number - self._starts[home])) for home, number in zip(homes, index, strict=True)]
        return self._decoded(pairs)

    def first(self, count: int) -> ImageData:
        """The first images, shard by shard."""
        return self.rows(np.arange(min(count, len(self))))

    def some(self, count: int | None) -> ImageData:
        """Images that stand for the whole: evenly from as few shards as hold so many."""
        count = len(self) if count is None else min(count, len(self))
        within = int(self._starts[np.searchsorted(self._starts, count)])
        return self.rows(np.linspace(0, within - 1, count).astype(np.int64))

    def digest(self) -> str:
        """Of the names of its shards, their sizes and their tables of contents."""
        seen = [(PurePosixPath(one.path).name, one.size, one.count, one.mark) for one in self.shards]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()

    def _items(self, home: int) -> list[Item]:
        """All of a shard, which begins to fetch those that come next; the longest unused ones are dropped."""
        for one in (home, *self._next.get(home, [])):
            if one not in self._held:
                self._held[one] = self._readers.submit(_read, self.shards[one])
        self._held.move_to_end(home)
        while len(self._held) > HELD:
            self._held.popitem(last=False)
        return self._held[home].result()

    def _decoded(self, pairs: Sequence[tuple[int, int]]) -> ImageData:
        images: list[NDArray[np.uint8]] = []
        found: list[Item] = []
        channels = self.ask.shape[0] if self.ask.shape else 3
        for home, place in pairs:
            items = self._items(home)
            others = (*range(place - 1, -1, -1), *range(place + 1, len(items))) if self.ask.skip_bad else ()
            for used in (place, *others):
                try:
                    name = f"{self.shards[home].path}, image {used}"
                    image = read_image(items[used].content, name, channels, self.ask.size)
                    break
                except Unreadable:
                    if used == (place, *others)[-1]:
                        raise
            check_shape(image.shape, self.ask)
            if images and image.shape != images[0].shape:
                raise DataError(f"{self.name}: mixed sizes, {name} is {image.shape[1]}x{image.shape[2]}: pass --size")
            images.append(image)
            found.append(items[used])
        labels = [item.label for item in found]
        known = None if any(label is None for label in labels) else np.array(labels, dtype=np.int64)
        captions = tuple(item.wordings or ("",) for item in found) if self._longest else None
        return ImageData(self.name, self.split, np.stack(images), known, self.classes, captions=captions)


def _found(source: str) -> list[Shard]:
    """The shards behind a source, by name."""
    import fsspec  # a tenth of a second

    try:
        paths: list[str] = []
        for pattern in _braces(source):
            system, path = fsspec.core.url_to_fs(pattern)
            found = system.find(path) if system.exists(path) else system.glob(path)  # a name may hold brackets
            paths += [system.unstrip_protocol(one) for one in found]
        paths = sorted({path for path in paths if path.endswith((".tar", ".parquet"))})
        told = [fsspec.core.url_to_fs(path)[0].info(path) for path in paths]
    except Exception as error:  # of whatever system it is
        raise DataError(f"{source}: cannot be listed ({first_line(error)})") from None
    if not paths:
        raise DataError(f"{source}: expected shards (.tar or .parquet), found none")
    return [
        Shard(path, info["size"], str(next((info[name] for name in VERSIONS if info.get(name)), "")))
        for path, info in zip(paths, told, strict=True)
    ]


def _braces(source: str) -> list[str]:
    """A name with {000..123} in it as all the names that it stands for."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", source)
    if not found:
        return [source]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    filled = [source[: found.start()] + str(n).zfill(len(first)) + source[found.end() :] for n in numbers]
    return [name for one in filled for name in _braces(one)]


def _looked_up(shards: Sequence[Shard]) -> list[Shard]:
    """The shards with what is in them, from the cache or looked up; without those of no images."""
    key = hashlib.sha256(
        json.dumps([CONTENTS, *((one.path, one.size, one.version) for one in shards)]).encode()
    ).hexdigest()[:16]
    kept = cache_folder() / f"shards-{key}.json"
    try:
        found = [replace(shard, **seen) for shard, seen in zip(shards, json.loads(kept.read_text()), strict=True)]
    except (OSError, ValueError, TypeError):
        with ThreadPoolExecutor(8) as readers:
            found = list(readers.map(_look_up, shards))
        seen = [{name: getattr(one, name) for name in ("count", "classes", "mark", "longest")} for one in found]
        with contextlib.suppress(OSError):  # they are looked up again next time
            replace_file(kept, json.dumps(seen).encode())
    return [shard for shard in found if shard.count]


def _look_up(shard: Shard) -> Shard:
    """The shard with what its table of contents says."""
    with _opened(shard.path) as file:
        if shard.path.endswith(".parquet"):
            parquet = _parquet().ParquetFile(file)
            columns, count = _columns(parquet), parquet.metadata.num_rows
            classes = [one for one in _column(parquet, columns.label) if one is not None]
            said = [one for told in _column(parquet, columns.text) for one in wordings_of(told)]
            file.seek(-8, io.SEEK_END)  # the footer's length, and four signs
            length = 8 + int.from_bytes(file.read(4), "little")
            file.seek(-length, io.SEEK_END)
            contents = file.read(length)
        else:
            with tarfile.open(fileobj=file) as archive:
                members = list(archive)
                classes = [int(_content(archive, one)) for one in members if one.name.endswith(".cls")]
                texts = [_content(archive, one) for one in members if one.name.endswith(".txt")]
                said = [wording for text in texts for wording in _lines(text)]
            count = len({_key(one.name) for one in members if _is_image(one.name)})
            contents = str([(one.name, one.size, one.mtime) for one in members]).encode()
    mark = hashlib.sha256(contents).hexdigest()[:16]
    longest = max(said, key=_size, default="")
    return replace(shard, count=count, classes=max(classes, default=-1) + 1, mark=mark, longest=longest)


def _read(shard: Shard) -> list[Item]:
    """All images of a shard, encoded, in its order."""
    with _opened(shard.path) as file:
        items = _rows(_parquet().ParquetFile(file)) if shard.path.endswith(".parquet") else _members(file)
    if len(items) != shard.count:
        raise DataError(f"{shard.path}: expected {shard.count:,} images, found {len(items):,}: was it replaced?")
    return items


def _members(file: Any) -> list[Item]:
    with tarfile.open(fileobj=io.BytesIO(file.read())) as archive:
        found = {
            one.name: _content(archive, one)
            for one in archive if _is_image(one.name) or one.name.endswith((".cls", ".txt"))
        }  # fmt: skip
    images = {_key(name): content for name, content in found.items() if _is_image(name)}
    return [
        Item(
            content,
            int(found[f"{key}.cls"]) if f"{key}.cls" in found else None,
            _lines(found[f"{key}.txt"]) if f"{key}.txt" in found else None,
        )
        for key, content in images.items()
    ]


def _lines(text: bytes) -> tuple[str, ...]:
    """The wordings in a file of text: its lines. The empty text, which tells nothing, if there are none."""
    return tuple(line.strip() for line in text.decode().splitlines() if line.strip()) or ("",)


def _size(text: str) -> int:
    return len(text.encode())


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file else b""


def _key(name: str) -> str:
    return name.rpartition(".")[0]


def _rows(file: Any) -> list[Item]:
    columns = _columns(file)
    table = file.read([name for name in columns if name]).to_pylist()
    return [
        Item(
            (row[columns.image] or {}).get("bytes") or b"",
            row[columns.label] if columns.label else None,
            wordings_of(row[columns.text]) if columns.text else None,
        )
        for row in table
    ]


def _column(file: Any, name: str) -> list[Any]:
    return list(file.read([name])[name].to_pylist()) if name else []


class Columns(NamedTuple):
    """The names of columns, empty where there is none."""

    image: str
    label: str
    text: str


def _columns(file: Any) -> Columns:
    """The columns of the images, of their classes if these are whole numbers, and of captions if these are texts."""
    schema = file.schema_arrow
    image = next((name for name in ("img", "image") if name in schema.names), None)
    if image is None:
        raise ValueError(f"expected a column img or image, found {', '.join(schema.names)}")

    def named(names: Sequence[str], kind: str) -> str:
        fits = (name for name in names if name in schema.names and re.fullmatch(kind, str(schema.field(name).type)))
        return next(fits, "")

    return Columns(image, named(["label"], r"u?int\d+"), named(TEXTS, r"(list<.*: )?(large_)?string>?"))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Any]:
    """A shard's file, whose faults are DataErrors."""
    import fsspec

    wrong = "cannot be read"
    try:
        with fsspec.open(path, "rb") as file:
            wrong = "not a whole shard"
            yield file
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: {wrong} ({first_line(error)})") from None


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")


def _parquet() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError("Parquet needs `pip install 'image-transformer-pytorch[hf]'`") from None


def _classes(path: str) -> tuple[str, ...]:
    """The names of the classes, where a Parquet file tells them as Hugging Face `datasets` writes them."""
    if not path.endswith(".parquet"):
        return ()
    with _opened(path) as file:
        told = (_parquet().ParquetFile(file).schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    features = json.loads(told).get("info", {}).get("features", {})
    return tuple(features.get("label", {}).get("names", ()))
