"""Pairs from files: the three formats by hand, every refusal with its message, TRL's format, and a round trip."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proposals import context_of, data_of, one_level, sasrec

from genrec.data.corpus_builder import prepare
from genrec.data.examples import CorpusExamples
from genrec.data.splits import LeaveOneOut
from genrec.errors import InputError, UsageError
from genrec.objectives import Preference
from genrec.preference.candidates import Pairs
from genrec.preference.candidates.pair_file import PairRow, read_pairs, read_trl, write_trl
from genrec.semantic_ids import SemanticIds
from genrec.stage_inputs import sampler_context
from genrec.store import describe
from genrec.types import RawTables, SamplerContext

ROWS: list[dict[str, Any]] = [
    {"user": "1", "chosen": "3", "rejected": "5"},
    {"user": "2", "chosen": "6", "rejected": ["1", "2"], "weight": 2.5},
    {"history": ["4", "2"], "ranked": ["1", "3", "5"]},
]
EVENTS = {1: [1, 2, 3, 4], 2: [4, 5]}


def data(events: dict[int, list[int]] | None = None) -> SamplerContext:
    return data_of(one_level(6), EVENTS if events is None else events)


def write(rows: list[dict[str, Any]], path: Path) -> Path:
    """Write rows in the format of the suffix."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [{name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(texts)
    else:
        pd.DataFrame(texts, columns=names).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_a_file_by_hand(suffix: str, tmp_path: Path) -> None:
    """User 1 took 1, 2 before 3. User 2 never took 6 in training, so all events are the history. The third row has its own."""
    proposals = Pairs(write(ROWS, tmp_path / f"pairs{suffix}")).build_proposals(context_of(sasrec(6), data()))
    assert proposals.examples is not None
    assert proposals.listed is not None
    batch, candidates = proposals.examples.batch(torch.arange(3)), proposals.listed(torch.tensor([2, 1, 0]))
    assert batch.history.tolist() == [[1, 2], [4, 5], [4, 2]]
    assert (batch.user.tolist(), batch.target.tolist()) == ([1, 2, 0], [3, 6, 1])
    assert candidates.items.tolist() == [[1, 3, 5], [6, 1, 2], [3, 5, 0]]
    assert torch.equal(candidates.mask, candidates.items > 0)
    assert candidates.weight is not None
    assert candidates.weight.tolist() == [1.0, 2.5, 1.0]
    assert proposals.static


def test_lists_of_a_parquet_file_and_cut_histories(tmp_path: Path) -> None:
    pd.DataFrame({"history": [[1, 2, 3], [4]], "chosen": [5, 6], "rejected": [[1, 2], [3]]}).to_parquet(tmp_path / "p.parquet")
    examples = Pairs(tmp_path / "p.parquet").build_proposals(context_of(sasrec(6), data())._replace(history_length=2)).examples
    assert examples is not None
    assert examples.batch(torch.arange(2)).history.tolist() == [[2, 3], [0, 4]]


def test_the_last_of_several_events_with_the_chosen_item_ends_the_history(tmp_path: Path) -> None:
    path = write([{"user": "1", "chosen": "2", "rejected": "5"}], tmp_path / "p.csv")
    examples = Pairs(path).build_proposals(context_of(sasrec(6), data({1: [2, 1, 2, 3]}))).examples
    assert examples is not None
    assert examples.batch(torch.arange(1)).history.tolist() == [[2, 1]]


def test_histories_leave_out_what_the_split_leaves_out(tmp_path: Path) -> None:
    """User 1 takes 1, 2 (disliked), 3, 4; user 2 takes 4 (disliked), 5. Without disliked events 4 follows 1, 3, and 5 nothing."""
    events = data().interactions.assign(label=[0, -1, 1, 0, -1, 1])
    labeled = data()._replace(interactions=events, histories="without disliked")
    rows = [{"user": "1", "chosen": "4", "rejected": "5"}, {"user": "1", "chosen": "6", "rejected": "5"}, ROWS[2]]
    pairs = Pairs(write(rows, tmp_path / "p.jsonl"))
    for context, expected in (
        (labeled, [[0, 1, 3], [1, 3, 4], [0, 4, 2]]),
        (labeled._replace(histories="all"), [[0, 1, 2, 3], [1, 2, 3, 4], [0, 0, 4, 2]]),
    ):
        examples = pairs.build_proposals(context_of(sasrec(6), context)).examples
        assert examples is not None
        assert examples.batch(torch.arange(3)).history.tolist() == expected
    alone = write([{"user": "2", "chosen": "5", "rejected": "6"}], tmp_path / "alone.jsonl")
    with pytest.raises(InputError, match=r"no training event before chosen that is not disliked: line 1 \(user '2', item '5'\)"):
        Pairs(alone).check_context(labeled)


