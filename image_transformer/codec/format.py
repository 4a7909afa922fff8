"""Files of compressed images, byte by byte: docs/format.md. What a reader meets is checked before anything is made."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from unicodedata import normalize

from image_transformer.codec.rans import DecodeError

MAGIC = b"\x89ITC"
VERSION = 1
FLOATS = 1  # the flag of a file whose tables were made in floating-point numbers
CHANNELS = {1: 1, 2: 1, 3: 3, 4: 3}  # of the images: of the network; the others are those that coders of networks skip

MOST_IMAGES = 256  # of a group
MOST_ROWS = 1 << 16  # of all images of a group together
MOST_LANES = 256
MOST_NAMES = 1 << 24  # bytes
LIMIT = 1 << 28  # pixels that a reader makes, unless told otherwise
LEAST = 64  # pixels that an image, and a step of decoding, count as: they take time and memory of their own
MOST_OF_NAME = 200  # bytes that are written
DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", *(x + i for x in ("COM", "LPT") for i in "0123456789¹²³")}


class FormatError(DecodeError):
    """Not a file of compressed images, one of a later version, or one that says what cannot be; in one line."""


@dataclass(frozen=True)
class Group:
    """Images of one size that are decoded together, and where their bytes lie: from `start` those of the colours, then
    those of the opacities.
    """

    count: int
    channels: int  # 1 grey, 2 grey and opacity, 3 RGB, 4 RGB and opacity
    height: int
    width: int
    lanes: int
    colour_bytes: int
    alpha_bytes: int
    start: int = 0

    @property
    def pixels(self) -> int:
        return self.count * self.height * self.width

    @property
    def work(self) -> int:
        """What a reader's limit counts: pixels, or more where an image or a step has few."""
        return max(self.pixels, LEAST * (self.count + self.width + 2 * self.height))

    @property
    def colours(self) -> int:
        return CHANNELS[self.channels]

    @property
    def bytes(self) -> int:
        return self.colour_bytes + self.alpha_bytes


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its images."""

    model: int  # number of a released coding model; 0: another, which only its fingerprint names
    fingerprint: bytes  # four
    groups: tuple[Group, ...]
    names: tuple[str, ...] = ()  # of the images, or none
    floats: bool = False
    version: int = VERSION
    size: int = 0  # bytes of the header itself

    @property
    def images(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def values(self) -> int:
        """Of all images, in all of their channels: what bits/dim are per."""
        return sum(group.pixels * group.channels for group in self.groups)


def write_header(header: Header) -> bytes:
    parts = [MAGIC, bytes([VERSION, FLOATS * header.floats]), header.model.to_bytes(2, "little"), header.fingerprint]
    parts.append(_number(len(header.groups)))
    for group in header.groups:
        numbers = (group.count, group.channels, group.height, group.width, group.lanes)
        parts += map(_number, (*numbers, group.colour_bytes, group.alpha_bytes))
    names = zlib.compress("\n".join(header.names).encode(), 9) if header.names else b""
    parts += [_number(len(names)), names]
    whole = b"".join(parts)
    return whole + zlib.crc32(whole).to_bytes(4, "little")


def read_header(data: bytes | memoryview) -> Header:
    """The header of the file `data`, whose images need not be there yet. FormatError if it is none."""
    data = memoryview(data)
    if bytes(data[:4]) != MAGIC:
        raise FormatError("not a file of compressed images: it does not begin with \\x89ITC")
    if len(data) > 4 and data[4] != VERSION:
        raise FormatError(
            f"version {data[4]} of the format: this program reads version {VERSION}; a newer one may help"
        )
    read = _Reader(data)
    read.bytes(5)
    flags, model, fingerprint = read.byte(), read.byte() + 256 * read.byte(), bytes(read.bytes(4))
    if flags not in (0, FLOATS):
        raise FormatError("the header is damaged")
    groups = []
    for _ in range(read.number()):
        groups.append(Group(*(read.number() for _ in range(7))))
    packed = bytes(read.bytes(read.number()))
    end = read.at
    if zlib.crc32(data[:end]) != int.from_bytes(read.bytes(4), "little"):
        raise FormatError("the header is damaged")
    _check(groups)
    starts = accumulate((group.bytes for group in groups), initial=read.at)
    placed = tuple(replace(group, start=start) for group, start in zip(groups, starts, strict=False))
    header = Header(model, fingerprint, placed, floats=bool(flags), version=data[4], size=read.at)
    return replace(header, names=_names(packed, header.images)) if packed else header


def payload(data: bytes | memoryview, group: Group) -> tuple[memoryview, memoryview]:
    """The bytes of a group: of its colours, of its opacities."""
    part = memoryview(data)[group.start : group.start + group.bytes]
    if len(part) < group.bytes:
        raise DecodeError("the file is cut off")
    return part[: group.colour_bytes], part[group.colour_bytes :]


def check_limit(groups: Sequence[Group], limit: int) -> None:
    """FormatError if decoding the groups would make more pixels than that, or take as long as if it did."""
    pixels, work = sum(group.pixels for group in groups), sum(group.work for group in groups)
    if work > limit:
        as_many = "" if work == pixels else f" and takes as long as {work:,}"
        raise FormatError(f"the file says that it holds {pixels:,} pixels{as_many}; the limit is {limit:,}")


def check_end(data: bytes | memoryview, header: Header) -> None:
    """DecodeError unless the file ends where its header says."""
    end = header.size + sum(group.bytes for group in header.groups)
    if len(data) != end:
        raise DecodeError("the file is cut off" if len(data) < end else "there are bytes after the end of the file")


def file_name(text: str, ending: str = "") -> str:
    """The nearest to a text, with an ending, that every system takes as a file's name, whatever follows its full stop.

    No device of Windows, none that is hidden, and at most 200 bytes: room for a suffix, and for a file in the making.
    """
    name = "".join(c if _is_plain(c) else "_" for c in text).rstrip(". ")
    if name[:1] in ("", ".") or name.split(".")[0].rstrip().upper() in DEVICES:
        name = "_" + name
    return name.encode()[: MOST_OF_NAME - len(ending)].decode(errors="ignore").rstrip(". ") + ending


def alike(name: str) -> str:
    """What names have in common that some systems take for one: case, and how accents are written."""
    return normalize("NFC", name.casefold())


def _is_plain(text: str) -> bool:
    return text.isprintable() and not set(text) & set('/\\:*?"<>|')


def _check(groups: Sequence[Group]) -> None:
    if not groups:
        raise FormatError("the header says what cannot be")
    for group in groups:
        alpha = group.channels in (2, 4)
        fits = (
            group.channels in CHANNELS
            and min(group.count, group.height, group.width) > 0
            and group.count <= MOST_IMAGES
            and group.count * group.height <= MOST_ROWS
            and group.width <= MOST_ROWS
            and 0 < group.lanes <= MOST_LANES
            and group.colour_bytes >= 8 * group.lanes
            and alpha == (group.alpha_bytes > 0)
        )
        if not fits:
            raise FormatError("the header says what cannot be")


def _names(packed: bytes, images: int) -> tuple[str, ...]:
    """The names of the images."""
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(packed, MOST_NAMES).decode()
    except (zlib.error, UnicodeDecodeError):
        raise FormatError("the header is damaged") from None
    names = tuple(text.split("\n"))
    if not unpack.eof or unpack.unused_data or len(names) != images or not all(map(_is_readable, names)):
        raise FormatError("the header says what cannot be")
    return names


def _is_readable(name: str) -> bool:
    """Names of older files may be such as `file_name` alters, but lead nowhere either."""
    return 0 < len(name) <= 255 and name[0] != "." and _is_plain(name)


def _number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


class _Reader:
    """Takes one thing after the other from the front of the data."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def bytes(self, count: int) -> memoryview:
        found = self.data[self.at : self.at + count]
        if len(found) < count:
            raise FormatError("the file is cut off")
        self.at += count
        return found

    def byte(self) -> int:
        return self.bytes(1)[0]

    def number(self) -> int:
        found = 0
        for shift in range(0, 63, 7):
            byte = self.byte()
            found |= (byte & 127) << shift
            if byte < 128:
                if not byte and shift:  # one number is written in one way
                    break
                return found
        raise FormatError("the header is damaged")
