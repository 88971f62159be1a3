"""Download upstream files from their publisher or from a mirror, verify them, and reuse them afterwards.

For authors of sources: `download(Archive(name, urls), root)` returns the path of the file, and `digest(path)` its sha256.
"""

from genrec.data.download.archives import Archive
from genrec.data.download.file_records import digest
from genrec.data.download.http_download import download

__all__ = ["Archive", "digest", "download"]