def test_histories_are_those_of_the_training_examples(tmp_path: Path) -> None:
    """A pair for each training example of a labeled corpus has its history. User u takes a to f in training, and dislikes b and d."""
    events = [("u", item, time, rating) for time, (item, rating) in enumerate(zip("abcdefgh", (5, 1, 4, 2, 3, 4, 5, 5), strict=True))]
    tables = RawTables(
        pd.DataFrame(events, columns=["user", "item", "time", "rating"]), pd.DataFrame({"item": [], "text": []}, dtype=str)
    )
    for histories in ("all", "without disliked"):
        corpus = prepare(tables, LeaveOneOut(core=0, liked=4, disliked=2, histories=histories))
        own = CorpusExamples(corpus, 20).prefixes()
        expected = own.batch(torch.arange(len(own)))
        names = ["", *corpus.items["item_id"]]
        rows = [{"user": "u", "chosen": names[target], "rejected": "b"} for target in expected.target.tolist()]
        context = sampler_context(corpus, torch.zeros(8, 2), one_level(8))
        examples = Pairs(write(rows, tmp_path / "p.csv")).build_proposals(context_of(sasrec(8), context)).examples
        assert examples is not None
        assert torch.equal(examples.batch(torch.arange(len(own))).history, expected.history)


def test_one_semantic_id_counts_once(tmp_path: Path) -> None:
    """Items 1 and 2 share a Semantic ID, 3 and 4 another: of 2, 3, 4 rejected for 1 only 3 is left, and of 2 alone none."""
    shared = data_of(SemanticIds(torch.tensor([[0, 0], [0, 0], [1, 0], [1, 0], [1, 1]]), (2, 2)), {1: [5]})
    rows = [{"history": ["5"], "chosen": "1", "rejected": ["2", "3", "4"]}, {"history": ["5"], "chosen": "1", "rejected": "2"}]
    listed = Pairs(write(rows, tmp_path / "p.jsonl")).build_proposals(context_of(sasrec(5), shared)).listed
    assert listed is not None
    candidates = listed(torch.arange(2))
    assert candidates.items.tolist() == [[1, 0, 3, 0], [1, 0, 0, 0]]
    assert candidates.rows is not None
    assert candidates.rows.tolist() == [True, False]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"user": "1", "chosen": "3", "rejected": "3"}, r"chosen is also rejected: line 1 \('3'\)"),
        ({"user": "1", "chosen": "3", "rejected": []}, "rejected is empty: line 1"),
        ({"user": "1", "chosen": "3", "rejected": ["4", "4"]}, r"an item occurs twice: line 1 \('4'\)"),
        ({"user": "1", "ranked": ["4"]}, "ranked needs two or more items"),
        ({"user": "1", "ranked": ["4", "5"], "chosen": "1"}, "a row has either ranked or chosen and rejected"),
        ({"user": "1", "chosen": "4"}, "a row needs chosen and rejected, or ranked"),
        ({"chosen": "4", "rejected": "5"}, r"a row needs either a user or a history: line 1 \(neither\)"),
        ({"user": "1", "history": ["1"], "chosen": "4", "rejected": "5"}, r"either a user or a history: line 1 \(both\)"),
        ({"history": [], "chosen": "4", "rejected": "5"}, "history is empty"),
        ({"history": "1 2", "chosen": "4", "rejected": "5"}, r"history must be a JSON array of item ids: line 1 \('1 2'\)"),
        ({"user": "1", "chosen": 4.5, "rejected": "5"}, "chosen must hold ids, as text or integers"),
        ({"user": "1", "chosen": "4", "rejected": "5", "weight": 0}, "weight must be a number from 1e-30 to 1e"),
        ({"user": "1", "chosen": "4", "rejected": "5", "weight": -1}, r"weight must be a number .*: line 1 \(-1\)"),
        ({"user": "1", "chosen": "4", "rejected": "5", "weight": 1e-50}, r"weight must be a number .*: line 1 \(1e-50\)"),
        ({"user": "1", "chosen": "4", "rejected": "5", "weight": 1e300}, r"weight must be a number .*: line 1 \(1e\+300\)"),
        ({"user": "1", "chosen": "4", "rejected": "5", "weight": math.nan}, r"weight must be a number .*: line 1 \(nan\)"),
        ({"user": "1", "chosen": "4", "rejected": "5", "weight": 10**400}, r"weight must be a number .*: line 1 \(1000"),
        ({"user": "1", "chosen": "4", "rejected": "5", "weight": "much"}, r"weight must be a number .*: line 1 \('much'\)"),
        ({"user": "1", "chosen": "4", "rejected": "5", "wieght": 1}, "the column 'wieght' .*, expected columns of user, history"),
    ],
)
def test_a_row_that_is_not_of_the_format_is_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Pairs(write([row], tmp_path / "pairs.jsonl")).check(None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"user": "9", "chosen": "3", "rejected": "4"},
            r"unknown user: line 2 \('9'\); correct or remove them; the ids of users are such",
        ),
        ({"user": "1", "chosen": "item-3", "rejected": "4"}, r"unknown item: line 2 \('item-3'\); .* use the same prefix in both"),
        ({"history": ["7"], "chosen": "3", "rejected": "4"}, r"unknown history item: line 2 \('7'\)"),
        ({"user": "1", "chosen": "1", "rejected": "4"}, r"no training event before chosen: line 2 \(user '1', item '1'\)"),
    ],
)
def test_ids_that_the_data_do_not_have_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Pairs(write([row], tmp_path / "pairs.csv")).check_context(data())


