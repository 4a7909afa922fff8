"""A decoder of compressed images, written from docs/format.md alone in NumPy and plain Python: slow, and short enough
to be read beside that page. It shares no code with the package, so what both read alike is what the page says."""

import hashlib
import json
import math
import zlib
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
from safetensors import safe_open

OFFSETS = [
    (-1, 0), (0, -1), (-1, -1), (-1, 1), (-2, 0), (0, -2), (-2, -1), (-2, 1), (-1, -2),
    (-2, -2), (-2, 2), (-3, 0), (0, -3), (-3, -1), (-3, 1), (-1, -3), (1, -3),
]  # fmt: skip
PAIRS = [(1, 0), (2, 0), (2, 1)]
FIELDS = ("images", "channels", "height", "width", "lanes", "colours", "opacities")


# ---- the container ----


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, count):
        self.at += count
        assert self.at <= len(self.data), "cut off"
        return self.data[self.at - count : self.at]

    def fixed(self, count):
        return int.from_bytes(self.bytes(count), "little")

    def varint(self):
        value = 0
        for place in range(9):
            byte = self.fixed(1)
            value |= (byte & 127) << 7 * place
            if byte < 128:
                assert byte or not place, "more bytes than the number needs"
                return value
        raise AssertionError("more than nine bytes")


def decode(data, model):
    """All images of a file, each (c, h, w), and their names, by the file of a coding model."""
    read, network = Reader(data), Network(model)
    assert read.bytes(4) == b"\x89ITC" and read.fixed(1) == 1 and read.fixed(1) == 0
    read.fixed(2)
    assert read.bytes(4) == network.fingerprint
    groups = [{name: read.varint() for name in FIELDS} for _ in range(read.varint())]
    packed = read.bytes(read.varint())
    names = unpacked(packed).decode().split("\n") if packed else []
    assert zlib.crc32(data[: read.at]) == read.fixed(4)
    images = []
    for group in groups:
        images += [*decode_group(group, read.bytes(group["colours"]), read.bytes(group["opacities"]), network)]
    assert read.at == len(data)
    return images, names


def unpacked(stream):
    unpack = zlib.decompressobj()
    data = unpack.decompress(stream)
    assert unpack.eof and not unpack.unused_data
    return data


# ---- a group ----


