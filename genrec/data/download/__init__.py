"""Stage 1, fetching: upstream files, from where they are published or from a mirror, checked, and never twice.

For authors of sources: `fetch(Archive(name, addresses), root)` is the path of the file, and `digest(path)` its hash.
"""

from genrec.data.download.archives import Archive
from genrec.data.download.file_records import digest
from genrec.data.download.http_download import fetch

__all__ = ["Archive", "digest", "fetch"]
