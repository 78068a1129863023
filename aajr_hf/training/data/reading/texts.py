"""Opens files of text: compressed or not, in the encoding that their first bytes show."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_GZIP = b"\x1f\x8b"


@contextmanager
def opened(file: Path, newline: str = "\n") -> Iterator[TextIO]:
    """
    Open a file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark, and decompress it if it is a gzip file.
    Bytes that are not UTF-8 become surrogates, so that only their row is invalid.

    Raises:
        ValueError: while the file is read, if it is cut off or damaged; the message names the file.
    """
    try:
        with file.open("rb") as stored:
            compressed = stored.read(2) == _GZIP
        with gzip.open(file) if compressed else file.open("rb") as data:
            encoding = json.detect_encoding(data.read(4))
            data.seek(0)
            errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
            with io.TextIOWrapper(data, encoding, errors, newline) as text:
                yield text
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not valid {error.encoding.upper()} ({error.reason}): save it as UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{file} is a gzip file that is cut off or damaged ({error}): compress it again") from None
