"""The page in a real browser, as a reader uses it: by keyboard, in the dark, on a phone, on paper."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find  # type: ignore[import-not-found]
from PIL import Image

PROGRAM = find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here (on Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    started = Browser(PROGRAM, tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


@pytest.fixture
def page(browser: Browser, made: Path) -> Browser:
    """The report of 3 methods and 2 seeds, freshly opened in a window of 1200 × 900, in light colours."""
    browser.size(1200)
    browser.media(prefers_color_scheme="light")
    browser.open(made / "results/report/index.html")
    browser.run("try { localStorage.clear() } catch {}")
    browser.open(made / "results/report/index.html")
    browser.run("document.querySelectorAll('details.fold').forEach(fold => { fold.open = true })")
    return browser


def test_the_first_screen_is_the_finding_and_three_pictures_and_a_link_opens_its_section(
    page: Browser, made: Path
) -> None:
    page.open(made / "results/report/index.html")  # as it opens for a reader
    quartets = "[...document.querySelectorAll('#results .quartet')]"
    assert page.run(f"{quartets}.map(row => row.querySelectorAll('img').length)") == [4, 4, 4]
    heights = page.run("[...document.querySelectorAll('.quartet img')].map(img => img.getBoundingClientRect().height)")
    assert min(heights) > 40
    captions = page.run(f"[...{quartets}[0].querySelectorAll('figcaption')].map(text => text.textContent)")
    assert captions[1] == "ground truth" and captions[2].startswith("Supervised: ")
    assert captions[3].startswith("Dual Teacher: ")
    visible = "document.querySelector('#curves figure').checkVisibility({contentVisibilityAuto: true})"
    assert page.run("document.querySelectorAll('details.fold[open]').length") == 0
    page.run("document.querySelector(\"nav a[href='#curves']\").click()")
    assert page.run(visible) and page.run("document.querySelectorAll('details.fold[open]').length") == 1


@pytest.fixture(autouse=True)
def silent_and_alone(browser: Browser) -> Iterator[None]:
    """Whatever a test does: no error on the console, and nothing asked for but the page itself."""
    yield
    assert browser.errors == []
    outside = [url for url in browser.requests if not url.startswith("data:")]
    assert len(outside) == 1 and outside[0].endswith("index.html")


FIRST_TABLE = "document.querySelector('#results table.sortable')"
METHODS = f"[...{FIRST_TABLE}.tBodies[0].rows].map(row => row.querySelector('th').textContent.trim())"


def focus(page: Browser, selector: str) -> None:
    page.run(f"document.querySelector({selector!r}).focus()")


def test_tables_are_sorted_by_keyboard_and_say_so(page: Browser) -> None:
    before = page.run(METHODS)
    assert before == ["Supervised", "Mean Teacher", "Dual Teacher"]
    column = page.run(f"[...{FIRST_TABLE}.tHead.rows[0].cells].findIndex(cell => cell.textContent.trim() == 'mIoU')")
    head = f"#results table.sortable thead th:nth-child({column + 1})"
    focus(page, f"{head} button")
    page.press("Enter")
    assert page.run(METHODS) == ["Dual Teacher", "Supervised", "Mean Teacher"]  # numbers: the largest first
    assert page.run(f"document.querySelector('{head}').getAttribute('aria-sort')") == "descending"
    assert page.run("document.getElementById('said').textContent") == "Sorted by mIoU, descending"
    page.press(" ")
    assert page.run(METHODS) == ["Mean Teacher", "Supervised", "Dual Teacher"]
    assert page.run(f"document.querySelector('{head}').getAttribute('aria-sort')") == "ascending"
    assert page.run(f"{FIRST_TABLE}.querySelectorAll('[aria-sort]').length") == 1


def test_every_cell_of_the_grid_leads_to_its_run_and_back(page: Browser) -> None:
    links = page.run("[...document.querySelectorAll('#results td a.run')].map(link => link.hash)")
    assert len(links) == len(set(links)) == 6
    assert page.run(f"{links}.every(hash => document.querySelector(hash)?.localName === 'dialog')")
    focus(page, f"#results td a[href='{links[0]}']")
    page.press("Enter")
    shown = page.run("document.querySelector('dialog[open]').innerText")
    for words in ("Supervised, seed 0", "Hashes", "Parameters", "python -m dualteacher train", "logs/train/bluemarble"):
        assert words in shown
    assert page.run("document.querySelector('dialog[open]').contains(document.activeElement)")
    page.press("ArrowRight")
    assert page.run("document.querySelector('dialog[open] h3').textContent") == "Supervised, seed 1"
    assert page.run("document.querySelectorAll('dialog[open]').length") == 1
    page.press("Escape")
    page.until("!document.querySelector('dialog[open]')")
    assert page.run("document.activeElement.hash") == links[0]  # where the reader was
    page.press("Enter")
    focus(page, "dialog[open] .close")
    page.press("Enter")
    assert page.run("document.querySelector('dialog[open]') === null && location.hash === ''")


def test_an_address_with_a_run_opens_it(page: Browser, made: Path) -> None:
    page.open(made / "results/report/index.html", "#run-bluemarble-eighth-dual_teacher-1")
    assert page.run("document.querySelector('dialog[open] h3').textContent") == "Dual Teacher, seed 1"


SECOND = ".compare:nth-child(2)"  # picture of the gallery, in which the runs err on both halves


def box(page: Browser) -> list[float]:
    """Left, top, right, bottom of the second comparison in the window, once it has been scrolled there."""
    page.run(f"document.querySelector('{SECOND} .stage').scrollIntoView({{block: 'center'}})")
    sides = (
        f"(b => [b.left, b.top, b.right, b.bottom])(document.querySelector('{SECOND} .stage').getBoundingClientRect())"
    )
    return page.run(sides)


def stage(page: Browser) -> np.ndarray:
    """The second comparison as it is seen, (H, W, 3)."""
    left, top, right, bottom = map(round, box(page))
    with Image.open(io.BytesIO(page.picture())) as picture:
        return np.asarray(picture.convert("RGB").crop((left, top, right, bottom))).astype(int)


def test_the_slider_moves_by_keyboard_and_by_hand(page: Browser) -> None:
    slider = f"document.querySelector('{SECOND} .slider')"
    focus(page, f"{SECOND} .slider")
    page.press("Home")
    assert page.run(f"document.querySelector('{SECOND} .stage').style.getPropertyValue('--cut')") == "0%"
    prediction = stage(page)
    page.press("End")
    truth = stage(page)
    right = "document.querySelector('[name=right]')"
    choose = f"{right}.value = '%s'; {right}.dispatchEvent(new Event('input', {{bubbles: true}}))"
    page.run(choose % "image")
    assert np.abs(stage(page) - truth).max() <= 3  # nothing of the right side was there
    page.run(choose % "dual_teacher-0")
    half = truth.shape[1] // 2
    assert all(np.abs(side).max() > 50 for side in np.split(truth - prediction, [half], axis=1))
    page.run(f"{slider}.value = 50")
    page.press("ArrowRight")
    assert page.run(f"{slider}.getAttribute('aria-valuetext')").startswith(
        "left 51 %: ground truth, right: Dual Teacher"
    )
    both = stage(page)
    assert np.abs(both - truth)[:, : half - 6].max() <= 3 and np.abs(both - prediction)[:, half + 12 :].max() <= 3
    left, top, right, _ = box(page)
    at = {"x": left + (right - left) / 4, "y": top + 20, "button": "left", "clickCount": 1}
    for kind, buttons in (("mousePressed", 1), ("mouseReleased", 0)):
        page("Input.dispatchMouseEvent", type=kind, buttons=buttons, **at)
    assert page.run(f"{slider}.value") == "25"


def test_the_gallery_shows_any_run_on_either_side_and_only_its_errors(page: Browser) -> None:
    focus(page, ".gallery select[name=left]")
    assert page.run("document.querySelector('.scores').textContent").startswith("ground truth")
    page.press("s")  # as in any list: the first choice of that letter
    assert page.run("document.querySelector('.scores span').textContent").startswith("Supervised, seed 0: ")
    shown = page.run("[...document.querySelectorAll('.mask.left, .mask.right')].map(layer => layer.dataset.key)")
    assert set(shown) == {"supervised-0", "dual_teacher-0"}
    whole = stage(page)
    focus(page, ".gallery input[name=errors]")
    page.press(" ")
    assert page.run("getComputedStyle(document.querySelector('.mask.left .errors')).display") == "block"
    errors = stage(page)
    assert np.abs(whole - errors).mean() > 3
    alts = page.run("[...document.images].map(image => image.alt)")
    assert (
        all(alts) and any("% correct" in alt for alt in alts) and any("Ground truth of tile 0: " in alt for alt in alts)
    )


def test_a_method_is_picked_out(page: Browser) -> None:
    focus(page, "#curves .legend button[data-pick=dual_teacher]")
    page.press("Enter")
    marks = "[...document.querySelectorAll('#curves [data-method]')]"
    faint = f"{marks}.filter(mark => mark.style.opacity).map(mark => mark.dataset.method)"
    assert set(page.run(faint)) == {"supervised", "mean_teacher"}
    page.press("Enter")
    assert page.run(faint) == []


CONTRASTS = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c[3] === 255) return c; } return rgb(getComputedStyle(document.body).backgroundColor); };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (seen.has(e) || !walk.currentNode.textContent.trim()) continue;
    if (e.closest('svg, script, style, option, .layer')) continue;
    seen.add(e);
    const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${e.localName}.${e.className} ${ratio.toFixed(2)} ${e.textContent.slice(0, 30)}`);
  }
  return [seen.size, found];
})()
"""


