"""Stage 1, fetching: upstream files, from where they are published or from a mirror, checked, and never twice.

For authors of sources: `fetch(Archive(name, addresses), root)` is the path of the file, and `digest(path)` its hash.
"""

from genrec.data.fetch.archives import Archive
from genrec.data.fetch.download import fetch
from genrec.data.fetch.records import digest

__all__ = ["Archive", "digest", "fetch"]
