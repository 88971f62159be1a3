"""Stage 3: vectors become Semantic IDs."""

from genrec.tokenizer.rqkmeans import RQKMeans
from genrec.tokenizer.rqvae import RQVAE
from genrec.tokenizer.tokenize import Tokenize, tokenize

__all__ = ["RQVAE", "RQKMeans", "Tokenize", "tokenize"]