class Lanes:
    def __init__(self, data, lanes):
        self.read = Reader(data)
        self.states = [self.read.fixed(8) for _ in range(lanes)]
        assert all(2**31 <= x < 2**63 for x in self.states)

    def symbols(self, tables):
        """One symbol by each table (257,) of the counts below the values, the first of them by lane 0."""
        for number, below in enumerate(tables):
            lane = number % len(self.states)
            x = self.states[lane]
            value = int(np.searchsorted(below, x % 2**24, side="right")) - 1
            start, end = int(below[value]), int(below[value + 1])
            x = (end - start) * (x // 2**24) + x % 2**24 - start
            if x < 2**31:
                x = 2**32 * x + self.read.fixed(4)
            self.states[lane] = x
            yield value

    def mark(self):
        assert self.read.at == len(self.read.data) and all(x == 2**31 for x in self.states[1:])
        return self.states[0] - 2**31


def decode_group(group, colours, opacities, network):
    n, channels, height, width = (group[name] for name in FIELDS[:4])
    images, lanes = np.zeros((n, 3, height, width), np.uint8), Lanes(colours, group["lanes"])
    network.states.clear()
    for front in range(width + 2 * (height - 1)):
        pixels = [(row, front - 2 * row) for row in range(height) if 0 <= front - 2 * row < width]
        if not pixels:
            continue
        tables = [Tables(params, network.k) for params in network(images, pixels)]
        for channel in range(3 if channels > 2 else 1):
            values = list(lanes.symbols([table.below(channel) for table in tables]))
            for number, (value, table) in enumerate(zip(values, tables, strict=True)):
                row, col = pixels[number // n]
                images[number % n, channel if channels > 2 else slice(None), row, col] = value
                table.know(value)
    found = images if channels > 2 else images[:, :1]
    pixels = found.tobytes()
    if channels in (2, 4):
        alpha = unpacked(opacities)
        pixels += alpha
        found = np.concatenate([found, np.frombuffer(alpha, np.uint8).reshape(n, 1, height, width)], 1)
    assert lanes.mark() == zlib.crc32(pixels) % 2**31
    return found


# ---- tables ----


def exactly(values, table):
    with localcontext(prec=40):
        return np.array([table(Decimal(value)) for value in values])


@lru_cache
def tables():
    """exp of 0, -1/64, ...; tanh and the logistic, each with its zero in the middle; inverses of the scales."""
    exp = exactly(range(1025), lambda d: max(1, round(2**16 * (-d / 64).exp())))
    tanh = exactly(range(-16384, 16385), lambda c: round(2**14 * (1 - 2 / ((2 * c / 4096).exp() + 1))))
    inverse = exactly(range(-256, 65), lambda s: float(4096 / (64 * Decimal("127.5") * (s / 32).exp())))
    logistic = exactly(range(-65536, 65537), lambda x: round((2**20 - 16) / (1 + (-x / 4096).exp())))
    return exp, tanh, inverse, logistic


def weights_of(e):
    weights = np.floor((2**16 * e).astype(np.float64) / e.sum()).astype(np.int64)
    weights[0] += 2**16 - weights.sum()
    return weights


class Tables:
    """The counts below the values of a pixel's channels, in their order."""

    def __init__(self, params, k):
        params = params.astype(np.int64)
        self.means, scales, self.couplings = (params[k:][3 * k * i :][: 3 * k].reshape(3, k) for i in range(3))
        self.scales, self.values = scales.clip(-256, 64), []
        self.weights = weights_of(tables()[0][np.minimum(params[:k].max() - params[:k], 1024)])

    def below(self, channel):
        _, tanh, inverse, logistic = tables()
        mean = self.means[channel].copy()
        for coupling, (i, j) in zip(self.couplings, PAIRS, strict=True):
            if i == channel:
                mean += tanh[coupling.clip(-16384, 16384) + 16384] * (2 * self.values[j] - 255) * 32 >> 14
        edges = 64 * np.arange(1, 256) - 32 - mean[:, None]
        place = np.rint(edges * inverse[self.scales[channel] + 256][:, None]).clip(-65536, 65536)
        self.mass = np.zeros((len(mean), 257), np.int64)
        self.mass[:, 1:256], self.mass[:, 256] = logistic[place.astype(np.int64) + 65536], 2**20 - 16
        return (self.weights @ self.mass >> 12) + np.arange(257)

    def know(self, value):
        self.values.append(value)
        self.weights = weights_of(self.weights * (16 * (self.mass[:, value + 1] - self.mass[:, value]) + 1))


# ---- the network ----


class Network:
    """Parameters of pixels from earlier ones; it remembers the normalised states of a group."""

    def __init__(self, path):
        with safe_open(path, "np") as file:
            self.k = json.loads(file.metadata()["coding model"])["components"]
            self.parts = {name: file.get_tensor(name).astype(np.float32) for name in sorted(file.keys())}
        digest = hashlib.sha256(bytes([self.k]))
        for name, part in self.parts.items():
            digest.update(f"{name} {part.shape}".encode() + part.astype("<f4").tobytes())
        self.fingerprint, self.states = digest.digest()[:4], {}

    def __call__(self, images, pixels):
        parts, near = self.parts, OFFSETS[: len(self.parts["0.mix"])]
        a = np.concatenate([inputs(images, row, col) for row, col in pixels])
        x = whole(self.sums("stem", a) * parts["stem.scale"] + parts["stem.bias"], 2**22)
        for i in range(sum(name.endswith(".mix") for name in parts)):
            u = normed(x, 64)
            self.states |= {(i, *pixel): one for pixel, one in zip(pixels, np.split(u, len(pixels)), strict=True)}
            m = 256 * u
            for (down, right), weight in zip(near, parts[f"{i}.mix"], strict=True):
                nothing = np.zeros_like(u[: len(images)])
                its = [self.states.get((i, row + down, col + right), nothing) for row, col in pixels]
                m += weight * np.concatenate(its)
            m = whole(m / np.float32(256), 4095)
            h = np.maximum(self.sums(f"{i}.gate", m), 0) * self.sums(f"{i}.up", m) * parts[f"{i}.open"]
            down = self.sums(f"{i}.down", whole(h, 4095)) * parts[f"{i}.down.scale"]
            x = whole(x * parts[f"{i}.keep"] + down, 2**22)
        last = normed(x, 1024).astype(np.float64) @ parts["head"].astype(np.float64).T
        params = (last * parts["head.scale"] + parts["head.bias"]).astype(np.float32)
        params[:, self.k : 4 * self.k] += np.repeat(self.sums("skip", a) * parts["skip.scale"], self.k, 1)
        return whole(params, 2**24)

    def sums(self, name, x):
        return (x.astype(np.float64) @ self.parts[name].astype(np.float64).T).astype(np.float32)


def whole(x, largest):
    return np.rint(x).clip(-largest, largest)


def normed(x, steps):
    x = x.astype(np.float64)
    size = np.sqrt(np.maximum((x * x).sum(1, keepdims=True), 1))
    return np.rint(x.astype(np.float32) * (1 / size * (steps * math.sqrt(x.shape[1]))).astype(np.float32))


def inputs(images, row, col):
    """(n, 51): what a pixel is told of the 17 around it."""
    n, _, height, width = images.shape
    there = [(down, right) for down, right in OFFSETS if 0 <= row + down < height and 0 <= col + right < width]
    told = np.zeros((n, len(OFFSETS), 3), np.float32)
    for number, missing in enumerate(OFFSETS):
        if there:
            down, right = min(there, key=lambda one: math.dist(one, missing))
            told[:, number] = 2.0 * images[:, :, row + down, col + right] - 255
    return told.reshape(n, -1)
