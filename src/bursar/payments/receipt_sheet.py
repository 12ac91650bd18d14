"""The page that a receipt as PDF stands on: no letter of a name is lost unseen.

The fonts that every PDF reader has know Western European letters only, and no package brings one
that knows all. With a TrueType font of the operator's (BURSAR_RECEIPT_FONT) everything stands as it
is written. Without one Greek and Cyrillic become Latin letters, what is in other scripts is marked
as missing, and the receipt says so; its page in HTML has it all.
"""

import re
import unicodedata
from datetime import UTC
from pathlib import Path

from fpdf import FPDF
from fpdf.fonts import TTFFont

from bursar.payments.receipts import Document

OWN, CORE = "receipt", "helvetica"
ENCODING = "cp1252"
NAMES, WIDE = 45, 170  # the first column, and the whole width, in mm
MISSING = "[...]"
SEVERAL = re.compile(rf"({re.escape(MISSING)})+")
OTHER_LETTERS = (
    "Some letters cannot be printed in this file and are written in others, or left out as"
    f" {MISSING}; the receipt as a web page has all of them."
)
CYRILLIC = "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґђјљњћџ"
AS_LATIN = """
  a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch ' y ' e yu ya
  i yi ye g dj j lj nj c dz
"""
GREEK_AND_MORE = "αβγδεζηθικλμνξοπρσςτυφχψωłđħıŋ"
SO_TOO = """
  a v g d e z i th i k l m n x o p r s s t y f ch ps o l d h i ng
"""
LATIN = dict(zip(CYRILLIC, AS_LATIN.split(), strict=True)) | dict(
    zip(GREEK_AND_MORE, SO_TOO.split(), strict=True)
)


class Sheet(FPDF):
    """A page in two columns, in the font that there is."""

    own = False  # whether the operator's font is used, and what it has letters for
    letters: frozenset[int] = frozenset()
    replaced = False

    def begin(self, document: Document, font: Path | None) -> None:
        self.set_creation_date(document.issued_at.astimezone(UTC))
        self.set_title(f"Receipt {document.number}")
        self.set_margins(20, 20)
        self.core_fonts_encoding = ENCODING
        if font:
            self.add_font(OWN, fname=font)
            added = self.fonts[OWN]
            assert isinstance(added, TTFFont)  # noqa: S101 - it was added as one
            self.own, self.letters = True, frozenset(added.cmap)
        self.add_page()

    def close(self) -> None:
        """A font's file stays open until somebody says so."""
        added = self.fonts.get(OWN)
        if isinstance(added, TTFFont):
            added.ttfont.close()

    def heading(self, document: Document) -> None:
        self.print(document.company, size=18, bold=True)
        self.print("Receipt", size=14)
        if document.is_test:
            self.print("TEST MODE: no money moved", size=14, bold=True)
        self.ln(6)

    def row(self, name: str, value: str, *, bold: bool = False) -> None:
        if not value:
            return
        top = self.get_y()
        self.set_font_of(size=11, bold=False)
        self.set_text_color(90)
        self.cell(NAMES, 8, self.written(name))
        self.set_text_color(0)
        self.set_xy(self.l_margin + NAMES, top)
        self.print(value, size=11, bold=bold, width=WIDE - NAMES)

    def section(self, title: str) -> None:
        self.ln(4)
        self.print(title, size=12, bold=True)

    def ending(self, document: Document) -> None:
        self.ln(8)
        self.print(f"Questions? Write to {document.support}.", size=10)
        if self.replaced:
            self.print(OTHER_LETTERS, size=9)

    def print(self, text: str, *, size: int, bold: bool = False, width: int = WIDE) -> None:
        self.set_font_of(size=size, bold=bold)
        self.multi_cell(width, 8, self.written(text), new_x="LMARGIN", new_y="NEXT", align="L")

    def set_font_of(self, *, size: int, bold: bool) -> None:
        """A font file is one weight; then size alone tells what matters."""
        if self.own:
            self.set_font(OWN, size=size)
        else:
            self.set_font(CORE, style="B" if bold else "", size=size)

    def written(self, text: str) -> str:
        """The text in letters that the font has."""
        found = "".join(self.letter(each) for each in unicodedata.normalize("NFC", text))
        return SEVERAL.sub(MISSING, found)

    def letter(self, each: str) -> str:
        if self.has(each):
            return each
        self.replaced = True
        bare = unicodedata.normalize("NFKD", each)[0]
        for one in (each, bare):
            if latin := LATIN.get(one.lower()):
                return latin if each.islower() else latin.capitalize()
        if self.has(bare):
            return bare
        return "" if unicodedata.category(each)[0] in "MC" else MISSING

    def has(self, each: str) -> bool:
        if self.own:
            return ord(each) in self.letters
        return each.isprintable() and each.encode(ENCODING, "ignore") != b""
