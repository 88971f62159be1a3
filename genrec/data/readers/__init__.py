"""Readers of upstream files, shared by the data sets in `genrec.data.sources`.

These words are used for the data on their way from a file to the tables of a source:

    file         `UpstreamFile`: a plain or gzip file, or a member of a zip archive
    block        `Block`: the bytes of some whole lines of a file
    line         `Line`: number and bytes of one line
    row          `Row`: number and fields of one parsed line, or of one row of a DataFrame or Parquet file
    event table  pyarrow.Table of interactions: user, item: string; optionally time: int64, rating: float64 (null if missing)
    item table   pyarrow.Table of items: item: string, and more columns of strings

A regular block becomes an event table at once (`arrow_blocks`). Any other block is split into lines (`upstream_files`), parsed to rows
(`line_rows`) and converted to event tables (`raw_tables`), with the same result. `event_tables` chooses between the two ways, and
merges the tables to the stream that a source returns. Rows that cannot be read are set aside with file, line and reason (`bad_rows`).
`item_text` cleans the texts of items, `time_texts` reads dates.

`own_tables` reads a user's tables in any format, with `column_names` for their columns, `frame_tables` for DataFrames and Parquet,
and `json_tables` for JSON lines.
"""
