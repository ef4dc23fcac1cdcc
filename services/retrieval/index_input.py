"""The files an index is built from: read line by line, plain or gzipped, and on from any line."""

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from services.common.errors import InvalidRequest, Violation
from services.retrieval.index_record import BadRecord, paper_of_line

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A record with some thousand authors has about 0.5 MB; a longer line is passed over and rejected."""
LOOKED_AT_LINES = 100
"""A file that holds no record in its first lines is taken for something else."""
_GZIP = b"\x1f\x8b"
_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, OSError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """A file as it was when the build began."""

    path: str
    size_bytes: int
    modified_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """How far the inputs are read: everything before is in the index."""

    input_number: int = 0
    offset: int = 0
    """Byte of the unpacked file."""
    line_number: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line that is not blank, where the next one begins, and how much of all files was read for it."""

    text: bytes
    """Empty where the line is longer than `MAX_LINE_BYTES`."""
    path: str
    after: Position
    read_bytes: int


def inputs_of(paths: Sequence[Path]) -> tuple[Input, ...]:
    """Return the files, each of which begins like a file of records.

    Raises:
        InvalidRequest: files that are missing, cannot be read, or hold something else; all are named.
    """
    inputs: list[Input] = []
    violations: list[Violation] = []
    for path in paths:
        try:
            inputs.append(_input_of(path))
        except InvalidRequest as error:
            violations += error.violations
    if violations:
        raise InvalidRequest(violations)
    return tuple(inputs)


def json_of(inputs: Sequence[Input]) -> str:
    """Return what tells these inputs from others, as text."""
    return json.dumps([asdict(each) for each in inputs])


def lines_from(inputs: Sequence[Input], start: Position) -> Iterator[Line]:
    """Yield the lines from `start` on.

    Raises:
        InvalidRequest: a file cannot be read to its end, or is not what it was when the build began.
    """
    read_bytes = sum(each.size_bytes for each in inputs[: start.input_number])
    for number in range(start.input_number, len(inputs)):
        source = inputs[number]
        yield from _lines_of(
            source, start if number == start.input_number else Position(input_number=number), read_bytes
        )
        read_bytes += source.size_bytes


def _lines_of(source: Input, start: Position, read_before: int) -> Iterator[Line]:
    line_number, offset = start.line_number, start.offset
    with _opened(Path(source.path)) as (raw, file):
        status = os.fstat(raw.fileno())
        if (status.st_size, status.st_mtime_ns) != (source.size_bytes, source.modified_ns):
            raise _invalid(source.path, "changed while it was read")
        try:
            file.seek(offset)
            while text := file.readline(MAX_LINE_BYTES):
                is_whole = text.endswith(b"\n") or len(text) < MAX_LINE_BYTES
                offset += len(text) + (0 if is_whole else _skip_line(file))
                line_number += 1
                if not text.isspace():
                    after = Position(input_number=start.input_number, offset=offset, line_number=line_number)
                    read_bytes = read_before + min(raw.tell(), source.size_bytes)
                    yield Line(text=text if is_whole else b"", path=source.path, after=after, read_bytes=read_bytes)
        except _BROKEN as error:
            raise _invalid(source.path, f"breaks off after line {line_number:,} ({error}); fetch it again") from error


def _skip_line(file: IO[bytes] | gzip.GzipFile) -> int:
    """Read on behind the end of a long line and return how many bytes that were."""
    skipped = 0
    while text := file.readline(MAX_LINE_BYTES):
        skipped += len(text)
        if text.endswith(b"\n"):
            break
    return skipped


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes] | gzip.GzipFile]]:
    """Yield the file and, for one that is gzipped whatever its name says, what unpacks it."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise _invalid(str(path), f"cannot be read: {error.strerror}") from error
    with raw:
        is_packed = raw.read(len(_GZIP)) == _GZIP
        raw.seek(0)
        if not is_packed:
            yield raw, raw
            return
        with gzip.GzipFile(fileobj=raw) as unpacked:
            yield raw, unpacked


def _input_of(path: Path) -> Input:
    if not path.is_file():
        raise _invalid(str(path), "there is no such file")
    status = path.stat()
    source = Input(path=str(path.resolve()), size_bytes=status.st_size, modified_ns=status.st_mtime_ns)
    reason = "it is empty"
    for number, line in enumerate(_lines_of(source, Position(), 0), start=1):
        try:
            paper_of_line(line.text)
        except BadRecord as error:
            reason = str(error)
        else:
            return source
        if number == LOOKED_AT_LINES:
            break
    wanted = "JSON lines of arXiv records (the Kaggle snapshot or a corpus), plain or gzipped"
    raise _invalid(str(path), f"wanted {wanted}; none was found in its first lines: {reason}")


def _invalid(path: str, description: str) -> InvalidRequest:
    return InvalidRequest([Violation(field=path, description=description)])
