"""From the windows' logits at patch resolution to labels at the source size, exactly and without full-size logits.

Each step of the protocol - enlarge the patches to the window, crop, average the overlaps, resize the canvas to the
source - is linear, treats rows and columns independently, and forms means with non-negative weights. Together they are
two sparse operators Y and X on one mosaic L of all windows' patches ("nodes"):

    logits[y, x, :] = sum over a, b of  Y[y, a]  X[x, b]  L[a, b, :]

Neighbouring pixels that draw on the same nodes form a tile. A class that wins at all nodes of a tile wins at each of
its pixels, so that most tiles need no arithmetic. In the others, a class that is below the mean of some rivals at all
nodes cannot win. Only what is left is computed, in pieces that fit the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from algm_trt.plugins.errors import UsageError
from algm_trt.runtime.card import ModelCard
from algm_trt.runtime.windows import WindowPlan, bilinear_taps, plan_whole

_TILE_SIDES = (1, 2, 4, 8, 12, 16, 24, 32)  # tiles are padded to one of these; longer runs of pixels are divided
_SHORT_RUN = 4  # shorter runs of pixels join the next one: many tiny tiles cost more than a few mixed ones
_CHUNK_VALUES = 2**19  # float32 values computed at a time: the pieces stay in the cache


@dataclass(frozen=True)
class _Group:
    """Those tiles of one axis that have the same padded shape.

    Attributes:
        members: (n,) index of each tile along the axis.
        positions: (n, R) source positions; a shorter tile repeats its last one.
        nodes: (n, S) mosaic positions that the tile draws on.
        shares: (n, R, S) float32 part of each node in each position.
    """

    members: NDArray[np.intp]
    positions: NDArray[np.intp]
    nodes: NDArray[np.intp]
    shares: NDArray[np.float32]


@dataclass(frozen=True)
class _Axis:
    """One of the two sparse operators, from the mosaic to the source along one axis.

    Attributes:
        starts: (tiles + 1,) first source position of each tile, and the length of the axis.
        supports: (tiles,) number of nodes that each tile draws on.
        nodes: (tiles, S) these nodes, ascending; shorter lists repeat their last.
        shares: (n0, S) float32 part of each of its tile's nodes in a source position; a row sums to one.
        groups: the tiles again, grouped by padded shape.
    """

    starts: NDArray[np.intp]
    supports: NDArray[np.intp]
    nodes: NDArray[np.intp]
    shares: NDArray[np.float32]
    groups: tuple[_Group, ...]

    def within(self, start: int, stop: int) -> Iterator[tuple[slice, NDArray[np.intp], NDArray[np.float32]]]:
        """Cut start..stop-1 along the tiles: source positions, their nodes (s,) and shares (positions, s)."""
        if start == stop:
            return
        first, last = np.searchsorted(self.starts, (start, stop - 1), side="right") - 1
        for tile in range(first, last + 1):
            part = slice(max(start, int(self.starts[tile])), min(stop, int(self.starts[tile + 1])))
            support = self.supports[tile]
            yield part, self.nodes[tile, :support], self.shares[part, :support]

    def extremes(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Lowest and highest of values (nodes, ...) within each tile: two arrays (tiles, ...)."""
        lowest = highest = values[self.nodes[:, 0]]
        for nodes in self.nodes.T[1:]:
            lowest, highest = np.minimum(lowest, values[nodes]), np.maximum(highest, values[nodes])
        return lowest, highest


@dataclass(frozen=True)
class AxisOperator:
    """One of the two sparse operators, as the kernel of `algm_slide_labels` takes it: contiguous, read-only arrays.

    Attributes:
        starts: (tiles + 1,) int32 first source position of each tile (of at most 32), and the length of the axis.
        supports: (tiles,) int32 number of nodes that each tile draws on.
        nodes: (tiles, S) int32 these nodes, ascending, in 0..windows*patches-1; shorter lists repeat their last.
        shares: (n0, S) float32 part of each of its tile's nodes in a source position; zero beyond the tile's support.
    """

    starts: NDArray[np.int32]
    supports: NDArray[np.int32]
    nodes: NDArray[np.int32]
    shares: NDArray[np.float32]


def axis_operators(plan: WindowPlan, patch_size: int) -> tuple[AxisOperator, AxisOperator]:
    """The operators of rows and of columns that take a plan's mosaic of patches to the source.

    The same geometry gives the same objects for as long as they are in the cache, so that a caller may keep copies of
    them on a device by identity.

    Args:
        plan: where the windows lie.
        patch_size: side of a patch in pixels.
    """
    rows = _axis_operator(plan.source[0], plan.canvas[0], plan.rows, plan.window[0], patch_size)
    columns = _axis_operator(plan.source[1], plan.canvas[1], plan.columns, plan.window[1], patch_size)
    return rows, columns


