"""Read CSV and TSV files that people or their spreadsheets made, and their texts.

By the usual rules a field in quotation marks can hold line breaks, so an unpaired mark
makes one field of all rows up to the next. Here every line is a row.
"""

import csv
import re
import sys
import unicodedata
from pathlib import Path

from stages.core.errors import InputError

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and halves of characters, which no text has."""

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons"}
# The characters of Unicode's property Default_Ignorable_Code_Point, except the two
# joiners, and the annotation marks and the empty braille cell. Variation selectors are
# among them: emoji that differ in them alone are one.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_JOINERS = re.compile("[\u200c\u200d]+")
_VIRAMA = 9  # the combining class of the sign that joins Indic consonants
# Each line is in memory already, so there is no reason to limit its fields.
csv.field_size_limit(sys.maxsize)


def clean_text(text: str) -> str:
    """`text` in NFC, without what nobody sees, with single plain spaces in it."""
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    text = " ".join(_JOINERS.sub(_seen_joiner, f" {text} ").split())
    return unicodedata.normalize("NFC", text)


def _seen_joiner(found: re.Match[str]) -> str:
    """A joiner where it changes what is seen, much as RFC 5892 (A.1, A.2) has it.

    That is between Arabic letters and next to the virama of Indic scripts.
    """
    around = found.string[found.start() - 1], found.string[found.end()]
    arabic = all(unicodedata.bidirectional(one) == "AL" for one in around)
    indic = any(unicodedata.combining(one) == _VIRAMA for one in around)
    return found[0][0] if arabic or indic else ""


def read_columns(file: Path, *, quoted: bool = True) -> dict[str, list[str]]:
    """The columns of a TSV file, or with any other suffix CSV, by their names.

    The heading is line 1. Fields that a row lacks at its end are empty. Columns without
    a name are left out, and so are empty lines at the end.

    Args:
        file: the table.
        quoted: whether a field can be in quotation marks.

    Raises:
        InputError: it is not UTF-8, or a line is not a row; names the line.
    """
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise not_utf8(file) from None
    rows: list[list[str]] = []
    blank = 0
    for number, line in enumerate(lines, 1):
        row = _read_row(file, number, line, separator, quoted)
        if not any(row):
            blank = blank or number
            continue
        if blank:
            raise empty_line(file, blank)
        rows.append(row)
    if not rows:
        raise InputError("not a readable table (it is empty)", path=file)
    _check_heading(file, rows[0], separator)
    names = [clean_text(name) for name in rows[0]]
    width = len(names)
    for number, row in enumerate(rows, 1):
        if any(row[width:]):
            raise InputError(
                f"not a readable table (row {number} has {len(row)} fields)",
                path=file,
                expected=f"{width}, as in the heading",
                fix=f"put a field with {_SEPARATORS[separator]} in quotation marks",
            )
        row += [""] * (width - len(row))
    return {
        name: [row[place] for row in rows[1:]]
        for place, name in enumerate(names)
        if name
    }


def _read_row(
    file: Path, number: int, line: str, separator: str, quoted: bool
) -> list[str]:
    reader = csv.reader(
        [line],
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        return next(reader, [])
    except csv.Error as error:
        raise InputError(
            f"not a readable table (line {number} has an unpaired quotation mark, or a "
            "line break in a field)",
            path=file,
            found=f"{line[:60]!r}, {error}",
            expected="each row on one line",
            fix='double a quotation mark inside a field: "the ""red"" one"; put a '
            "space in place of a line break",
        ) from None


def _check_heading(file: Path, heading: list[str], separator: str) -> None:
    names = [clean_text(name) for name in heading]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise InputError(f"column {name!r} is repeated", path=file)
    for other, word in _SEPARATORS.items():
        if len(heading) == 1 and other != separator and other in heading[0]:
            wanted = _SEPARATORS[separator]
            raise InputError(
                f"its fields are separated by {word}",
                path=file,
                expected=wanted,
                fix=f"save it with {wanted}, or with tabs and the suffix .tsv",
            )


def empty_line(file: Path, number: int) -> InputError:
    """The error for an empty line before another row, where one may have been lost."""
    return InputError(f"line {number} is empty", path=file, fix="remove it")


def not_utf8(file: Path) -> InputError:
    """The error for a file that is not UTF-8; names its first invalid line."""
    content = file.read_bytes()
    fix = "save it as UTF-8, in Excel as «CSV UTF-8»"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return InputError("not UTF-8 text", path=file, found="UTF-16", fix=fix)
    what, found = "not UTF-8 text", None
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"line {number} is not UTF-8 text"
            found = f"{line[max(0, error.start - 20) : error.end + 20]!r}"
            break
    return InputError(what, path=file, found=found, fix=fix)
