"""The book: every lesson a page, made of stored outputs alone, without a dead link; looked at in a real browser."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / ".screenshots"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(ROOT / "notebooks" / "book")]
    done = subprocess.run([*command, str(ROOT), str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.to: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.to += [of[key] for key in ("href", "src") if of.get(key)]
        self.names |= {of["id"]} if of.get("id") else set()


def test_every_lesson_is_a_page_and_no_link_is_dead(book: Path) -> None:
    pages = {page: _Links() for page in book.rglob("*.html") if "_static" not in page.parts}
    for page, links in pages.items():
        links.feed(page.read_text(encoding="utf-8"))
    lessons = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
    assert sorted(path.stem for path in (book / "notebooks").glob("0*.html")) == lessons
    followed = 0
    for page, links in pages.items():
        for link in links.to:
            address = urlparse(link)
            if address.scheme or link.startswith(("//", "#")):
                continue
            target = (page.parent / unquote(address.path)).resolve()
            assert target.exists(), (page.name, link)
            if address.fragment and target in pages:
                assert unquote(address.fragment) in pages[target].names, (page.name, link)
            followed += 1
    assert followed > 500


def test_a_page_shows_its_pictures_and_search_finds_words(book: Path, page: Page) -> None:
    page.goto((book / "index.html").as_uri())
    page.get_by_role("link", name="04 · Training", exact=True).first.click()
    expect(page.get_by_role("heading", name="04 · Training").first).to_be_visible()
    pictures = page.locator("article img[src*='_images']")
    assert pictures.count() >= 6
    assert all(pictures.nth(one).evaluate("image => image.naturalWidth") > 300 for one in range(pictures.count()))
    page.screenshot(path=SHOTS / "book_light.png")
    before = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor") != before
    page.screenshot(path=SHOTS / "book_dark.png")
    for word, found in (("overfit", True), ("pseudotime", False)):
        page.goto(f"{(book / 'search.html').as_uri()}?q={word}")
        expect(page.locator("#search-results")).to_contain_text("Search finished" if found else "did not match")
        assert (page.locator("#search-results a", has_text="04 · Training").count() > 0) == found
