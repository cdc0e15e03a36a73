"""Files that are not what their name promises: recognized by their first bytes, each with a remedy of its own.

`open_lines` and `decode_text` read UTF-8 text with LF, CRLF or CR line ends, with or without a byte order mark.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import partial
from io import BytesIO, TextIOWrapper
from pathlib import Path

from trm.utils.errors import DataError

HEAD_BYTES = 512
"""Bytes that `detect_format` looks at."""
MAX_LINE = 64 << 20
"""Most characters of a line, so that a file without line ends does not fill the memory."""
ZIP, TORCH, SAFETENSORS, PICKLE = "a ZIP archive", "a PyTorch checkpoint", "a safetensors file", "a Python pickle"
_UNPACK = "unpack it first"
_UTF_8 = "save it as UTF-8 (Excel: CSV UTF-8; PowerShell: -Encoding utf8)"
_EXPORT = "export it as UTF-8 text (CSV)"
_LOGIN = "open its address in a browser (login? error?) and download the file itself"
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed", "decompress it first (gunzip)"),
    (b"BZh", "bzip2-compressed", "decompress it first (bunzip2)"),
    (b"\xfd7zXZ\x00", "xz-compressed", "decompress it first (unxz)"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "decompress it first (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"PK\x03\x04", ZIP, _UNPACK),
    (b"PK\x05\x06", "an empty ZIP archive", "pack it again"),
    (b"\xff\xfe\x00\x00", "UTF-32 text", _UTF_8),
    (b"\x00\x00\xfe\xff", "UTF-32 text", _UTF_8),
    (b"\xff\xfe", "UTF-16 text", _UTF_8),
    (b"\xfe\xff", "UTF-16 text", _UTF_8),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer", "fetch its content (git lfs pull)"),
    (b"/annex/objects/", "a git-annex pointer", "fetch its content (git annex get)"),
    (b"PAR1", "a Parquet file", _EXPORT),
    (b"ARROW1", "an Arrow file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (b"SQLite format 3\x00", "a SQLite database", _EXPORT),
    (b"\xd0\xcf\x11\xe0", "an Excel or Office document", _EXPORT),
    (b"%PDF-", "a PDF document", _EXPORT),
    (b"{\\rtf", "an RTF document", _EXPORT),
    (b"\x89PNG\r\n", "a PNG image", "give the puzzle as text"),
    (b"\xff\xd8\xff", "a JPEG image", "give the puzzle as text"),
    (b"GIF8", "a GIF image", "give the puzzle as text"),
)
_NO_WEIGHTS = "give the puzzles instead"
_NO_PICKLE = "pickles are never loaded: export puzzles as text (CSV), weights as safetensors"
_PATTERNS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*(<!doctype|<!--|<html|<head|<body|<\?xml|<svg)", re.IGNORECASE),
        "an HTML or XML page",
        _LOGIN,
    ),
    (
        re.compile(rb"PK\x03\x04.{26}[^\x00/]+/(data\.pkl|\.format_version|\.data/|version|byteorder)", re.S),
        TORCH,
        _NO_WEIGHTS,
    ),
    (re.compile(rb"PK\x03\x04.{26}(\[Content_Types\]\.xml|xl/|_rels/|docProps/)", re.S), "an Excel workbook", _EXPORT),
    (re.compile(rb"\x80\x02\x8a\x0al\xfc\x9c"), TORCH, _NO_WEIGHTS),  # the magic number before PyTorch 1.6
    (re.compile(rb"\x80[\x02-\x05][\]}(c\x95\x8a]", re.DOTALL), PICKLE, _NO_PICKLE),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive", _UNPACK),
    (re.compile(rb".{4}\0\0\0\0\{", re.S), SAFETENSORS, _NO_WEIGHTS),  # an 8-byte length, then JSON
)
_UNDECODABLE = re.compile("[\udc80-\udcff]")


def detect_format(head: bytes) -> tuple[str, str] | None:
    """Name and remedy of a format that is not plain UTF-8 text, from the first bytes of a file; None: maybe text."""
    found = next((match for pattern, *match in _PATTERNS if pattern.match(head)), None)
    found = found or next((match for signature, *match in _SIGNATURES if head.startswith(signature)), None)
    if found is None and b"\x00" in head:
        halves = sorted((head[::2].count(0), head[1::2].count(0)))
        found = ("binary data", "give a text file")
        if halves[0] == 0 and halves[1] > len(head) // 4:
            found = ("UTF-16 text", _UTF_8)
    return (found[0], found[1]) if found else None


def check_text(head: bytes, location: object) -> None:
    """Raise `DataError` with `location`, format and remedy unless these first bytes may be UTF-8 text."""
    found = detect_format(head)
    if found:
        raise DataError(f"{location}: is {found[0]}, not UTF-8 text; {found[1]}")


def read_head(path: Path) -> bytes:
    """The first bytes of a file. Raises `OSError`."""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def open_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, one at a time; a byte order mark is skipped.

    Raises `DataError` for another format, invalid UTF-8 (with the line) or a line of more than `MAX_LINE` characters,
    and `OSError` for an unreadable file.
    """
    with path.open("rb") as file:
        check_text(file.read(HEAD_BYTES), path)
        file.seek(0)
        # Undecodable bytes become surrogates, so that the line can be named. newline="": LF, CRLF and CR end a line.
        with TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            for number, line in enumerate(iter(partial(text.readline, MAX_LINE), ""), 1):
                if len(line) >= MAX_LINE and line[-1] not in "\r\n":
                    raise DataError(f"{path}, line {number}: has more than {MAX_LINE} characters; split the line")
                if not line.isascii() and (invalid := _UNDECODABLE.search(line)):
                    byte = ord(invalid[0]) - 0xDC00
                    raise DataError(
                        f"{path}, line {number}: not valid UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"
                    )
                yield line


def decode_text(data: bytes, location: object) -> str:
    """Decode UTF-8; a byte order mark is skipped, and line ends become LF.

    Raises `DataError` with `location` for another format or invalid UTF-8.
    """
    check_text(data[:HEAD_BYTES], location)
    try:
        return TextIOWrapper(BytesIO(data), encoding="utf-8-sig", newline=None).read()
    except UnicodeDecodeError:
        line, byte = _first_invalid(data)
        raise DataError(
            f"{location}, line {line}: not valid UTF-8 (byte 0x{byte:02x}); save the file as UTF-8"
        ) from None


def _first_invalid(data: bytes) -> tuple[int, int]:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1, data[error.start]
    raise AssertionError("the data is valid UTF-8")


def describe_character(character: str) -> str:
    """A character for a message: in quotes, and outside of ASCII with its code point and name."""
    if character.isascii() and character.isprintable():
        return repr(character)
    name = unicodedata.name(character, "")
    return f"{character!r} (U+{ord(character):04X}{', ' if name else ''}{name})"


def printable(text: str) -> str:
    """Text from outside for a terminal: every character that is not printable (control codes) as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, most: int = 1000) -> str:
    """The start and the end of a text of more than about `most` characters."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[-most // 3 :]}"
