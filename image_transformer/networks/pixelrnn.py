"""PixelRNN: long short-term memory along rows or diagonals (van den Oord et al., 2016, *Pixel recurrent neural
networks*)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from image_transformer.config.rivals import PixelRNN as Config
from image_transformer.geometry.order import Layout
from image_transformer.geometry.schedule import Schedule
from image_transformer.likelihoods.base import Likelihood
from image_transformer.networks.base import Decoder
from image_transformer.networks.pixelcnn import FIRST
from image_transformer.networks.raster import RasterNetwork, RowByRow, exactly

State = tuple[Tensor, Tensor]  # what a cell shows and what it keeps, (b, d, w) each


class PixelRNN(RasterNetwork):
    """A masked convolution, residual layers of memory cells, and two layers at each pixel (3.1 to 3.4 and table 1)."""

    def __init__(self, config: Config, layout: Layout, likelihood: Likelihood) -> None:
        super().__init__(config, layout, likelihood, config.head_width)
        width = 2 * config.width
        self.stem = self.masked(layout.channels, width, FIRST, first=True)
        kind = {"row": RowLSTM, "diagonal": DiagonalBiLSTM}[config.layer]
        self.by_rows = config.layer == "row"
        self.blocks = nn.ModuleList(kind(self, config) for _ in range(config.depth))
        self.before_head = self.at_each(width, config.head_width, config.head_width)

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self._rows(exactly(self.stem, x), ())[0]

    def _rows(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Feature maps of rows `x` of the stem's, given the states of all layers above them; and those of the last."""
        below: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x, state = block(x, (states[2 * i], states[2 * i + 1]) if states else None)
            below += state
        return self.before_head(x), tuple(below)

    def decoder(self, context: Any, batch: int, schedule: Schedule, *, prefilled: bool = False) -> Decoder:
        if not self.by_rows:  # a cell of the other direction sees the end of the row above, in every layer
            return super().decoder(context, batch, schedule, prefilled=prefilled)

        def stem(x: Tensor, first: int, end: int) -> Tensor:
            return exactly(self.stem, x[:, :, max(0, first - FIRST // 2) : end])[:, :, first - end :]

        def above(x: Tensor, row: int, last: int, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            if row == 0:
                return ()
            return self._rows(stem(x, max(0, last), row), states)[1]  # goes on from there

        def along(x: Tensor, row: int, states: tuple[Tensor, ...]) -> Tensor:
            return self._rows(stem(x, row, row + 1), states)[0]

        return RowByRow(self, context, above, along)


class RowLSTM(nn.Module):
    """From the top row down: a cell sees its neighbours in the input's row and among the states above (3.1)."""

    def __init__(self, network: RasterNetwork, config: Config) -> None:
        super().__init__()
        h = config.width
        self.from_input = network.masked(2 * h, 4 * h, (1, config.kernel), parts=4)
        self.from_state = nn.Conv1d(h, 4 * h, config.kernel, padding="same", bias=False)
        self.wide = network.masked(h, 2 * h, 1, start=config.depth**-0.5)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Feature maps `(b, 2 h, rows, w)` of some rows, given the state above them; and the state of the last."""
        gates = self.from_input(x)
        state, shown = state or _nothing(gates[:, :, 0], self.wide.weight), []
        for of_row in gates.unbind(2):
            state = _cell(of_row + self.from_state(state[0]), state)
            shown.append(state[0])
        return x + self.wide(torch.stack(shown, 2)), state


class DiagonalBiLSTM(nn.Module):
    """Along the diagonals from both upper corners: a cell sees those beside it and above it (3.2)."""

    def __init__(self, network: RasterNetwork, config: Config) -> None:
        super().__init__()
        h = config.width
        self.from_input = nn.ModuleList(network.masked(2 * h, 4 * h, 1, parts=4) for _ in range(2))
        self.from_state = nn.ParameterList(nn.Conv1d(h, 4 * h, 2).weight.detach() for _ in range(2))
        self.wide = network.masked(h, 2 * h, 1, start=config.depth**-0.5)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, tuple[()]]:
        """Feature maps `(b, 2 h, rows, w)`; there is no state to go on from."""
        left, right = self.from_input
        shown = self._from_left(left(x), 0)
        mirrored = self._from_left(right(x).flip(-1), 1).flip(-1)
        shown = shown + pad(mirrored, (0, 0, 1, 0))[:, :, :-1]  # in its own row it has seen what comes later
        return x + self.wide(shown), ()

    def _from_left(self, gates: Tensor, direction: int) -> Tensor:
        """What the cells show, `(b, h, rows, w)`, from the share of the input in their gates, `(b, 4 h, rows, w)`."""
        rows, columns = gates.shape[2:]
        weight = self.from_state[direction]
        skewed = pad(gates, (0, rows)).flatten(2)[:, :, :-rows].unflatten(2, (rows, -1))  # row r: r places to the right
        state, shown = _nothing(skewed[..., 0], weight), []
        for diagonal in skewed.unbind(-1):
            state = _cell(diagonal + conv1d(pad(state[0], (1, 0)), weight), state)
            shown.append(state[0])
        straight = pad(torch.stack(shown, -1).flatten(2), (0, rows)).unflatten(2, (rows, -1))
        return straight[..., :columns]


def _cell(gates: Tensor, state: State) -> State:
    """Equation 3: output, forget and input gates, and the content."""
    o, f, i, g = gates.chunk(4, 1)
    kept = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * kept.tanh(), kept


def _nothing(gates: Tensor, like: Tensor) -> State:
    """The state before the first row, of the shape that `gates` (b, 4 h, w) say, and as precise as the weights."""
    zero = torch.zeros_like(gates.chunk(4, 1)[0], dtype=like.dtype)
    return zero, zero
