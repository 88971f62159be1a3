"""The vocabulary of genrec: what the parts hand to each other.

Symbols, used everywhere: `B` batch, `T` history length, `N` items (ids 1..N, 0 = none), `D` vector width, `L` SID levels,
`K` negatives, `M` candidates, `n` a cut-off, `U` users. Tensors are written `name: dtype [shape]`. Items, not tokens, cross
module borders. Protocols have methods only, so that `isinstance` can check what fills an experiment's field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy import ndarray
    from pandas import DataFrame
    from torch import Generator, Tensor

    from genrec.semantic_ids import SemanticIds


NO_TEXT = "item without description"  # an empty text in the catalogue; the same for all, so that nothing tells them apart


class RawTables(NamedTuple):
    """What a source reads, before any filter. Ids are text and are kept as they are."""

    interactions: DataFrame  # columns user: str, item: str, time: int64 (seconds), optionally rating: float; in file order
    items: DataFrame  # columns item: str, text: str, optionally more (title, categories, ...); one row an item
    set_aside: DataFrame | None = None  # columns file: str, line: int, reason: str; the rows that could not be read


class RawStream(NamedTuple):
    """What a source reads, in pieces, for data larger than memory: each iterator is gone through once, interactions first.

    A piece is a table with the columns of `RawTables`: a pandas DataFrame, a pyarrow Table, or whatever exports Arrow
    (`__arrow_c_stream__`).
    """

    interactions: Iterator[Any]
    items: Iterator[Any]
    set_aside: Callable[[], DataFrame]  # as in `RawTables`; asked for when both iterators are through


class SequenceBatch(NamedTuple):
    """Users' histories and the item each took next."""

    user: Tensor  # int64 [B]
    history: Tensor  # int64 [B, T]  items, oldest first, left-padded with 0
    target: Tensor  # int64 [B]


class LogProbs(NamedTuple):
    """Log-probabilities of the positive and of the negatives of a batch."""

    chosen: Tensor  # float32 [B]  log p(item | history), summed over the L codes
    rejected: Tensor  # float32 [B, K]  -inf where masked
    length: int = 1  # L, for the losses that average over codes


class PreferenceTerms(NamedTuple):
    """A preference loss, not reduced, and its implicit rewards."""

    loss: Tensor  # float32 [B]
    chosen_reward: Tensor  # float32 [B]  detached
    rejected_reward: Tensor  # float32 [B, K]  detached, -inf where masked


class Ranking(NamedTuple):
    """The best items of each user."""

    items: Tensor  # int64 [B, n]  best first, 0 where there are fewer than n
    scores: Tensor  # float32 [B, n]  -inf where there is no item


@runtime_checkable
class Source(Protocol):
    """A data set."""

    def load(self, root: Path) -> RawTables:
        """Read the upstream files; `root` is where fetched ones are kept."""
        ...


@runtime_checkable
class StreamedSource(Source, Protocol):
    """A data set that may be larger than memory: the pipeline takes its stream."""

    def stream(self, root: Path) -> RawStream:
        """What `load` reads, in pieces."""
        ...


@runtime_checkable
class Split(Protocol):
    """Which interactions are for training, for validation, for the test; it may also be one or two of the three below."""

    def assign(self, interactions: DataFrame) -> ndarray:
        """Interactions sorted by (user, time), stable -> text [rows]: 'train', 'validation' or 'test'."""
        ...


@runtime_checkable
class KeepingSplit(Split, Protocol):
    """A split with a filter of its own."""

    def keep(self, interactions: DataFrame) -> DataFrame:
        """Raw interactions in file order -> those that stay, in the same order, all columns as they were."""
        ...


@runtime_checkable
class FilteringSplit(Split, Protocol):
    """A split that names built-in filters; the pipeline carries them out without a log in memory."""

    def filters(self) -> Any:
        """A `genrec.data.filters.Filters`."""
        ...


@runtime_checkable
class DividingSplit(Split, Protocol):
    """A split for logs larger than memory; `divide` then stands for `assign`."""

    def divide(self, begin: ndarray, end: ndarray, time: ndarray) -> ndarray:
        """Each user's events lie at begin..end, int64 [U], by time, int64 [E] -> where validation and test begin, int64 [U, 2]."""
        ...


