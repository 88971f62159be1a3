"""The crossed test of two methods over users and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.evaluation.crossed_test import crossed_test, pooled_variance

# Two rows, four users, three seeds; the expected figures were computed apart from this code.
A = np.array([[0.2, 0.0, 0.1], [0.0, 0.3, 0.1], [0.5, 0.4, 0.6], [-0.1, 0.0, 0.1]])
B = np.array([[0.0, 0.4, -0.3], [0.2, 0.5, -0.1], [0.1, 0.3, -0.2], [0.0, 0.3, 0.0]])


@pytest.mark.parametrize(
    ("row", "mean", "error", "degrees", "p"),
    [
        (A, 0.183333333, 0.150616019, 6.245407, 0.267504896),
        (B, 0.100000000, 0.109713431, 4.092608, 0.412521561),
    ],
)
def test_known_figures(row: np.ndarray, mean: float, error: float, degrees: float, p: float) -> None:
    found = crossed_test(row, pooled_variance({"a": A, "b": B}))
    assert found is not None
    assert found[:4] == pytest.approx((mean, error, degrees, p), abs=1e-6)
