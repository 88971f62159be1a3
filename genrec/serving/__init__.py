"""Trained rows in use: load a row or an export, recommend items, write lists of many users, export a row as a folder."""

from genrec.serving.catalog_items import CatalogItems
from genrec.serving.item_recommender import ItemRecommender
from genrec.serving.row_export import export
from genrec.serving.row_loading import load
from genrec.serving.trained_rows import TrainedRow

__all__ = ["CatalogItems", "ItemRecommender", "TrainedRow", "export", "load"]
