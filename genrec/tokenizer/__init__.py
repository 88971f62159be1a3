"""Tokenizers: from item vectors to Semantic IDs.

`Tokenize` is the specification of the stage, `tokenize` runs it, and `load_tokenized` and `extend` give Semantic IDs to items that
are added to a catalog later. The other names are quantizers.
"""

from genrec.tokenizer.imported import Imported
from genrec.tokenizer.letter import LETTER
from genrec.tokenizer.product_quantizer import ProductQuantizer
from genrec.tokenizer.random_codes import RandomCodes
from genrec.tokenizer.rqkmeans import RQKMeans
from genrec.tokenizer.rqvae import RQVAE
from genrec.tokenizer.tokenize import Tokenize, Tokenized, extend, tokenize
from genrec.tokenizer.tokenized_files import load_tokenized, save_tokenized

__all__ = [
    "LETTER",
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
