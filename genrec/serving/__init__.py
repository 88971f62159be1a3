"""Trained rows in use: load a row from its run file, recommend items, and write lists of many users to a file."""

from genrec.serving.catalog_items import CatalogItems
from genrec.serving.item_recommender import ItemRecommender
from genrec.serving.trained_rows import TrainedRow, load

__all__ = ["CatalogItems", "ItemRecommender", "TrainedRow", "load"]