def test_a_held_out_event_as_chosen_is_refused(tmp_path: Path) -> None:
    """User 1 takes 5 in the test part. Item 6 of user 2 is held out for user 1 only, and 4 was also taken in training."""
    held_out = pd.DataFrame({"user": [1, 1, 1], "item": [5, 6, 4]})
    good = [{"user": "2", "chosen": "6", "rejected": "5"}, {"user": "1", "chosen": "4", "rejected": "6"}]
    Pairs(write(good, tmp_path / "good.csv")).check_held_out(data(), held_out)
    path = write([*good, {"user": "1", "chosen": "5", "rejected": "2"}], tmp_path / "pairs.csv")
    with pytest.raises(InputError, match=r"1 of 3 rows .* chosen is a held-out event of the user: line 4 \(user '1', item '5'\)"):
        Pairs(path).check_held_out(data(), held_out)


def test_a_disliked_item_as_chosen_is_refused(tmp_path: Path) -> None:
    """User 1 takes 1, 2, 3 and 4 and dislikes 3; user 2 takes 4 and 5 and dislikes 4. Nobody dislikes the 3 of the history's row."""
    labels = [1, 0, -1, 1, -1, 0]
    labeled = data()._replace(interactions=data().interactions.assign(label=labels))
    good = [{"user": "1", "chosen": "4", "rejected": "3"}, {"history": ["4"], "ranked": ["3", "1"]}]
    Pairs(write(good, tmp_path / "good.jsonl")).check_context(labeled)
    path = write([*good, {"user": "1", "chosen": "3", "rejected": "5"}], tmp_path / "pairs.jsonl")
    Pairs(path).check_context(data())
    with pytest.raises(InputError, match=r"1 of 3 rows .* the user dislikes chosen: line 3 \(user '1', item '3'\)"):
        Pairs(path).check_context(labeled)


def test_damaged_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the pair file .* does not exist"):
        Pairs(tmp_path / "none.csv").check(None)
    (tmp_path / "bad.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="the line is not a JSON object: line 1"):
        Pairs(tmp_path / "bad.jsonl").check(None)
    (tmp_path / "bad.csv").write_text("user,chosen,rejected\n1,2\n")
    with pytest.raises(InputError, match=r"does not have the 3 columns of the header: line 2 \(2 fields\)"):
        Pairs(tmp_path / "bad.csv").check(None)
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"bad\.parquet can't be read"):
        Pairs(tmp_path / "bad.parquet").check(None)
    (tmp_path / "empty.csv").write_text("user,chosen,rejected\n")
    with pytest.raises(InputError, match="holds no rows"):
        Pairs(tmp_path / "empty.csv").check(None)
    with pytest.raises(UsageError, match=r"Pairs\.path must end in \.csv"):
        Pairs("pairs.txt")
    with pytest.raises(UsageError, match="Pairs has rows of its own"):
        Preference(candidates=Pairs("pairs.csv"), targets="all")