class LogitField:
    """Logits of one picture, held at patch resolution and evaluated at the source size on demand.

    Memory beside the result: the mosaic, which is a copy of `logits`, and up to some tens of MiB. Instances are not
    changed by their methods, so that threads may share one.

    Attributes:
        plan: where the windows lie.
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
        self._patch_size = patch_size
        self._mosaic = _mosaic(logits, len(plan.rows))
        self._evaluate_at(plan)

    def at(self, source: tuple[int, int]) -> LogitField:
        """The same logits, which are not copied, for a source of another height and width in pixels."""
        other = copy(self)
        other._evaluate_at(replace(self.plan, source=source))
        return other

    def logits(self) -> NDArray[np.float32]:
        """The windows' logits as they were given: (n, K, gh, gw) float32, a copy."""
        return _windows(self._mosaic, len(self.plan.rows), len(self.plan.columns))

    def labels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Winning class of each source pixel, the lower id on ties: (H0, W0), uint8 up to 256 classes, else uint16."""
        winners = self._mosaic.argmax(axis=2).astype(label_dtype(self._mosaic.shape[2]))
        low, high = self._y.extremes(winners)
        lowest, highest = self._x.extremes(low.T)[0].T, self._x.extremes(high.T)[1].T
        labels = np.repeat(np.repeat(lowest, np.diff(self._x.starts), axis=1), np.diff(self._y.starts), axis=0)
        mixed = lowest != highest
        for rows in self._y.groups:
            for columns in self._x.groups:
                self._label_tiles(labels, rows, columns, mixed[np.ix_(rows.members, columns.members)])
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
        for rows, row_nodes, row_shares in self._y.within(start, stop):
            tall = row_shares @ self._mosaic[row_nodes].reshape(len(row_nodes), -1)
            tall = tall.reshape(len(row_shares), -1, classes)
            for columns, nodes, shares in self._x.within(0, width):
                np.matmul(shares, tall[:, nodes], out=band[rows.start - start : rows.stop - start, columns])
        return band

    def probabilities(self, start: int, stop: int) -> NDArray[np.float32]:
        """Softmax over the classes of the source rows start..stop-1: (stop - start, W0, K) float32.

        Raises:
            UsageError: rows outside the picture.
        """
        band = self.rows(start, stop)
        for row in band:
            shares, total = _exponentials(row)
            shares /= total
            row[:] = cv2.transpose(shares)
        return band

    def confidence(self, start: int, stop: int) -> NDArray[np.float32]:
        """Probability of the winning class at the source rows start..stop-1: (stop - start, W0) float32.

        Raises:
            UsageError: rows outside the picture.
        """
        band = self.rows(start, stop)
        winner = np.empty(band.shape[:2], np.float32)
        for place, row in zip(winner, band, strict=True):
            np.divide(np.float32(1), _exponentials(row)[1], out=place)
        return winner

    def _evaluate_at(self, plan: WindowPlan) -> None:
        self.plan = plan
        self._y = _axis(plan.source[0], plan.canvas[0], plan.rows, plan.window[0], self._patch_size)
        self._x = _axis(plan.source[1], plan.canvas[1], plan.columns, plan.window[1], self._patch_size)

    def _label_tiles(self, labels: NDArray[Any], rows: _Group, columns: _Group, mixed: NDArray[np.bool_]) -> None:
        """Compute the labels of the tiles that are `mixed`, (rows, columns) of the groups, and write them."""
        classes = self._mosaic.shape[2]
        values, places = self._mosaic.reshape(-1), labels.reshape(-1)
        all_row, all_column = np.nonzero(mixed)
        step = max(1, _CHUNK_VALUES // (columns.nodes.shape[1] * rows.nodes.shape[1] * classes))
        for first in range(0, len(all_row), step):
            row, column = all_row[first : first + step], all_column[first : first + step]
            nodes = rows.nodes[row][:, None, :] * self._mosaic.shape[1] + columns.nodes[column][:, :, None]
            corners = self._mosaic.reshape(-1, classes).take(nodes, axis=0)
            for part, candidates in _contests(corners, rows.positions.shape[1] * columns.positions.shape[1]):
                top, left = row[part], column[part]
                scores = values.take((nodes[part] * classes)[..., None] + candidates[:, None, None, :])
                won = _winners(scores, rows.shares[top], columns.shares[left])
                where = (rows.positions[top] * labels.shape[1])[:, None, :] + columns.positions[left][:, :, None]
                places[where] = np.take_along_axis(candidates, won, axis=1).reshape(where.shape)


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """The type of the labels of a picture: uint8 up to 256 classes, else uint16."""
    return np.uint8 if classes <= 256 else np.uint16


def labels_of(logits: NDArray[np.float32], card: ModelCard) -> NDArray[np.integer]:
    """Winning class of each pixel of pictures of a model's input size: what AlgmLabels gives for them.

    Args:
        logits: (B, K, h, w) float32 on the patch grid.
        card: of the model.

    Returns:
        (B, H, W), uint8 up to 256 classes, else int32.
    """
    plan = plan_whole(card.size, card.size)
    fields = [LogitField(plan, picture[None], card.patch_size) for picture in logits]
    labels: NDArray[np.integer] = np.stack([field.labels() for field in fields])
    return labels if labels.dtype == np.uint8 else labels.astype(np.int32)


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


def _windows(mosaic: NDArray[np.float32], window_rows: int, window_columns: int) -> NDArray[np.float32]:
    """The windows (n, K, gh, gw) of a mosaic: what `_mosaic` was given."""
    classes = mosaic.shape[2]
    height, width = mosaic.shape[0] // window_rows, mosaic.shape[1] // window_columns
    by_window = mosaic.reshape(window_rows, height, window_columns, width, classes).transpose(0, 2, 4, 1, 3)
    return by_window.reshape(-1, classes, height, width)


def _exponentials(row: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Exponentials (K, W) of logits (W, K) less the highest of each pixel, and their sums (W).

    Classes come first because NumPy is slow where the innermost axis is short.
    """
    shares = np.asarray(cv2.transpose(row), np.float32)
    shares -= shares.max(axis=0)
    np.exp(shares, out=shares)
    return shares, shares.sum(axis=0)


