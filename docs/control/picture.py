"""README's picture: where two methods differ most, from the first screen of a report.

Run `python docs/control/picture.py results/report/index.html docs/control/picture.png`.
"""

from __future__ import annotations

import base64
import html
import io
import re
import sys
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

QUARTET = re.compile(r'<div class="quartet">(.*?)</div>', re.DOTALL)
FIGURE = re.compile(r'src="data:image/\w+;base64,([^"]+)".*?<figcaption>(.*?)</figcaption>', re.DOTALL)
SIDE, GAP, LINE = 144, 6, 22  # of a picture, between pictures, of a line of text, in pixels


def rows(page: str) -> list[list[tuple[Image.Image, str]]]:
    """(picture, caption) of each row of the report's comparison."""
    return [
        [
            (Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), html.unescape(text))
            for data, text in FIGURE.findall(quartet)
        ]
        for quartet in QUARTET.findall(page)
    ]


def drawn(table: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    """All rows below one another, each picture above its caption, on white."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 11)
    width, height = len(table[0]) * (SIDE + GAP) - GAP, len(table) * (SIDE + LINE)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    for y, row in enumerate(table):
        for x, (picture, text) in enumerate(row):
            place = x * (SIDE + GAP), y * (SIDE + LINE)
            canvas.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), place)
            draw.text((place[0] + SIDE // 2, place[1] + SIDE + LINE // 2), text, "#333", font, anchor="mm")
    return canvas


if __name__ == "__main__":
    drawn(rows(Path(sys.argv[1]).read_text(encoding="utf-8"))).quantize(255).save(sys.argv[2], optimize=True)