def test_a_csv_field_of_any_length_is_read(tmp_path: Path) -> None:
    """30,000 ids of 7 characters take over 131,072 characters, the limit of the csv module, which stays as it was."""
    rejected, limit = [f"{number:07}" for number in range(30_000)], csv.field_size_limit()
    path = write([{"user": "1", "chosen": "3", "rejected": rejected}], tmp_path / "p.csv")
    assert read_pairs(path)[0].rejected == tuple(rejected)
    assert csv.field_size_limit() == limit


def test_a_repeated_column_or_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("user,chosen,rejected,chosen\n1,3,5,4\n")
    pq.write_table(pa.Table.from_arrays([pa.array(["1"])] * 4, ["user", "chosen", "rejected", "chosen"]), tmp_path / "p.parquet")
    for name in ("p.csv", "p.parquet"):
        with pytest.raises(InputError, match=r"has the column 'chosen' twice; remove or rename one of them"):
            read_pairs(tmp_path / name)
    (tmp_path / "p.jsonl").write_text('{"user": "1", "chosen": "3", "rejected": "5", "chosen": "4"}\n{"chosen": 1}\n')
    with pytest.raises(InputError, match=r"2 of 2 rows .* a key occurs twice: line 1 \('chosen'\); a row needs either .*: line 2"):
        read_pairs(tmp_path / "p.jsonl")


def test_a_row_with_several_problems_counts_once(tmp_path: Path) -> None:
    path = write([{"user": "9", "chosen": "30", "rejected": "4"}], tmp_path / "p.csv")
    with pytest.raises(InputError, match=r"p\.csv: 1 of 1 rows can't be used: unknown item: line 2 \('30'\); unknown user: line 2"):
        Pairs(path).check_context(data())


def test_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").mkdir()
    with pytest.raises(InputError, match=r"the pair file .*pairs\.csv is a folder; expected a file"):
        Pairs(tmp_path / "pairs.csv").check(None)


def test_an_id_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """JSON may escape one half of a surrogate pair, which no encoding can write."""
    (tmp_path / "p.jsonl").write_text('{"user": "1", "chosen": "3", "rejected": "\\ud800"}\n')
    with pytest.raises(InputError, match=r"rejected has an id that is no valid Unicode text: line 1 \('\\ud800'\)") as raised:
        read_pairs(tmp_path / "p.jsonl")
    str(raised.value).encode()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_further_columns_of_a_trl_file_are_not_read(suffix: str, tmp_path: Path) -> None:
    row = {"prompt": ["1", "2"], "chosen": "3", "rejected": "5", "score_chosen": 0.5}
    assert read_trl(write([row], tmp_path / f"p{suffix}")) == (
        PairRow("3", ("5",), None, ("1", "2"), 1.0, 2 if suffix == ".csv" else 1),
    )
    path = write([row | {"weight": 2}], tmp_path / f"weight{suffix}")
    with pytest.raises(InputError, match=r"the column 'weight' .*, expected columns of prompt, chosen, rejected; remove it"):
        read_trl(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "write_trl got no rows"),
        ([PairRow("3", ("5",), None, ())], "row 1: prompt is empty"),
        ([PairRow("3", (), None, ("1",))], "row 1 has no rejected item"),
        (
            [PairRow("3", ("5",), None, ("1",)), PairRow("3", ("5", "3"), None, ("1",))],
            "row 2: chosen is also rejected: '3'; read_trl",
        ),
        ([PairRow("\ud800", ("5",), None, ("1",))], "row 1: chosen has an id that is no valid Unicode text"),
    ],
)
def test_rows_that_read_trl_refuses_are_not_written(rows: list[PairRow], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        write_trl(rows, tmp_path / "p.jsonl")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"expected a path that ends in \.jsonl or \.ndjson, got .*p\.csv"):
        write_trl([PairRow("3", ("5",), None, ("1",))], tmp_path / "p.csv")


