"""Files that are something else than their name promises."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from trm.utils import file_formats
from trm.utils.errors import DataError
from trm.utils.file_formats import decode_text, describe_character, detect_format, open_lines, printable

TEXT = "source,question,answer,rating\nmade,................,1234341221434321,0\n"


def packed(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, TEXT)
    return buffer.getvalue()


def packed_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("train.csv"))
    return buffer.getvalue()


def written(write: object, *values: object) -> bytes:
    buffer = io.BytesIO()
    write(*values, buffer)  # type: ignore[operator]
    return buffer.getvalue()


FORMATS: dict[str, tuple[bytes, str, str]] = {
    "gzip": (gzip.compress(TEXT.encode()), "gzip-compressed", "gunzip"),
    "bzip2": (bz2.compress(TEXT.encode()), "bzip2-compressed", "bunzip2"),
    "xz": (lzma.compress(TEXT.encode()), "xz-compressed", "unxz"),
    "zip": (packed("train.csv"), "a ZIP archive", "unpack"),
    "excel": (packed("[Content_Types].xml"), "an Excel workbook", "CSV"),
    "utf-16": (TEXT.encode("utf-16"), "UTF-16 text", "UTF-8"),
    "utf-16-be": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16 text", "UTF-8"),
    "utf-16 without mark": (TEXT.encode("utf-16-le"), "UTF-16 text", "UTF-8"),
    "utf-32": (TEXT.encode("utf-32"), "UTF-32 text", "UTF-8"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n",
        "a Git LFS pointer",
        "git lfs pull",
    ),
    "annex": (b"/annex/objects/SHA256E-s1--ab.csv\n", "a git-annex pointer", "git annex get"),
    "html": (b"\n<!DOCTYPE html>\n<html></html>", "an HTML or XML page", "browser"),
    "html with mark": (b"\xef\xbb\xbf<HTML lang=en>", "an HTML or XML page", "browser"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an HTML or XML page", "browser"),
    "parquet": (written(lambda buffer: pq.write_table(pa.table({"a": [1]}), buffer)), "a Parquet file", "CSV"),
    "numpy": (written(lambda buffer: np.save(buffer, np.zeros(3))), "a NumPy array", "CSV"),
    "torch": (written(torch.save, {"a": torch.zeros(1)}), "a PyTorch checkpoint", "puzzles"),
    "safetensors": (save({"a": torch.zeros(1)}), "a safetensors file", "puzzles"),
    "torch before 1.6": (
        written(lambda buffer: torch.save({}, buffer, _use_new_zipfile_serialization=False)),
        "a PyTorch checkpoint",
        "puzzles",
    ),
    "pickle": (b"\x80\x04]\x94(K\x01K\x02e.", "a Python pickle", "CSV"),
    "tar": (packed_tar(), "a tar archive", "unpack"),
    "binary": (b"\x01\x02\x00\x00\x07", "binary data", "text file"),
}


@pytest.mark.parametrize(("content", "name", "remedy"), FORMATS.values(), ids=FORMATS)
def test_formats(tmp_path: Path, content: bytes, name: str, remedy: str) -> None:
    path = tmp_path / "puzzles.csv"
    path.write_bytes(content)
    for read in (lambda: list(open_lines(path)), lambda: decode_text(content, path)):
        with pytest.raises(DataError, match=f"^{path}: is {name}, not UTF-8 text; .*{remedy}") as caught:
            read()
        assert "\n" not in str(caught.value)


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=50))
def test_text_is_text(text: str) -> None:
    if detect_format(text.encode()) is None:
        expected = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        assert decode_text(text.encode(), "here") == expected
    assert detect_format(f"1{text}".encode()) is None


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffa\rb\r\nc\nd\u2028e".encode())
    assert list(open_lines(path)) == ["a\r", "b\r\n", "c\n", "d\u2028e"]
    assert decode_text(path.read_bytes(), "here") == "a\nb\nc\nd\u2028e"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_invalid_utf8_is_named_with_its_line(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(f"a{line_end}é{line_end}".encode() + b"b\xe9\n")
    for read in (lambda: list(open_lines(path)), lambda: decode_text(path.read_bytes(), path)):
        with pytest.raises(DataError, match=rf"^{path}, line 3: not valid UTF-8 \(byte 0xe9\); save the file as UTF-8"):
            read()


def test_endless_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_formats, "MAX_LINE", 10)
    path = tmp_path / "a.txt"
    path.write_text("123456789\n" + "1" * 11)
    with pytest.raises(DataError, match="line 2: has more than 10 characters; split the line"):
        list(open_lines(path))


def test_characters_in_messages() -> None:
    assert describe_character("x") == "'x'"
    assert describe_character("\uff15") == "'\uff15' (U+FF15, FULLWIDTH DIGIT FIVE)"
    assert describe_character("\xa0") == r"'\xa0' (U+00A0, NO-BREAK SPACE)"
    assert describe_character("\x1b") == r"'\x1b' (U+001B)"
    assert printable("a\x1b[31m\u202eé\n") == r"a\x1b[31m\u202eé\n"
