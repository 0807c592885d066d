"""From the windows' logits at patch resolution to labels at the source size, exactly and without full-size logits.

Each step of the protocol - enlarge the patches to the window, crop, average the overlaps, resize the canvas to the
source - is linear, treats rows and columns independently, and forms means with non-negative weights. Together they are
two sparse operators Y and X on one mosaic L of all windows' patches ("nodes"):

    logits[y, x, :] = sum over a, b of  Y[y, a]  X[x, b]  L[a, b, :]

Neighbouring pixels that draw on the same nodes form a tile. A class that wins at all nodes of a tile wins at each of
its pixels, so that most tiles need no arithmetic. In the others, a class whose best node is below another class's worst
node cannot win. Only what is left is computed, in pieces that fit the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.windows import WindowPlan, bilinear_taps

_TILE_SIDES = (1, 2, 4, 8, 12, 16, 24, 32)  # tiles are padded to one of these; longer runs of pixels are divided
_CHUNK_VALUES = 2**18  # float32 values computed at a time: 1 MiB stays in a usual L2 cache
_BAND = 16  # rows and columns that rows() computes at a time
_SHORT_ARGMAX = 16  # above it NumPy's argmax over a multiple of _ARGMAX_STEP classes is faster than over fewer
_ARGMAX_STEP = 64


@dataclass(frozen=True)
class _Tiles:
    """Those tiles of one axis that have the same padded shape.

    Attributes:
        members: (n,) index of each tile along the axis.
        positions: (n, R) source positions; a shorter tile repeats its last one.
        nodes: (n, S) mosaic positions that the tile draws on.
        weights: (n, R, S) float32 share of each node.
    """

    members: NDArray[np.intp]
    positions: NDArray[np.intp]
    nodes: NDArray[np.intp]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class _Axis:
    """One of the two sparse operators, from the mosaic to the source along one axis.

    Attributes:
        nodes: (n0, E) ascending mosaic positions that each source position draws on; shorter lists repeat their last.
        weights: (n0, E) float32 share of each node, 0 for repetitions; a row sums to one.
        lengths: (tiles,) source positions in each tile.
        tiles: all tiles, grouped by padded shape.
    """

    nodes: NDArray[np.intp]
    weights: NDArray[np.float32]
    lengths: NDArray[np.intp]
    tiles: tuple[_Tiles, ...]

    def operator(self, start: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Nodes (m,) behind the source positions start..stop-1, and their shares (stop - start, m) float32."""
        nodes, column = np.unique(self.nodes[start:stop], return_inverse=True)
        dense = np.zeros((stop - start, len(nodes)), np.float32)
        row = np.arange(stop - start)[:, None]
        np.add.at(dense, (row, column.reshape(stop - start, -1)), self.weights[start:stop])
        return nodes, dense

    def extremes(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Lowest and highest of values (nodes, ...) within each tile: two arrays (tiles, ...)."""
        lowest = np.empty((len(self.lengths), *values.shape[1:]), values.dtype)
        highest = np.empty_like(lowest)
        for tiles in self.tiles:
            within = values[tiles.nodes]
            lowest[tiles.members], highest[tiles.members] = within.min(axis=1), within.max(axis=1)
        return lowest, highest


class LogitField:
    """Logits of one picture, held at patch resolution and evaluated at the source size on demand.

    Memory beside the result: the mosaic, which is a copy of `logits`, and a few MiB.
    """

    def __init__(self, plan: WindowPlan, logits: NDArray[np.float32], patch_size: int):
        """Arrange the windows' logits.

        Args:
            plan: where the windows lie.
            logits: (n, K, gh, gw) float32, finite, windows row by row; gh, gw: patches that cover the window.
            patch_size: side of a patch in pixels.

        Raises:
            UsageError: logits whose shape does not follow from the plan and the patch size.
        """
        grid = -(-plan.window[0] // patch_size), -(-plan.window[1] // patch_size)
        if logits.ndim != 4 or logits.shape[0] != len(plan) or logits.shape[2:] != grid or logits.shape[1] < 1:
            raise UsageError(f"expected logits of ({len(plan)}, classes, {grid[0]}, {grid[1]}), got {logits.shape}")
        self.plan = plan
        self._mosaic = _mosaic(logits, len(plan.rows))
        self._y = _axis(plan.source[0], plan.canvas[0], plan.rows, plan.window[0], patch_size)
        self._x = _axis(plan.source[1], plan.canvas[1], plan.columns, plan.window[1], patch_size)

    def labels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Winning class of each source pixel, the lower id on ties: (H0, W0), uint8 up to 256 classes, else uint16."""
        dtype = np.uint8 if self._mosaic.shape[2] <= 256 else np.uint16
        winners = self._mosaic.argmax(axis=2).astype(dtype)
        low, high = self._y.extremes(winners)
        lowest, highest = self._x.extremes(low.T)[0].T, self._x.extremes(high.T)[1].T
        labels = np.repeat(np.repeat(lowest, self._x.lengths, axis=1), self._y.lengths, axis=0)
        mixed = lowest != highest
        for rows in self._y.tiles:
            for columns in self._x.tiles:
                pairs = np.nonzero(mixed[np.ix_(rows.members, columns.members)])
                self._label_tiles(labels, rows, columns, pairs)
        return labels

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Logits of the source rows start..stop-1: (stop - start, W0, K) float32.

        Raises:
            UsageError: rows outside the picture.
        """
        height, width = self.plan.source
        if not 0 <= start <= stop <= height:
            raise UsageError(f"rows {start}..{stop} are not within the picture's {height}")
        classes = self._mosaic.shape[2]
        band = np.empty((stop - start, width, classes), np.float32)
        for top in range(start, stop, _BAND):
            bottom = min(top + _BAND, stop)
            nodes, weights = self._y.operator(top, bottom)
            tall = (weights @ self._mosaic[nodes].reshape(len(nodes), -1)).reshape(bottom - top, -1, classes)
            for left in range(0, width, _BAND):
                nodes, weights = self._x.operator(left, min(left + _BAND, width))
                np.matmul(weights, tall[:, nodes], out=band[top - start : bottom - start, left : left + _BAND])
        return band

    def probabilities(self, start: int, stop: int) -> NDArray[np.float32]:
        """Softmax over the classes of the source rows start..stop-1: (stop - start, W0, K) float32.

        Raises:
            UsageError: rows outside the picture.
        """
        band = self.rows(start, stop)
        for row in band:
            row -= row.max(axis=1, keepdims=True)
            np.exp(row, out=row)
            row /= row.sum(axis=1, keepdims=True)
        return band

    def _label_tiles(
        self, labels: NDArray[Any], rows: _Tiles, columns: _Tiles, pairs: tuple[NDArray[np.intp], ...]
    ) -> None:
        """Compute the labels of the tiles at `pairs` of row tile and column tile, and write them into `labels`."""
        classes = self._mosaic.shape[2]
        step = max(1, _CHUNK_VALUES // (columns.nodes.shape[1] * rows.nodes.shape[1] * classes))
        for first in range(0, len(pairs[0]), step):
            row, column = pairs[0][first : first + step], pairs[1][first : first + step]
            corners = self._mosaic[rows.nodes[row][:, None, :], columns.nodes[column][:, :, None]]
            for part, candidates in _contests(corners, rows.positions.shape[1] * columns.positions.shape[1]):
                winners = _evaluate(corners[part], candidates, rows.weights[row[part]], columns.weights[column[part]])
                places = rows.positions[row[part]][:, None, :], columns.positions[column[part]][:, :, None]
                labels[places] = winners


def _mosaic(logits: NDArray[np.float32], window_rows: int) -> NDArray[np.float32]:
    """Windows (n, K, gh, gw) side by side as one array (nI*gh, nJ*gw, K), without regard to their overlaps."""
    count, classes, height, width = logits.shape
    window_columns = count // window_rows
    mosaic = np.empty((window_rows, height, window_columns, width, classes), np.float32)
    for index, window in enumerate(logits):
        row, column = divmod(index, window_columns)
        flat = np.ascontiguousarray(window, dtype=np.float32).reshape(classes, height * width)
        # OpenCV's transpose works in blocks and takes a ninth of NumPy's time
        mosaic[row, :, column] = cv2.transpose(flat).reshape(height, width, classes)
    return mosaic.reshape(window_rows * height, window_columns * width, classes)


def _contests(corners: NDArray[np.float32], pixels: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Divide tiles into parts of similar work, each with the classes that can win there.

    Args:
        corners: (n, T, S, K) float32 logits at the nodes of each tile.
        pixels: of a padded tile.

    Yields:
        part: (m,) indices of tiles; candidates: (m, c) classes. Those that can win come first, in ascending order;
        classes that cannot win fill the rest.
    """
    classes = corners.shape[3]
    at_nodes = corners.reshape(len(corners), -1, classes)
    to_beat = at_nodes.min(axis=1).max(axis=1, keepdims=True)
    hopeless = at_nodes.max(axis=1) < to_beat
    counts = classes - np.count_nonzero(hopeless, axis=1)
    order = np.argsort(counts, kind="stable")
    first = 0
    while first < len(order):
        # double the first tile's count at most, so that padding never costs more than the work itself
        budget = max(1, _CHUNK_VALUES // (pixels * int(counts[order[first]])))
        within = order[first : first + budget]
        part = within[counts[within] <= 2 * counts[within[0]]]
        yield part, _candidates(hopeless[part], int(counts[part[-1]]))
        first += len(part)


def _candidates(hopeless: NDArray[np.bool_], count: int) -> NDArray[np.intp]:
    """The classes that are not hopeless, ascending, filled up with others: (m, c) with c at least `count`."""
    classes = hopeless.shape[1]
    width = count if count <= _SHORT_ARGMAX else min(classes, -(-count // _ARGMAX_STEP) * _ARGMAX_STEP)
    return np.argsort(hopeless, axis=1, kind="stable")[:, :width]


def _evaluate(
    corners: NDArray[np.float32],
    candidates: NDArray[np.intp],
    row_weights: NDArray[np.float32],
    column_weights: NDArray[np.float32],
) -> NDArray[np.intp]:
    """Winning class of each pixel of m tiles.

    Args:
        corners: (m, T, S, K) float32 logits at the tiles' nodes.
        candidates: (m, c) classes to compare; the earlier wins a tie.
        row_weights: (m, R, S) float32.
        column_weights: (m, C, T) float32.

    Returns:
        (m, C, R) class ids, columns first.
    """
    count, across, _, classes = corners.shape
    width = candidates.shape[1]
    if width < classes:
        corners = np.take_along_axis(corners, candidates[:, None, None, :], axis=3)
    tall = np.matmul(row_weights[:, None], corners).reshape(count, across, -1)
    full = np.matmul(column_weights, tall).reshape(count, column_weights.shape[1], -1, width)
    winners: NDArray[np.intp] = full.argmax(axis=3)
    if width == classes:
        return winners
    classes_won: NDArray[np.intp] = np.take_along_axis(candidates, winners.reshape(count, -1), axis=1)
    return classes_won.reshape(winners.shape)


@lru_cache(maxsize=32)
def _axis(source: int, canvas: int, anchors: tuple[int, ...], window: int, patch_size: int) -> _Axis:
    """The operator from mosaic to source along one axis, for windows of `window` pixels at `anchors` of the canvas."""
    grid = -(-window // patch_size)
    nodes, weights = _canvas_operator(canvas, anchors, window, grid, patch_size)
    low, high, share = bilinear_taps(canvas, source)
    resized = np.concatenate((weights[low] * (np.float32(1) - share)[:, None], weights[high] * share[:, None]), axis=1)
    packed, shares = _compact(np.concatenate((nodes[low], nodes[high]), axis=1), resized, len(anchors) * grid)
    starts, lengths = _runs(packed)
    return _Axis(packed, shares, lengths, _group_tiles(packed, shares, starts, lengths))


def _canvas_operator(
    canvas: int, anchors: tuple[int, ...], window: int, grid: int, patch_size: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Nodes and shares (canvas, E) of each canvas position: enlarge, crop and average the overlaps along one axis."""
    low, high, share = bilinear_taps(grid, grid * patch_size)
    edges = np.asarray(anchors)
    positions = np.arange(canvas)
    first = np.searchsorted(edges + window, positions, side="right")  # the first window that covers a position
    covering = np.searchsorted(edges, positions, side="right") - first
    nodes, weights = [], []
    for nth in range(int(covering.max())):
        index = np.minimum(first + nth, len(edges) - 1)
        inside = np.clip(positions - edges[index], 0, window - 1)
        part = np.where(nth < covering, 1.0 / covering, 0.0)
        nodes += [index * grid + low[inside], index * grid + high[inside]]
        weights += [part * (np.float32(1) - share[inside]), part * share[inside]]
    return np.stack(nodes, axis=1), np.stack(weights, axis=1)


def _compact(
    nodes: NDArray[np.intp], weights: NDArray[np.float64], node_count: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Add up shares of the same node, drop zeros, sort by node; shorter rows repeat their last node with share 0."""
    row, entry = np.nonzero(weights)
    keys, inverse = np.unique(row * node_count + nodes[row, entry], return_inverse=True)
    sums = np.bincount(inverse, weights=weights[row, entry])
    row = keys // node_count
    lengths = np.bincount(row, minlength=len(nodes))
    ends = np.cumsum(lengths)
    slots = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    packed = keys[(ends - lengths)[:, None] + slots] % node_count
    shares = np.zeros(packed.shape, np.float32)
    shares[row, np.arange(len(keys)) - (ends - lengths)[row]] = sums
    return packed, shares


def _runs(nodes: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First positions and lengths of the runs of equal rows of `nodes`, long runs divided evenly."""
    changes = np.flatnonzero((nodes[1:] != nodes[:-1]).any(axis=1)) + 1
    borders = [0, *changes.tolist(), len(nodes)]
    starts: list[int] = []
    for start, stop in pairwise(borders):
        parts = -(-(stop - start) // _TILE_SIDES[-1])
        starts += [start + (stop - start) * part // parts for part in range(parts)]
    return np.array(starts), np.diff([*starts, len(nodes)])


def _group_tiles(
    nodes: NDArray[np.intp], weights: NDArray[np.float32], starts: NDArray[np.intp], lengths: NDArray[np.intp]
) -> tuple[_Tiles, ...]:
    """Group tiles by padded length and number of nodes."""
    sides = np.array(_TILE_SIDES)[np.searchsorted(_TILE_SIDES, lengths)]
    supports = np.count_nonzero(np.diff(nodes[starts], axis=1), axis=1) + 1
    groups = []
    for side, support in sorted(set(zip(sides.tolist(), supports.tolist(), strict=True))):
        members = np.flatnonzero((sides == side) & (supports == support))
        start, length = starts[members, None], lengths[members, None]
        positions = start + np.minimum(np.arange(side), length - 1)
        groups.append(_Tiles(members, positions, nodes[starts[members], :support], weights[positions, :support]))
    return tuple(groups)
