"""`compress` and `decompress`: images of any sizes in one file, those of one size that follow each other together."""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate, groupby
from operator import index
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from image_transformer.codec.coder import Images, Progress, checksum, decode_images, encode_images, lanes_for
from image_transformer.codec.floats import decode_by_model, encode_by_model
from image_transformer.codec.format import (
    CHANNELS,
    LIMIT,
    MOST_IMAGES,
    MOST_NAMES,
    MOST_ROWS,
    FormatError,
    Group,
    Header,
    alike,
    check_end,
    check_limit,
    file_name,
    payload,
    read_header,
    write_header,
)
from image_transformer.codec.integers import exactly
from image_transformer.codec.models import DEFAULT, CodingModel, load_coding_model, released
from image_transformer.model import ImageModel

MOST_PIXELS = 1 << 22  # of a group of several images
Coder = CodingModel | ImageModel
Which = str | Path | Coder
Item = TypeVar("Item", Images, Group)
Result = TypeVar("Result")


def compress(
    images: Tensor | NDArray[np.uint8] | Sequence[Tensor | NDArray[np.uint8]],
    model: Which = DEFAULT,
    *,
    names: Sequence[str] = (),
    progress: Progress | None = None,
) -> bytes:
    """The bytes of images without loss: of uint8 `images` (n, c, h, w), or of several (c, h, w) of any sizes.

    1 channel is grey, 3 are RGB; 2 and 4 have opacity as their last one. Images of one size that follow each other, up
    to 256, are coded together: that is several times as fast as one by one, and they are decoded together.
    model: a coding model by its name or file, see `coding_model_names`: then the bytes can be read on every machine.
        Or an `ImageModel` of the images' shape, whose numbers another machine may round otherwise: such bytes are for
        the machine that made them, and others refuse them.
    names: of the images, each another one, as file names without a folder; `image-transformer decompress` gives them
        back.
    progress: called with (pixels done, pixels in all).
    Raises ValueError for what cannot be coded.

    >>> data = it.compress(images)
    >>> torch.equal(torch.stack(it.decompress(data)), torch.as_tensor(images))
    True
    """
    arrays = [_checked(image) for image in images]
    if not arrays:
        raise ValueError("no images to compress")
    if names and len(names) != len(arrays):
        raise ValueError(f"{len(names)} names for {len(arrays)} images")
    wrong = [name for name in names if file_name(name) != name]
    if len({alike(name) for name in names}) < len(names):
        raise ValueError("two names are one file on some systems: images need names of their own")
    if wrong:
        better = file_name(wrong[0])
        raise ValueError(f"{wrong[0]!r} cannot name an image: not every system takes it for a file, as {better!r}")
    if (much := len("\n".join(names).encode())) > MOST_NAMES:
        raise ValueError(f"the names take {much:,} bytes, and at most {MOST_NAMES:,} fit into a file")
    coder = model if isinstance(model, Coder) else load_coding_model(model)
    groups = list(alike_together(arrays))
    done = list(_each(lambda several, report: _encode(coder, several, report), groups, progress, coder))
    number, floats = (0, True) if isinstance(coder, ImageModel) else (coder.number, False)
    header = Header(number, fingerprint(coder), tuple(group for group, *_ in done), tuple(names), floats)
    return b"".join([write_header(header), *(part for _, *parts in done for part in parts)])


