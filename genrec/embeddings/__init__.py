"""Stage 2: items become vectors."""

from genrec.embeddings.checks import check_vectors
from genrec.embeddings.collaborative import Collaborative
from genrec.embeddings.concatenated import Concatenated
from genrec.embeddings.tfidf import TfidfSvd

__all__ = ["Collaborative", "Concatenated", "TfidfSvd", "check_vectors"]
