"""The report document: complete in itself, and nothing that is put in can act in it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from microsnoop.core.errors import InputError
from microsnoop_apps.profiling.html import Document

HOSTILE = '<script>alert("1")</script>|a\n\n# b\'" & <img src=http://x.y/z onerror=e> ![p](http://x.y) `c` $m$ *d* \\'
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, text, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open[-1:]):
            self.text.setdefault(tag, []).append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def all_text(self) -> str:
        return "\n".join(piece for tag, pieces in self.text.items() if tag != "style" for piece in pieces)


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "a picture (1).png"
    path.parent.mkdir()
    Image.new("RGB", (300, 150), (200, 30, 30)).save(path)
    return path


def everything(text: str, picture: Path) -> Document:
    page = Document(text)
    page.heading(text, 2)
    page.paragraph(text)
    page.findings([(text, text, True), (text, text, False)])
    page.table((text, text), [[text, text], ["b", text]], bold=0, best=[(1, 1)])
    page.picture(picture, text)
    page.details(text, [text, text])
    page.details(text, ((text, "n"), [[text, "1"]]))
    page.provenance({text: text, "nested": {text: [text, 1]}})
    return page


def test_hostile_text_is_shown_and_never_obeyed(png: Path) -> None:
    folder = png.parent
    assert everything(HOSTILE, png).write(folder) == folder / "report.html"
    page = Page(folder / "report.html")
    assert not {"script", "iframe", "link", "object", "base", "form"} & {name for name, _ in page.elements}
    assert len(page.of("img")) == 1  # the one picture
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    one_line = " ".join(HOSTILE.split())
    for tag in ("title", "h1", "h2", "p", "b", "td", "th", "figcaption", "summary", "li", "a"):
        assert one_line in page.text[tag], tag
    assert page.of("img")[0]["alt"] == one_line
    # nothing is loaded from anywhere
    for name, attributes in page.elements:
        for key in ("src", "href"):
            value = attributes.get(key) or ""
            assert not value or value.startswith(("data:image/png;base64,", "#")), (name, value)
    (style,) = page.text["style"]
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_text_in_markdown(png: Path) -> None:
    everything(HOSTILE, png).write(png.parent)
    text = (png.parent / "report.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert set(re.findall(r"<(/?\w*)", text)) == {"details", "summary", "/summary", "/details"}
    assert len(re.findall(r"^#", text, re.MULTILINE)) == 2  # the title and the one that was asked for
    bare = re.sub(r"\\.", "", text)  # what a backslash takes the meaning from
    assert re.findall(r"\]\(([^)]*)\)", bare) == ["a%20picture%20%281%29.png"]
    assert not re.search(r"[`$~]|(?<!\*)\*(?!\*)", bare)
    for line in (line for line in bare.splitlines() if line.startswith("|")):
        assert line.count("|") == 3, line  # two columns, whatever the cells hold


def test_text_that_a_file_cannot_hold(png: Path) -> None:
    odd = "a\x00b\x1b[31mc\ud800d\u202ee\u2028f"
    everything(odd, png).write(png.parent)
    for name in ("report.html", "report.md"):
        text = (png.parent / name).read_bytes().decode("utf-8")
        assert not re.search("[\x00\x1b\u202e\u2028]", text)
        assert text.count("a\ufffdb\ufffd") > 5


def test_the_page_declares_itself_and_forbids_loading(png: Path) -> None:
    page = Page(Document("Tïtle").write(png.parent))
    assert (png.parent / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    metas = page.of("meta")
    assert metas[0] == {"charset": "utf-8"}
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    style = page.text["style"][0]
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert style.count("{") == style.count("}")
    assert page.text["title"] == page.text["h1"] == ["Tïtle"]
    assert not page.of("nav")  # no heading, no contents
    assert page.of("html") == [{"lang": "en"}]


def test_pictures_are_inside_the_page_and_beside_the_markdown(png: Path, tmp_path: Path) -> None:
    page = Document("t")
    page.picture(png, "one", alt="other")
    page.picture(png, "two")
    found = Page(page.write(tmp_path / "report" / "here"))
    for image, alt in zip(found.of("img"), ("other", "two"), strict=True):
        source = image["src"] or ""
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == png.read_bytes()
        assert (image["alt"], image["width"], image["height"]) == (alt, "192", "96")
    assert found.text["figcaption"] == ["one", "two"]
    text = (tmp_path / "report" / "here" / "report.md").read_text()
    assert "![other](../../out/a%20picture%20%281%29.png)\n\none\n" in text


def test_a_picture_that_is_not_there_stops_the_report_before_it_is_written(tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.png", tmp_path / "no.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    for path, message in ((bad, "not a PNG"), (missing, "cannot be read")):
        page = Document("t")
        page.picture(path, "c")
        with pytest.raises(InputError, match=message):
            page.write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_contents_link_to_every_heading(png: Path) -> None:
    page = Document("t")
    for text, level in (
        ("Scores", 2),
        ("Scores", 3),
        ("scores 2", 2),
        ("Scores!", 4),
        ("???", 2),
        ("Größe µm", 2),
    ):
        page.heading(text, level)
    found = Page(page.write(png.parent))
    targets = [(tag, a["id"]) for tag, a in found.elements if tag in ("h2", "h3", "h4")]
    assert targets == [
        ("h2", "scores"), ("h3", "scores-2"), ("h2", "scores-2-2"), ("h4", "scores-3"), ("h2", "section"),
        ("h2", "größe-µm"),
    ]  # fmt: skip
    assert [a["href"] for a in found.of("a")] == [f"#{anchor}" for _, anchor in targets]
    assert [a.get("class") for a in found.of("li")] == ["l2", "l3", "l2", "l4", "l2", "l2"]
    assert "### Scores\n\n## scores 2\n\n#### Scores!" in (png.parent / "report.md").read_text()
    for level in (1, 5):
        with pytest.raises(ValueError, match="level 2 to 4"):
            page.heading("x", level)


def test_findings_name_the_strong_ones_first_and_not_by_colour_alone(png: Path) -> None:
    page = Document("t")
    page.findings([("weak", "m1", False), ("bad", "m2", True), ("also_weak", "m3", False)])
    page.findings([])
    found = Page(page.write(png.parent))
    boxes = [a for a in found.of("div") if (a.get("class") or "").startswith("finding")]
    assert [a["class"] for a in boxes] == ["finding strong", "finding", "finding"]
    assert found.text["b"] == ["strong: bad", "weak", "also_weak"]
    assert found.text["p"] == ["Nothing was found."]
    text = (png.parent / "report.md").read_text()
    assert "> **strong: bad** m2\n\n> **weak** m1\n\n> **also_weak** m3\n\nNothing was found.\n" in text


def rows_of(found: Page) -> list[list[str | None]]:
    kinds: list[list[str | None]] = []
    for tag, attributes in found.elements:
        if tag == "tr":
            kinds.append([])
        elif tag in ("td", "th"):
            kinds[-1].append(attributes.get("class"))
    return kinds


def test_tables_put_numbers_to_the_right_and_the_best_in_bold(png: Path) -> None:
    page = Document("t")
    rows = [
        ["10", "97.1", "-", "x", ""],
        ["20", "−3", "<0.001", "1", "-"],
        ["30", "100/103", "~5 %", "", "nan"],
    ]
    page.table(("a", "b", "c", "d", "e"), rows, best=[(2, 1), (0, 4)])
    found = Page(page.write(png.parent))
    assert rows_of(found) == [[None, "n", "n", None, None]] * 4
    assert found.text["b"] == ["100/103"]  # nothing to embolden in an empty cell
    lines = (png.parent / "report.md").read_text().splitlines()
    assert lines[2:] == [
        "| a | b | c | d | e |", "|---|---:|---:|---|---|", "| 10 | 97.1 | - | x |  |",
        "| 20 | −3 | &lt;0.001 | 1 | - |", "| 30 | **100/103** | \\~5 % |  | nan |",
    ]  # fmt: skip


def test_tables_with_a_chosen_row_and_stated_columns(png: Path) -> None:
    page = Document("t")
    page.table(("a", "b"), [[1, 2.5], ["x", None]], numeric=[0], bold=1)
    found = Page(page.write(png.parent))
    assert rows_of(found) == [["n", None]] * 3
    assert [a.get("class") for a in found.of("tr")] == [None, None, "chosen"]
    assert found.text["b"] == ["x", "None"]
    page = Document("t")
    page.table(("a", "b"), [])
    assert len(Page(page.write(png.parent)).of("tr")) == 1
    with pytest.raises(ValueError, match="a row of 3 cells in a table of 2 columns"):
        page.table(("a", "b"), [["1", "2"], ["1", "2", "3"]])


def test_details_fold_lines_or_a_table(png: Path) -> None:
    page = Document("t")
    page.details("two", ("- first", "1. second"))
    page.details("one table", (("a", "b"), [["x", "7"]]))
    page.details("a table of nothing", (("a", "b"), []))
    found = Page(page.write(png.parent))
    assert len(found.of("details")) == len(found.of("summary")) == 3
    assert found.text["li"] == ["- first", "1. second"]
    assert len(found.of("table")) == 2
    text = (png.parent / "report.md").read_text()
    assert "<details><summary>two</summary>\n\n- \\- first\n- 1\\. second\n\n</details>" in text
    assert "<details><summary>one table</summary>\n\n| a | b |\n|---|---:|\n| x | 7 |\n\n</details>" in text


def test_provenance_keeps_lines_and_nesting(png: Path) -> None:
    page = Document("t")
    page.provenance(
        {"config": {"b": 1, "a": [Path("x/y"), "µ"]}, "note": "one\n\ttwo", "seed": 0, "none": None}
    )
    found = Page(page.write(png.parent))
    assert found.text["th"] == ["config", "note", "seed", "none"]
    assert found.text["pre"][1:] == ["one\n\ttwo", "0", "null"]
    assert found.text["pre"][0].split() == ["{", '"b":', "1,", '"a":', "[", '"x/y",', '"µ"', "]", "}"]
    assert '| config | { "b": 1, "a": \\[ "x/y", "µ" \\] } |' in (png.parent / "report.md").read_text()


def test_markdown_paragraphs_do_not_become_lists_or_headings(png: Path) -> None:
    page = Document("t")
    for text in ("- a", "1. b", "# c", "+5 %", "1.5 µm", "2) d", "=== e", "image_mean _f_ g_", "> h"):
        page.paragraph(text)
    page.write(png.parent)
    lines = (png.parent / "report.md").read_text().split("\n\n")
    assert [line.strip() for line in lines[1:]] == [
        "\\- a", "1\\. b", "\\# c", "\\+5 %", "1.5 µm", "2\\) d", "\\=== e", "image_mean \\_f\\_ g\\_", "&gt; h",
    ]  # fmt: skip


def test_a_report_is_written_over_an_older_one_and_twice_the_same(png: Path) -> None:
    page = everything("plain", png)
    first = page.write(png.parent).read_bytes()
    assert page.write(png.parent).read_bytes() == first
    everything("other", png).write(png.parent)
    assert (png.parent / "report.html").read_bytes() != first
    assert sorted(p.name for p in png.parent.iterdir()) == [png.name, "report.html", "report.md"]