def _contests(corners: NDArray[np.float32], pixels: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Divide tiles into parts of similar work, each with the classes that can win there.

    Args:
        corners: (n, T, S, K) float32 logits at the nodes of each tile.
        pixels: of a padded tile.

    Yields:
        part: (m,) indices of tiles; candidates: (m, c) classes that can win, ascending, the last one repeated.
    """
    tile, candidate = np.nonzero(~_hopeless(corners))
    counts = np.bincount(tile, minlength=len(corners))
    firsts = np.cumsum(counts) - counts
    order = np.argsort(counts, kind="stable")
    start = 0
    while start < len(order):
        least = int(counts[order[start]])
        part = order[start : start + max(1, _CHUNK_VALUES // (pixels * least))]
        part = part[counts[part] <= 2 * least]  # padding must not cost more than the work itself
        width = int(counts[part[-1]])
        yield part, candidate[firsts[part, None] + np.minimum(np.arange(width), counts[part, None] - 1)]
        start += len(part)


def _hopeless(corners: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether a class can win nowhere in a tile: (n, K) for logits (n, T, S, K) at the tiles' nodes.

    A class that stays below the mean of some rivals at every node stays below it at every pixel, and there one of the
    rivals is at or above the mean. The rivals are the winners of the tile's four outermost nodes. A node's winner is
    never hopeless, nor is any class where a rival is not finite.
    """
    at_nodes = corners.reshape(len(corners), -1, corners.shape[3])
    rivals = corners[:, :: max(1, corners.shape[1] - 1), :: max(1, corners.shape[2] - 1)].argmax(axis=3)
    values = np.take_along_axis(at_nodes, rivals.reshape(len(corners), 1, -1), axis=2)
    # the slack covers the rounding of the mean, so that a tie never rules a class out
    with np.errstate(invalid="ignore"):
        to_beat = values.mean(axis=2) - np.float32(1e-6) * np.abs(values).max(axis=2)
    hopeless: NDArray[np.bool_] = (at_nodes < to_beat[:, :, None]).all(axis=1)
    return hopeless


def _winners(
    scores: NDArray[np.float32], row_shares: NDArray[np.float32], column_shares: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Winning candidate of each pixel of m tiles, the earlier one on ties.

    Args:
        scores: (m, T, S, c) float32 logits of the candidates at the tiles' nodes.
        row_shares: (m, R, S) float32.
        column_shares: (m, C, T) float32.

    Returns:
        (m, C*R) indices into the candidates, columns first.
    """
    count, across, _, candidates = scores.shape
    tall = np.matmul(row_shares[:, None], scores).reshape(count, across, -1)
    full = np.matmul(column_shares, tall)
    winners: NDArray[np.intp] = full.reshape(count, -1, candidates).argmax(axis=2)
    return winners


@lru_cache(maxsize=32)
def _axis(source: int, canvas: int, anchors: tuple[int, ...], window: int, patch_size: int) -> _Axis:
    """The operator from mosaic to source along one axis, for windows of `window` pixels at `anchors` of the canvas."""
    grid = -(-window // patch_size)
    nodes, weights = _canvas_operator(canvas, anchors, window, grid, patch_size)
    low, high, share = bilinear_taps(canvas, source)
    resized = np.concatenate((weights[low] * (np.float32(1) - share)[:, None], weights[high] * share[:, None]), axis=1)
    return _tiled(np.concatenate((nodes[low], nodes[high]), axis=1), resized, len(anchors) * grid)


@lru_cache(maxsize=32)
def _axis_operator(source: int, canvas: int, anchors: tuple[int, ...], window: int, patch_size: int) -> AxisOperator:
    """The same operator for the device."""
    axis = _axis(source, canvas, anchors, window, patch_size)
    operator = AxisOperator(
        starts=np.ascontiguousarray(axis.starts, dtype=np.int32),
        supports=np.ascontiguousarray(axis.supports, dtype=np.int32),
        nodes=np.ascontiguousarray(axis.nodes, dtype=np.int32),
        shares=np.ascontiguousarray(axis.shares),
    )
    for array in (operator.starts, operator.supports, operator.nodes, operator.shares):
        array.flags.writeable = False
    return operator


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


def _tiled(nodes: NDArray[np.intp], weights: NDArray[np.float64], node_count: int) -> _Axis:
    """Collect positions that draw on the same nodes into tiles, given nodes and weights (n0, E) with repetitions."""
    row, entry = np.nonzero(weights)
    used, weight = nodes[row, entry], weights[row, entry]
    starts = _tile_starts(*np.divmod(np.unique(row * node_count + used), node_count))
    tile = np.searchsorted(starts, row, side="right") - 1
    keys, inverse = np.unique(tile * node_count + used, return_inverse=True)
    supports = np.bincount(keys // node_count)
    firsts = np.cumsum(supports) - supports
    tile_nodes = keys[firsts[:, None] + np.minimum(np.arange(supports.max()), supports[:, None] - 1)] % node_count
    slots = row * tile_nodes.shape[1] + inverse - firsts[tile]
    sums = np.bincount(slots, weights=weight, minlength=len(nodes) * tile_nodes.shape[1])
    shares = sums.astype(np.float32).reshape(len(nodes), -1)
    starts = np.append(starts, len(nodes))
    return _Axis(starts, supports, tile_nodes, shares, _groups(starts, supports, tile_nodes, shares))


def _tile_starts(row: NDArray[np.intp], node: NDArray[np.intp]) -> NDArray[np.intp]:
    """First position of each tile, given all pairs (position, node) in ascending order."""
    counts = np.bincount(row)
    firsts = np.cumsum(counts) - counts
    lists = node[firsts[:, None] + np.minimum(np.arange(counts.max()), counts[:, None] - 1)]
    borders = [0, *(np.flatnonzero((lists[1:] != lists[:-1]).any(axis=1)) + 1).tolist(), len(counts)]
    starts: list[int] = []
    begin = 0
    for end in borders[1:]:
        if end - begin < _SHORT_RUN and end < len(counts):
            continue
        parts = -(-(end - begin) // _TILE_SIDES[-1])
        starts += [begin + (end - begin) * part // parts for part in range(parts)]
        begin = end
    return np.array(starts)


def _groups(
    starts: NDArray[np.intp], supports: NDArray[np.intp], nodes: NDArray[np.intp], shares: NDArray[np.float32]
) -> tuple[_Group, ...]:
    """Group the tiles of an axis (see _Axis) by padded length and number of nodes."""
    lengths = np.diff(starts)
    sides = np.array(_TILE_SIDES)[np.searchsorted(_TILE_SIDES, lengths)]
    groups = []
    for side, support in sorted(set(zip(sides.tolist(), supports.tolist(), strict=True))):
        members = np.flatnonzero((sides == side) & (supports == support))
        positions = starts[members, None] + np.minimum(np.arange(side), lengths[members, None] - 1)
        groups.append(_Group(members, positions, nodes[members, :support], shares[positions, :support]))
    return tuple(groups)
