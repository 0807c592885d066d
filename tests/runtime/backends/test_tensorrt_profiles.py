"""Which profile runs a batch, and how batches are divided."""

from __future__ import annotations

import pytest

from algm_trt.runtime.backends.tensorrt.profiles import Piece, Range, capacity, pieces

NARROW: tuple[Range, ...] = ((1, 1, 1), (2, 8, 8), (9, 32, 32))
GAPS: tuple[Range, ...] = ((4, 4, 4), (7, 9, 10))


@pytest.mark.parametrize(
    ("batch", "profiles", "expected"),
    [
        (1, NARROW, [(1, 0, 1)]),
        (2, NARROW, [(2, 1, 2)]),
        (8, NARROW, [(8, 1, 8)]),
        (9, NARROW, [(9, 2, 9)]),
        (33, NARROW, [(32, 2, 32), (1, 0, 1)]),
        (71, NARROW, [(32, 2, 32), (32, 2, 32), (7, 1, 7)]),
        (1, GAPS, [(1, 0, 4)]),
        (5, GAPS, [(5, 1, 7)]),
        (11, GAPS, [(10, 1, 10), (1, 0, 4)]),
        (3, ((1, 8, 64), (1, 4, 4)), [(3, 1, 3)]),
        (5, ((1, 8, 64), (1, 4, 4)), [(5, 0, 5)]),
        (7, ((3, 3, 3),), [(3, 0, 3), (3, 0, 3), (1, 0, 3)]),
        (2, ((1, 1, 1), (1, 1, 1)), [(1, 0, 1), (1, 0, 1)]),
    ],
)
def test_a_batch_is_divided_by_the_narrowest_profiles(
    batch: int, profiles: tuple[Range, ...], expected: list[tuple[int, int, int]]
) -> None:
    assert [(piece.count, piece.profile, piece.batch) for piece in pieces(batch, profiles)] == expected


@pytest.mark.parametrize("profiles", [NARROW, GAPS, ((1, 8, 64), (1, 4, 4)), ((5, 5, 5),)])
def test_pieces_hold_every_picture_once_and_fit(profiles: tuple[Range, ...]) -> None:
    for batch in range(1, 100):
        found = pieces(batch, profiles)
        assert [piece.start for piece in found] == [sum(p.count for p in found[:n]) for n in range(len(found))]
        assert found[-1].stop == batch
        for piece in found:
            least, _, most = profiles[piece.profile]
            assert least <= piece.batch <= most
            assert piece.count <= piece.batch
        assert max(piece.batch for piece in found) <= capacity(batch, profiles)


def test_capacity_counts_padding() -> None:
    assert [capacity(batch, GAPS) for batch in (1, 4, 5, 6, 10, 11, 1000)] == [4, 4, 7, 7, 10, 10, 10]


def test_a_piece_ends_where_the_next_begins() -> None:
    assert Piece(3, 4, 0, 8).stop == 7
