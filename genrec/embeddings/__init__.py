"""Item encoders: vectors from texts, from interactions, or from files."""

from genrec.embeddings.collaborative import Collaborative
from genrec.embeddings.concatenated import Concatenated
from genrec.embeddings.item2vec import Item2Vec
from genrec.embeddings.precomputed import Precomputed
from genrec.embeddings.sentence_encoder import SentenceEncoder
from genrec.embeddings.text_or_interactions import TextOrInteractions
from genrec.embeddings.tfidf import TfidfSvd
from genrec.embeddings.vector_checks import check_vectors

__all__ = [
    "Collaborative",
    "Concatenated",
    "Item2Vec",
    "Precomputed",
    "SentenceEncoder",
    "TextOrInteractions",
    "TfidfSvd",
    "check_vectors",
]
