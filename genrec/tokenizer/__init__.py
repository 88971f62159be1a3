"""Stage 3: vectors become Semantic IDs."""

from genrec.tokenizer.imported import Imported
from genrec.tokenizer.product_quantizer import ProductQuantizer
from genrec.tokenizer.random_codes import RandomCodes
from genrec.tokenizer.rqkmeans import RQKMeans
from genrec.tokenizer.rqvae import RQVAE
from genrec.tokenizer.tokenize import Tokenize, Tokenized, extend, load_tokenized, save_tokenized, tokenize

__all__ = [
    "RQVAE",
    "Imported",
    "ProductQuantizer",
    "RQKMeans",
    "RandomCodes",
    "Tokenize",
    "Tokenized",
    "extend",
    "load_tokenized",
    "save_tokenized",
    "tokenize",
]