def decompress(
    data: bytes | memoryview,
    model: Which | None = None,
    *,
    only: Sequence[int] | None = None,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> list[Tensor]:
    """The images that `compress` was given, uint8 (c, h, w) each.

    model: needed if it was not one of those that come with the package.
    only: the numbers of some images, from 0: nothing is decoded but them and those coded together with them.
    limit: pixels that may be decoded in all; if it were more, nothing is. An image, and a step that decodes some
        pixels at once, count as 64 of them at least.
    Raises ValueError, in one line: for data that are damaged or cut off (DecodeError), that are no such file
    (FormatError), or that this machine or the given model cannot decode.

    >>> data = it.compress(images)
    >>> torch.equal(it.decompress(data, only=[1])[0], torch.as_tensor(images[1]))
    True
    """
    header = read_header(data)
    found = dict(each_image(data, header, only, model, limit=limit, progress=progress))
    return [torch.from_numpy(found[number]) for number in (found if only is None else only)]


def each_image(
    data: bytes | memoryview,
    header: Header,
    only: Sequence[int] | None = None,
    model: Which | None = None,
    *,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The numbers and images (c, h, w) that `decompress` gives, in the order of the file, a few groups at a time."""
    check_end(data, header)
    firsts = list(accumulate((group.count for group in header.groups), initial=0))
    wanted: Collection[int] = range(header.images)
    chosen: Sequence[int] = range(len(header.groups))
    if only is not None:
        wanted = {index(number) for number in only}
        if any(not 0 <= number < header.images for number in wanted):
            raise ValueError(f"only: the file holds images 0 to {header.images - 1}")
        chosen = sorted({bisect(firsts, number) - 1 for number in wanted})
    groups = [header.groups[i] for i in chosen]
    check_limit(groups, limit)
    coder = coder_of(header, model)
    done = _each(lambda group, report: _decode(coder, data, group, report), groups, progress, coder)
    for first, images in zip((firsts[i] for i in chosen), done, strict=True):
        yield from ((number, image) for number, image in enumerate(images, first) if number in wanted)


def fingerprint(coder: Coder) -> bytes:
    """Four bytes of a model's weights."""
    if isinstance(coder, CodingModel):
        return coder.fingerprint
    digest = hashlib.sha256()
    for name, weight in sorted(coder.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()[:4]


def coder_of(header: Header, model: Which | None) -> Coder:
    """The model that a file needs: the given one if it is that, or the released one. ValueError if there is none."""
    if model is None and (header.floats or not header.model):
        kind = "an ordinary model, in floating-point numbers" if header.floats else "a coding model of its own"
        raise ValueError(f"the file was made by {kind} ({header.fingerprint.hex()}), which must be given")
    if model is None:
        return released(header.fingerprint, header.model)
    coder = model if isinstance(model, Coder) else load_coding_model(model)
    if fingerprint(coder) != header.fingerprint:
        raise ValueError(
            f"the file was made by another model: {header.fingerprint.hex()}, not {fingerprint(coder).hex()}"
        )
    return coder


def _encode(coder: Coder, images: Images, progress: Progress) -> tuple[Group, bytes, bytes]:
    count, channels, height, width = images.shape
    colours, alpha = images[:, : CHANNELS[channels]], images[:, CHANNELS[channels] :]
    lanes = lanes_for(colours[:, 0].size)
    packed = zlib.compress(alpha.tobytes(), 9) if alpha.size else b""
    mark = checksum(colours.tobytes(), alpha.tobytes())
    colours = np.ascontiguousarray(colours)
    if isinstance(coder, ImageModel):
        _check_shape(coder, colours.shape)
        with exactly():
            coded = encode_by_model(coder, colours, lanes, mark, progress)
    else:
        coded = encode_images(coder.network, colours, lanes, mark, progress)
    return Group(count, channels, height, width, lanes, len(coded), len(packed)), coded, packed


def _decode(coder: Coder, data: bytes | memoryview, group: Group, progress: Progress) -> Images:
    coded, packed = payload(data, group)
    shape = (group.count, group.colours, group.height, group.width)
    alpha = np.zeros((group.count, group.channels - group.colours, *shape[2:]), np.uint8)
    if alpha.size:
        alpha = np.frombuffer(_inflate(packed, alpha.size), np.uint8).reshape(alpha.shape)
    if isinstance(coder, ImageModel):
        _check_shape(coder, shape)
        with exactly():
            colours, decoder = decode_by_model(coder, coded, shape, group.lanes, progress)
    else:
        colours, decoder = decode_images(coder.network, coded, shape, group.lanes, progress)
    decoder.finish(checksum(colours.tobytes(), alpha.tobytes()))
    return np.concatenate([colours, alpha], 1) if alpha.size else colours


def _inflate(packed: memoryview, size: int) -> bytes:
    unpack = zlib.decompressobj()
    try:
        found = unpack.decompress(packed, size + 1)
    except zlib.error:
        raise FormatError("the data are damaged") from None
    if len(found) != size or not unpack.eof or unpack.unused_data:
        raise FormatError("the data are damaged")
    return found


def _checked(image: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] not in CHANNELS or not array.size:
        raise ValueError(f"images must be uint8 (c, h, w) with 1 to 4 channels, got {array.dtype} {array.shape}")
    if max(array.shape[1:]) > MOST_ROWS:
        raise ValueError(
            f"an image has at most {MOST_ROWS:,} rows and columns, got {array.shape[1]} x {array.shape[2]}"
        )
    return array


def alike_together(images: Sequence[NDArray[np.uint8]]) -> Iterator[Images]:
    """Images that follow each other in one size, (n, c, h, w), as many as may be coded together."""
    for (_, height, width), same in groupby(images, lambda image: image.shape):
        several, most = list(same), max(1, min(MOST_IMAGES, MOST_ROWS // height, MOST_PIXELS // (height * width)))
        for first in range(0, len(several), most):
            yield np.stack(several[first : first + most])


def _each(
    work: Callable[[Item, Progress], Result], items: Sequence[Item], progress: Progress | None, coder: Coder
) -> Iterator[Result]:
    """What `work` makes of each item. With several threads, several items at a time: small steps leave threads idle.

    An ordinary model takes one at a time, since its sums depend on the number of threads.
    """
    reports = _Reports(progress, [item.pixels if isinstance(item, Group) else item[:, 0].size for item in items])
    threads = torch.get_num_threads()
    if isinstance(coder, ImageModel) or min(threads, len(items)) < 2:
        yield from (work(item, reports.of(i)) for i, item in enumerate(items))
        return
    torch.set_num_threads(1)
    pool, waiting = ThreadPoolExecutor(min(threads, len(items))), deque[Future[Result]]()
    try:
        for i, item in enumerate(items):
            waiting.append(pool.submit(work, item, reports.of(i)))
            if len(waiting) > threads:  # no more of them ahead of who takes them
                yield waiting.popleft().result()
        yield from (one.result() for one in waiting)
    finally:
        reports.stopped = True  # after an error or Ctrl-C: the others stop at their next step
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class _Reports:
    """The progress of several groups as one, in pixels."""

    def __init__(self, progress: Progress | None, pixels: Sequence[int]) -> None:
        self.progress, self.pixels, self.stopped = progress, pixels, False
        self.done, self.lock = [0] * len(pixels), Lock()

    def of(self, number: int) -> Progress:
        def report(fronts: int, of: int) -> None:
            if self.stopped:
                raise InterruptedError
            with self.lock:
                self.done[number] = self.pixels[number] * fronts // of
                if self.progress is not None:
                    self.progress(sum(self.done), sum(self.pixels))

        return report


def _check_shape(model: ImageModel, shape: Sequence[int]) -> None:
    if model.config.conditions:
        nouns = " and ".join(condition.noun for condition in model.config.conditions)
        raise ValueError(f"this model is told {nouns}, which a file does not hold: it cannot code images")
    if tuple(shape[1:]) != tuple(model.config.shape):
        raise ValueError(
            f"an ordinary model codes images of its own shape {tuple(model.config.shape)}, got {tuple(shape[1:])}"
        )
