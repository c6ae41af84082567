"""Minimum-cost one-to-one assignment (the Hungarian method)."""

from __future__ import annotations

import numpy as np


def assign(cost: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (row, column) of the assignment that makes most pairs and, among those, costs least.

    cost: (N, M); infinity forbids a pair.  Shortest augmenting paths with potentials, O(N^2 M) for N <= M.
    """
    cost = np.asarray(cost, np.float64)
    if cost.shape[0] > cost.shape[1]:
        return sorted((row, column) for column, row in assign(cost.T))
    rows, columns = cost.shape
    allowed = np.isfinite(cost)
    # Forbidden pairs fill up the matching at a price no sum of allowed ones reaches, and are dropped at the end.
    worst = float(np.abs(cost[allowed]).sum()) + 1.0
    filled = np.where(allowed, cost, 2 * worst)

    row_price, column_price = np.zeros(rows), np.zeros(columns + 1)
    owner = np.full(columns + 1, -1)  # row of each column; the last column is where a new row enters
    for row in range(rows):
        owner[columns] = row
        at, distance = columns, np.full(columns, np.inf)
        visited, came_from = np.zeros(columns + 1, bool), np.full(columns, columns)
        while owner[at] >= 0:
            visited[at] = True
            reduced = filled[owner[at]] - row_price[owner[at]] - column_price[:columns]
            nearer = ~visited[:columns] & (reduced < distance)
            distance[nearer], came_from[nearer] = reduced[nearer], at
            following = int(np.argmin(np.where(visited[:columns], np.inf, distance)))
            step = distance[following]
            row_price[owner[visited]] += step
            column_price[visited] -= step
            distance[~visited[:columns]] -= step
            at = following
        while at != columns:
            owner[at], at = owner[came_from[at]], came_from[at]
    pairs = [(int(owner[column]), column) for column in range(columns) if owner[column] >= 0]
    return sorted((row, column) for row, column in pairs if allowed[row, column])