def test_keys_follow_the_content(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    one, two = (Pairs(write(ROWS, tmp_path / name)) for name in ("a.csv", "there/b.csv"))
    before = describe(one, tmp_path)
    assert before == describe(two, tmp_path)
    write(ROWS[:2], tmp_path / "a.csv")
    assert describe(one, tmp_path) != before


@pytest.mark.parametrize(
    ("text", "format", "message"),
    [
        ("user,chosen,reject\n1,3,5\n", "genrec", r"the column 'reject' .*, expected columns of user, history, chosen, rejected, "
         r"ranked, weight; rename it to 'rejected'$"),
        ("user,chosen,rejected,note\n1,3,5,x\n", "genrec", r"the column 'note' .*; rename or remove it$"),
        ('user;chosen;rejected\n1;3;["5", "6"]\n', "genrec", r"the columns are separated by ';': separate them by commas$"),
        ("user\tchosen\trejected\n", "genrec", r"the columns are separated by '\\t': separate them by commas$"),
        ("prompt,chosen,rejected\n", "genrec", r'this is the format of TRL: set Pairs\(format="trl"\) \(--align\.format trl\)$'),
        ("user,chosen,rejected\n", "trl", r"expected columns of prompt, chosen, rejected; this is the format of genrec: set Pairs"),
    ],
)  # fmt: skip
def test_the_message_of_an_unknown_column_gives_its_cause(text: str, format: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        Pairs(tmp_path / "pairs.csv", format=format).check(None)


def test_the_conversational_form_of_trl_is_named(tmp_path: Path) -> None:
    message = [{"role": "user", "content": "1"}]
    path = write(
        [{"prompt": message, "chosen": "2", "rejected": "3"}, {"prompt": '["1"]', "chosen": message, "rejected": "3"}],
        tmp_path / "p.jsonl",
    )
    expected = (
        r"2 of 2 .*: prompt is a list of messages, and TRL's conversational form is not read; .*: line 1; chosen is a list .*: line 2"
    )
    with pytest.raises(InputError, match=expected):
        read_trl(path)
    with pytest.raises(InputError, match=r'this is the format of TRL: set Pairs\(format="trl"\)'):
        read_pairs(path)


IDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=4)


@st.composite
def pair_rows(draw: Any) -> PairRow:
    chosen, *rejected = draw(st.lists(IDS, min_size=2, max_size=4, unique=True))
    return PairRow(chosen, tuple(rejected), None, tuple(draw(st.lists(IDS, min_size=1, max_size=3))))


@given(rows=st.lists(pair_rows(), min_size=1, max_size=4), suffix=st.sampled_from([".csv", ".parquet", ".jsonl"]))
def test_files_hold_any_ids(rows: list[PairRow], suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    records = [{"history": list(row.history or ()), "chosen": row.chosen, "rejected": list(row.rejected)} for row in rows]
    path = write(records, tmp_path_factory.mktemp("pairs") / f"p{suffix}")
    assert [row._replace(line=0) for row in read_pairs(path)] == rows


@given(rows=st.lists(pair_rows(), min_size=1, max_size=4))
def test_trl_files_hold_one_line_for_each_rejected_item(rows: list[PairRow], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("trl") / "pairs.jsonl"
    write_trl(rows, path)
    expected = [row._replace(rejected=(each,)) for row in rows for each in row.rejected]
    assert [row._replace(line=0) for row in read_trl(path)] == expected


def test_trl_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "trl.jsonl"
    write_trl([PairRow("3", ("5",), None, ("1", "2"))], path)
    assert path.read_text() == '{"prompt": "[\\"1\\", \\"2\\"]", "chosen": "3", "rejected": "5"}\n'
    examples = Pairs(path, format="trl").build_proposals(context_of(sasrec(6), data())).examples
    assert examples is not None
    assert examples.batch(torch.arange(1)).history.tolist() == [[1, 2]]
    with pytest.raises(UsageError, match="has user '1' and no history"):
        write_trl([PairRow("3", ("5",), "1")], path)
    with pytest.raises(UsageError, match=r"has the weight 2\.0, which TRL's format cannot hold"):
        write_trl([PairRow("3", ("5",), None, ("1",), 2.0)], path)
    write([{"prompt": ["1"], "chosen": "2"}], path)
    with pytest.raises(InputError, match="the row has no rejected: line 1"):
        read_trl(path)
