"""Statistics of drawn negatives: hardness, popularity and variety.

They are logged in every step and saved as `negatives.json` beside the aligned policy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from genrec.preference.exclusions import on_cpu
from genrec.preference.popularity_percentiles import percentiles
from genrec.types import SamplerContext, SequenceBatch

SMALLEST_NORM = 1e-8  # of a vector, so that one of zeros has the cosine 0
Summary = dict[str, float | int | list[float] | None]


class NegativeStatistics:
    """Running statistics of drawn negatives. The whole state is `totals`, tensors by name, so a checkpoint can hold it."""

    def __init__(self, context: SamplerContext) -> None:
        self.context = context
        self.percentiles = percentiles(context.popularity)  # float64 [N + 1]
        self.inverse_norms = context.vectors.norm(dim=1).clamp(min=SMALLEST_NORM).reciprocal()  # [N + 1]
        self.inverse_norms[0] = 0
        self.totals = {
            "rows": torch.zeros((), dtype=torch.int64),  # examples
            "places": torch.zeros((), dtype=torch.int64),  # negatives requested
            "empty_rows": torch.zeros((), dtype=torch.int64),  # examples without a negative
            "draws": torch.zeros(context.item_count + 1, dtype=torch.int64),  # draws of each item; index 0 counts the shortfall
            "cosine": torch.zeros((), dtype=torch.float64),  # sum over the negatives
            "depths": torch.zeros(context.semantic_ids.levels + 1, dtype=torch.int64),  # negatives by shared codes, 0..L
        }

    def update(self, batch: SequenceBatch, negatives: Tensor, invalid: Tensor | None = None) -> dict[str, Tensor]:
        """Add the negatives of a batch, int64 [B, K], and return its values for the training curves.

        Each value is float32 [], a mean over the batch's negatives, or 0 if there are none. `invalid` bool [B, K] marks negatives that
        are code sequences of no item, with a 0 in `negatives`: they are no shortfall, and only their share is in a figure.
        """
        target, drawn = on_cpu(batch).target, negatives.cpu()
        row, place = (drawn > 0).nonzero(as_tuple=True)
        items, positives = drawn[row, place], target[row]
        similarity = self._similarity(drawn, target)
        depth = self.context.semantic_ids.prefix_depth(items, positives)
        self.totals["rows"] += len(drawn)
        missing = drawn == 0 if invalid is None else (drawn == 0) & ~invalid
        places = drawn.numel() if invalid is None else drawn.numel() - int(invalid.sum())
        self.totals["places"] += places
        self.totals["empty_rows"] += missing.all(1).sum()
        self.totals["draws"] += torch.bincount(drawn[(drawn > 0) | missing], minlength=len(self.totals["draws"]))
        self.totals["cosine"] += similarity.double().sum()
        self.totals["depths"] += torch.bincount(depth, minlength=len(self.totals["depths"]))
        count = max(1, len(items))
        logs = {
            "drawn_depth": depth.float().sum() / count,  # codes shared with the positive
            "drawn_popularity": self.percentiles[items].float().sum() / count,  # percentile, 0..1
            "drawn_cosine": similarity.float().sum() / count,  # cosine to the positive, -1..1
            "drawn_shortfall": missing.float().sum() / max(1, drawn.numel()),  # share of requested negatives, 0..1
        }
        return logs if invalid is None else logs | {"drawn_invalid": invalid.float().sum() / max(1, drawn.numel())}

    def _similarity(self, drawn: Tensor, target: Tensor) -> Tensor:
        """Return the cosines to the target, summed over the negatives of each row, float32 [B].

        The sum is the product of the target's unit vector with the sum of the negatives' unit vectors.
        """
        if not drawn.numel():
            return torch.zeros(len(drawn))
        vectors, weights = self.context.vectors, self.inverse_norms
        negatives = embedding_bag(drawn, vectors, mode="sum", per_sample_weights=weights[drawn])
        similarity: Tensor = (negatives * vectors[target]).sum(1) * weights[target]
        return similarity

    def summary(self) -> Summary:
        """Return shares and means over all negatives so far, None where there are none. The result is JSON-serializable."""
        draws, rows, places = self.totals["draws"][1:], int(self.totals["rows"]), int(self.totals["places"])
        negatives = int(draws.sum())
        popularity = self.context.popularity[1:].cpu().double()
        return {
            "examples": rows,
            "examples_without_negatives": int(self.totals["empty_rows"]),  # they add 0 to the preference loss
            "negatives": negatives,
            "shortfall_share": _ratio(places - negatives, places),  # requested negatives that could not be drawn, 0..1
            "distinct_items": int((draws > 0).sum()),
            "catalog_share": _ratio(int((draws > 0).sum()), self.context.item_count),  # items drawn at least once, 0..1
            "draws_per_item": _ratio(negatives, int((draws > 0).sum())),  # mean over the items drawn at least once
            "cosine_to_positive": _ratio(float(self.totals["cosine"]), negatives),
            "popularity": _ratio(float(draws.double() @ popularity), negatives),  # mean training events
            "popularity_percentile": _ratio(float(draws.double() @ self.percentiles[1:]), negatives),  # mean, 0..1
            "prefix_depth_shares": [float(count) / negatives for count in self.totals["depths"]] if negatives else None,  # 0..L codes
        }


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
