"""The sentence encoder, mostly with a fake library that hashes texts to vectors and records calls."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from genrec.data.catalog import NO_TEXT as CATALOG_PLACEHOLDER
from genrec.embeddings import Concatenated, SentenceEncoder, TfidfSvd, check_vectors
from genrec.embeddings.text_columns import NO_TEXT
from genrec.errors import InputError, NetworkError, ResourceError, UsageError
from genrec.store import describe, hash_of
from genrec.types import ResumableEncoder

NO_INTERACTIONS = pd.DataFrame({"user": [], "item": []})
TEXTS = [f"item number {place}" for place in range(10)]
SPEC = SentenceEncoder("org/model", chunk_size=4, batch_size=2)


def items(texts: list[str], **more: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"item_id": [f"i{place}" for place in range(len(texts))], "text": texts, **more})


class Library:
    """A fake sentence_transformers: records calls and raises errors on request."""

    def __init__(self) -> None:
        self.loaded: list[dict[str, Any]] = []
        self.encoded: list[str] = []
        self.prompts: list[str | None] = []
        self.fail_after: int | None = None  # texts
        self.failure: Exception = KeyboardInterrupt()  # type: ignore[assignment]
        self.load_error: Exception | None = None

    def SentenceTransformer(self, model: str, **options: Any) -> Any:
        if self.load_error is not None:
            raise self.load_error
        torch.rand(3)  # a real model initializes its layers at random
        self.loaded.append({"model": model, **options})
        return Model(self, options["truncate_dim"] or 6)


class Model:
    def __init__(self, library: Library, width: int) -> None:
        self.library, self.width, self.max_seq_length = library, width, 256

    def encode(self, texts: list[str], *, prompt: str | None, batch_size: int, **options: Any) -> np.ndarray:
        if self.library.fail_after is not None and len(self.library.encoded) + len(texts) > self.library.fail_after:
            raise self.library.failure
        self.library.encoded += texts
        self.library.prompts.append(prompt)
        rows = [[byte - 127.5 for byte in hashlib.sha256(((prompt or "") + text).encode()).digest()[: self.width]] for text in texts]
        vectors = np.array(rows) * np.array([[text != "zero"] for text in texts])
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(length, 1e-9) if options["normalize_embeddings"] else vectors


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    made, module = Library(), ModuleType("sentence_transformers")
    module.SentenceTransformer = made.SentenceTransformer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    for name in ("GENREC_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_the_placeholder_is_that_of_the_catalog() -> None:
    assert NO_TEXT == CATALOG_PLACEHOLDER


def test_shape_type_length_and_arguments_of_the_library(library: Library) -> None:
    state = torch.get_rng_state()
    vectors = replace(SPEC, revision="abc", dim=5, prompt="passage: ", device="cpu").encode(items(TEXTS), NO_INTERACTIONS)
    assert vectors.shape == (10, 5)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert library.prompts == ["passage: "] * 3  # chunks of 4, 4 and 2
    (loaded,) = library.loaded
    assert loaded["model"] == "org/model"
    assert loaded["revision"] == "abc"
    assert loaded["model_kwargs"] == {"use_safetensors": True, "dtype": "float32"}
    assert not loaded["trust_remote_code"]
    assert not loaded["local_files_only"]
    assert torch.equal(torch.get_rng_state(), state)


def test_vectors_without_normalization(library: Library) -> None:
    vectors = replace(SPEC, normalize=False).encode(items(["a", "b", ""]), NO_INTERACTIONS)
    assert np.linalg.norm(vectors[0]) > 10
    np.testing.assert_allclose(vectors[2], (vectors[0] + vectors[1]) / 2, rtol=1e-5)  # the mean, not scaled


def test_equal_texts_are_encoded_once_and_get_the_same_bits(library: Library) -> None:
    vectors = SPEC.encode(items(["a", "b", "a", "a"]), NO_INTERACTIONS)
    assert library.encoded == ["a", "b"]
    np.testing.assert_array_equal(vectors[[2, 3]], vectors[[0, 0]])


def test_items_without_text_get_the_mean(library: Library) -> None:
    table = items(["a", "", "b", NO_TEXT, "  ", "zero"])
    table.loc[len(table)] = {"item_id": "x", "text": None}
    with pytest.warns(UserWarning, match="5 of 7 items are without usable text"):
        vectors = SPEC.encode(table, NO_INTERACTIONS)
    assert library.encoded == ["a", "b", "zero"]  # not the placeholder
    mean = vectors[[0, 2]].mean(0)
    np.testing.assert_allclose(vectors[[1, 3, 4, 5, 6]], np.tile(mean / np.linalg.norm(mean), (5, 1)), atol=1e-6)


def test_columns_are_joined_and_empty_ones_left_out(library: Library) -> None:
    spec = replace(SPEC, columns=("title", "text"), separator=" | ")
    spec.encode(items(["red", NO_TEXT, "blue"], title=["Rose", "Clip", ""]), NO_INTERACTIONS)
    assert library.encoded == ["Rose | red", "Clip", "blue"]
    with pytest.raises(InputError, match=r"needs the items' columns \['title'\], got the columns \['item_id', 'text'\]"):
        spec.encode(items(TEXTS), NO_INTERACTIONS)


def test_no_text_at_all_is_an_error(library: Library) -> None:
    with pytest.raises(InputError, match="none of the 2 items has text in text"):
        SPEC.encode(items(["", NO_TEXT]), NO_INTERACTIONS)
    assert not library.loaded


def test_an_interrupted_run_resumes_from_its_chunks_with_the_same_bits(library: Library, tmp_path: Path) -> None:
    whole = SPEC.encode(items(TEXTS), NO_INTERACTIONS)
    assert isinstance(SPEC, ResumableEncoder)
    library.encoded, library.fail_after = [], 8
    with pytest.raises(KeyboardInterrupt):
        SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path / "work")
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["chunk-000000.safetensors", "chunk-000001.safetensors"]
    library.encoded, library.fail_after = [], None
    np.testing.assert_array_equal(SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path / "work"), whole)
    assert library.encoded == TEXTS[8:]


def test_a_finished_run_needs_no_model(library: Library, tmp_path: Path) -> None:
    whole = SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path)
    library.load_error = OSError("gone")
    np.testing.assert_array_equal(SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path), whole)


def test_only_chunks_with_changed_texts_are_encoded_again(library: Library, tmp_path: Path) -> None:
    SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path)
    changed = [*TEXTS[:5], "another", *TEXTS[6:]]
    library.encoded = []
    vectors = SPEC.encode_into(items(changed), NO_INTERACTIONS, tmp_path)
    assert library.encoded == changed[4:8]
    np.testing.assert_array_equal(vectors, SPEC.encode(items(changed), NO_INTERACTIONS))


@pytest.mark.parametrize("change", [{"prompt": "p: "}, {"model": "org/other"}, {"revision": "v2"}, {"normalize": False}, {"dim": 3}])
def test_chunks_of_other_settings_are_not_used(library: Library, tmp_path: Path, change: dict[str, Any]) -> None:
    SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path)
    library.encoded = []
    other = replace(SPEC, **change)
    np.testing.assert_array_equal(other.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path)[0], other.encode(items(TEXTS), None)[0])  # type: ignore[arg-type]
    assert library.encoded[:10] == TEXTS


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _foreign(path: Path) -> None:
    save_file(load_file(path), path)  # the same vectors without a fingerprint


def _nonsense(path: Path) -> None:
    path.write_bytes(b"\x80\x04pickle")


def _delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_truncate, _flip, _foreign, _nonsense, _delete])
def test_a_damaged_or_foreign_chunk_is_encoded_again(library: Library, tmp_path: Path, damage: Any) -> None:
    whole = SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path)
    damage(tmp_path / "chunk-000001.safetensors")
    library.encoded = []
    np.testing.assert_array_equal(SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path), whole)
    assert library.encoded == TEXTS[4:8]


def test_a_half_written_chunk_never_has_the_final_name(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", cut)
    with pytest.raises(OSError, match="No space left"):
        SPEC.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path)
    assert not list(tmp_path.glob("chunk-*"))


def test_the_key_depends_on_the_model_and_not_on_speed(tmp_path: Path) -> None:
    def key(spec: SentenceEncoder) -> str:
        return hash_of(describe(spec, tmp_path))

    spec = SentenceEncoder("org/model")
    assert key(spec) == key(replace(spec, batch_size=1, chunk_size=1, device="cpu"))
    others = [replace(spec, **change) for change in ({"model": "org/b"}, {"revision": "v"}, {"columns": ("title",)}, {"prompt": ""})]
    assert len({key(entry) for entry in (spec, *others)}) == 5
    assert key(replace(spec, columns=["title"])) == key(others[2])  # type: ignore[arg-type]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    first, moved = SentenceEncoder(str(tmp_path / "one")), SentenceEncoder(str(tmp_path / "two"))
    assert key(first) == key(moved)
    (tmp_path / "two" / "config.json").write_text('{"a": 1}')
    assert key(first) != key(moved)


def test_a_missing_library_is_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ResourceError, match=r"pip install 'genrec\[text\]'"):
        SPEC.encode(items(TEXTS), NO_INTERACTIONS)


@pytest.mark.parametrize("name", ["GENREC_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_mode_downloads_nothing(library: Library, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    SPEC.encode(items(TEXTS), NO_INTERACTIONS)
    assert library.loaded[0]["local_files_only"]
    library.load_error = OSError("not in the cache")
    with pytest.raises(NetworkError, match=r"'org/model' can't be loaded \(OSError: not in the cache\); .*forbids downloads"):
        SPEC.encode(items(TEXTS), NO_INTERACTIONS)


def test_a_model_that_cannot_be_loaded_is_an_error(library: Library, tmp_path: Path) -> None:
    library.load_error = ValueError("no such thing")
    with pytest.raises(NetworkError, match=r"'org/model' can't be loaded .*check the name"):
        SPEC.encode(items(TEXTS), NO_INTERACTIONS)
    with pytest.raises(InputError, match=r"can't be loaded .*expected a folder that sentence-transformers can read"):
        replace(SPEC, model=str(tmp_path)).encode(items(TEXTS), NO_INTERACTIONS)
    for path in (str(tmp_path / "absent"), "./absent", "a/b/c"):
        with pytest.raises(InputError, match="is no folder"):
            replace(SPEC, model=path).fingerprint(tmp_path)


def test_out_of_memory_suggests_a_smaller_batch(library: Library) -> None:
    library.fail_after, library.failure = 0, torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(ResourceError, match=r"SentenceEncoder\(batch_size=1\)"):
        SPEC.encode(items(TEXTS), NO_INTERACTIONS)


def test_more_dimensions_than_the_model_has_are_an_error(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "encode", lambda self, texts, **options: np.ones((len(texts), 6)))
    with pytest.raises(InputError, match=r"returned vectors of shape \[4, 6\] for 4 texts; expected \[4, 512\]"):
        replace(SPEC, dim=512).encode(items(TEXTS), NO_INTERACTIONS)


@pytest.mark.parametrize(
    "field", [{"dim": 0}, {"max_seq_length": 0}, {"batch_size": 0}, {"chunk_size": 0}, {"columns": ()}, {"model": " "}]
)
def test_fields_out_of_range_are_an_error(field: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"SentenceEncoder\.{next(iter(field))} must"):
        SentenceEncoder(**{"model": "m", **field})


def test_in_a_concatenation_each_encoder_has_its_own_folder(library: Library, tmp_path: Path) -> None:
    both = Concatenated([TfidfSvd(dim=2, min_df=1), SPEC, replace(SPEC, prompt="p")])  # type: ignore[arg-type]
    assert isinstance(both, ResumableEncoder)
    vectors = both.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    library.encoded = []
    np.testing.assert_array_equal(both.encode_into(items(TEXTS), NO_INTERACTIONS, tmp_path), vectors)
    assert not library.encoded
    np.testing.assert_array_equal(both.encode(items(TEXTS), NO_INTERACTIONS), vectors)


def test_the_real_library_with_a_tiny_model(tmp_path: Path) -> None:
    """A random BERT with one layer, without a download. Resuming and the batch size do not change the vectors."""
    library = pytest.importorskip("sentence_transformers")
    model = _tiny_model(library, tmp_path)
    spec = SentenceEncoder(str(model), chunk_size=4, batch_size=2, device="cpu")
    texts = ["rose hand cream", "hair clip", "", "rose", "hand cream " * 40, "steel hair clip", "rose hand cream"]
    with pytest.warns(UserWarning, match="1 of 7 items is without usable text: it gets"):
        vectors = spec.encode(items(texts), NO_INTERACTIONS)
    check_vectors(vectors[:6], [str(place) for place in range(6)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    reference = library.SentenceTransformer(str(model), device="cpu").encode(texts[:2], normalize_embeddings=True)
    np.testing.assert_allclose(vectors[:2], reference, atol=1e-5)
    spec.encode_into(items(texts), NO_INTERACTIONS, tmp_path / "work")
    (tmp_path / "work" / "chunk-000000.safetensors").unlink()
    np.testing.assert_array_equal(spec.encode_into(items(texts), NO_INTERACTIONS, tmp_path / "work"), vectors)
    np.testing.assert_allclose(replace(spec, batch_size=7).encode(items(texts), NO_INTERACTIONS), vectors, atol=1e-5)
    with pytest.raises(UsageError, match="max_seq_length to at most the model's own limit"):
        replace(spec, max_seq_length=64).encode(items(texts), NO_INTERACTIONS)
    with pytest.raises(InputError, match="can't be loaded"):
        replace(spec, model=str(tmp_path / "work")).encode(items(texts), NO_INTERACTIONS)


def _tiny_model(library: Any, folder: Path) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "rose", "hand", "cream", "hair", "clip", "steel"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **size)).save_pretrained(folder / "bert")
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder / "bert")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    word = Transformer(str(folder / "bert"))
    library.SentenceTransformer(modules=[word, Pooling(16)], device="cpu").save(str(folder / "model"))
    return folder / "model"