@runtime_checkable
class ItemEncoder(Protocol):
    """Vectors of items."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        """Items (row i is item i+1) and *training* interactions -> float32 [N, D]."""
        ...


@runtime_checkable
class ResumableEncoder(ItemEncoder, Protocol):
    """An item encoder whose work is long: it keeps what it has, and goes on from there after a kill."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        """What `encode` returns; `folder`, which may not exist yet, holds what a killed try left, and goes when the stage is done."""
        ...


@runtime_checkable
class FittedQuantizer(Protocol):
    """A trained tokenizer: encodes the items it was trained on and those that come later."""

    def encode(self, vectors: ndarray) -> ndarray:
        """float32 [N, D] -> int64 [N, L]."""
        ...

    def reconstruct(self, codes: ndarray) -> ndarray:
        """int64 [N, L] -> float32 [N, D], the vectors that the codes stand for."""
        ...

    def state(self) -> dict[str, ndarray]:
        """The tensors to store; with the specification they make the quantizer again."""
        ...


@runtime_checkable
class ListedCodes(FittedQuantizer, Protocol):
    """A fitted quantizer whose items have codes of their own, which do not follow from their vectors (imported, random)."""

    def listed_codes(self) -> ndarray:
        """The codes of the items it was fitted on, in their order, int64 [N, L]; `encode` is for items that come later."""
        ...


@runtime_checkable
class PricedCodes(FittedQuantizer, Protocol):
    """A fitted quantizer that can say what another last code would cost an item: what reassigning collided items needs."""

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """Vectors float32 [M, D] and their codes int64 [M, L] -> float32 [M, C]: for each of the last level's C codes the squared
        error, in the space that is quantised, of the item with that code instead of its own; its other codes stay.
        """
        ...


@runtime_checkable
class Quantizer(Protocol):
    """A tokenizer's specification."""

    def fit(self, vectors: ndarray, generator: Generator) -> FittedQuantizer:
        """Train on float32 [N, D]; refuse NaN, and what it cannot use, by `genrec.errors.InputError`."""
        ...

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level."""
        ...

    def restore(self, state: dict[str, ndarray]) -> FittedQuantizer:
        """The fitted quantizer again, from its stored tensors."""
        ...


@runtime_checkable
class CatalogueQuantizer(Quantizer, Protocol):
    """A quantizer that must know which item a row is (one that reads published codes)."""

    def fit_catalogue(self, item_ids: Sequence[str], vectors: ndarray, generator: Generator) -> FittedQuantizer:
        """`fit`, with the items' own ids: `item_ids[i]` is row i's."""
        ...


@runtime_checkable
class Recommender(Protocol):
    """Whatever can be evaluated."""

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """int64 [B, T] -> the best `n` items of each user; `exclude` int64 [B, E] (0 = none) are never recommended."""
        ...


@runtime_checkable
class Policy(Recommender, Protocol):
    """A generative recommender, an nn.Module: p(item | history) over the Semantic IDs' codes."""

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M, L]; the history is encoded once for all M."""
        ...

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """The sum of `level_log_prob` over levels, float32 [B, M]; -inf where the candidate is 0."""
        ...


@runtime_checkable
class PolicySpecification(Protocol):
    """A policy's architecture; `build` makes it, untrained."""

    def build(self, semantic_ids: SemanticIds) -> Policy:
        """The policy that writes these Semantic IDs. Its initial weights come from torch's global generator."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """A recommender with nothing to train: it is fitted on the training interactions whenever it is evaluated."""

    def fit(self, interactions: DataFrame, item_count: int) -> Recommender:
        """Training interactions (user, item, time; sorted by user and time) -> a recommender over items 1..item_count."""
        ...


class SamplerContext(NamedTuple):
    """What a negative sampler may look at. Row 0 of each table belongs to no item, so that an item id is its row."""

    item_count: int  # N
    interactions: DataFrame  # training interactions: user, item, time (, rating); user and item as int64
    popularity: Tensor  # int64 [N + 1]  training events of each item
    vectors: Tensor  # float32 [N + 1, D]  the item encoder's vectors
    semantic_ids: SemanticIds
    policy: Policy | None = None  # the frozen SFT policy


@runtime_checkable
class DrawNegatives(Protocol):
    """Draws negatives for a batch."""

    def __call__(self, batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
        """int64 [B, count]: real items, distinct in a row; never the target nor an item that the user takes in training.

        Items of the history come only from a sampler that says so. 0 where none is left: a shortfall is masked, never
        filled with repeats.
        """
        ...


@runtime_checkable
class NegativeSampler(Protocol):
    """A negative sampler's specification: a frozen dataclass."""

    def build(self, context: SamplerContext) -> DrawNegatives:
        """What draws, for one training set."""
        ...


@runtime_checkable
class PreferenceLoss(Protocol):
    """A preference objective: a frozen dataclass, pure, without state."""

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        """Log-probabilities under the policy and under the frozen reference -> the loss of each example."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A ranking metric of one held-out target per user."""

    def __call__(self, rank: Tensor, n: int) -> Tensor:
        """int64 [U], 1-based, 0 = missed -> float32 [U]."""
        ...