def lightness(page: Browser) -> float:
    with Image.open(io.BytesIO(page.picture())) as picture:
        return float(np.asarray(picture.convert("L")).mean())


def test_light_and_dark_follow_the_system_until_the_switch_is_used(page: Browser, made: Path) -> None:
    assert lightness(page) > 200
    looked_at, weak = page.run(CONTRASTS)
    assert looked_at > 200 and weak == []
    page.media(prefers_color_scheme="dark")
    assert lightness(page) < 60
    assert page.run(CONTRASTS)[1] == []
    focus(page, "#theme")
    page.press("Enter")
    assert lightness(page) > 200  # light by choice, on a dark system
    page.open(made / "results/report/index.html")
    assert lightness(page) > 200  # and it is remembered


@pytest.mark.parametrize("width", [380, 768, 1200])
def test_nothing_is_wider_than_the_window(page: Browser, width: int) -> None:
    page.size(width)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('#results td a.run').click()")
    assert page.run("document.querySelector('dialog[open]').scrollWidth") <= width


def test_headings_are_nested_and_everything_interactive_has_a_name(page: Browser) -> None:
    levels = page.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(heading => Number(heading.localName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    nameless = page.run(
        "[...document.querySelectorAll('a, button, input, select, [role=img], [role=region], section, nav, form')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length || "
        "e.textContent.trim())).map(e => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []


def test_paper_has_every_section_with_everything_open_and_no_controls(page: Browser) -> None:
    page.run("document.querySelectorAll('details').forEach(details => { details.open = false })")
    titles = page.run("[...document.querySelectorAll('h2, dialog h3')].map(heading => heading.textContent)")
    outline = [title.decode("ascii", "replace") for title in re.findall(rb"/Title \((.*?)\)\n", page.pdf())]
    assert len(titles) > 15 and [title for title in titles if title not in outline] == []
    page.media("print")
    controls = page.run(
        "[...document.querySelectorAll('nav, select, input, .sides, .bar')].filter(e => e.checkVisibility())"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert controls == []
    closed = page.run(
        "[...document.querySelectorAll('main pre, main dd, main td, main figure, .layer > :first-child')].filter("
        "e => e.textContent && !e.getBoundingClientRect().height).map(e => e.outerHTML.slice(0, 80))"
    )
    assert closed == []
    page.media("")
    assert page.run("document.querySelectorAll('dialog[open], details[open]').length") == 0  # as it was before
