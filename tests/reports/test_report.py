"""The report shows its items, and no text from outside becomes markup."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import stat
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xvlm import reports as report
from xvlm.reports.cards import table
from xvlm.reports.curves import curve_svg, smooth
from xvlm.reports.svg import format_column, format_number, tick_labels, ticks

GREY = Image.new("RGB", (200, 100), (120, 120, 120))
VOID = {"meta", "img", "line", "rect", "path", "circle"}


class Checker(HTMLParser):
    """Records tags and text, and checks that every tag is closed by its own end tag."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def example(**changes: object) -> report.GroundingExample:
    fields = {
        "image": GREY, "phrase": "a dog", "true_xyxy": (10, 10, 90, 60), "predicted_xyxy": (20, 15, 95, 66),
        "score": 0.914, "iou": 0.62,
    }  # fmt: skip
    return report.GroundingExample(**{**fields, **changes})  # type: ignore[arg-type]


def full_report(path: Path, words: str = "a dog") -> Checker:
    report.write_report(
        path,
        title=words,
        lead=words,
        summary=[report.Metric("accuracy", 0.8123), report.Metric(words, words, words, True)],
        sections=[
            report.Section(
                words,
                words,
                [
                    report.Curve(words, [0, 10, 20], [3.0, 2.0, 1.0]),
                    *(example(phrase=words), example(iou=0.2), example(true_xyxy=None, iou=None)),
                    report.TextRanking(GREY, [("second", 0.2, False), (words, 0.9, True)]),
                    report.ImageRanking(words, [(GREY, 0.2, False), (GREY, 0.9, True)]),
                    report.AnswerExample(
                        [GREY, GREY], words, [(words, 0.7, True)], [(words, words)], None, words
                    ),
                    report.Table([words, "n"], [[words, 1.5]]),
                    words,
                ],
            ),
            report.Section("An empty section", words, []),
        ],
    )
    return checked(path.read_text(encoding="utf-8"))


# the page ---------------------------------------------------------------------------------------------


def test_page_is_one_file_that_fits_a_phone(tmp_path: Path) -> None:
    page = full_report(tmp_path / "made" / "report.html")
    assert ("content", "width=device-width, initial-scale=1") in page.attributes
    assert "script" not in page.tags and "link" not in page.tags
    sources = [value or "" for name, value in page.attributes if name in ("src", "href")]
    assert sources and all(source.startswith("data:image/jpeg;base64,") for source in sources)
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).load()


def test_page_shows_its_items(tmp_path: Path) -> None:
    words = full_report(tmp_path / "report.html").words
    for shown in (
        "0.812",
        "accuracy",
        "✓ right",
        "IoU 0.62",
        "✗ wrong",
        "IoU 0.20",
        "“a dog”",
        "target a dog",
    ):
        assert shown in words, shown
    assert words.count("✓ right") == words.count("✗ wrong") == 1, "without a true box there is no verdict"
    assert "An empty section" not in words
    assert words.index("✓ a dog") < words.index("second"), "texts are ordered by score"


@pytest.mark.parametrize("words", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a & b < c '"])
def test_outside_text_never_becomes_markup(tmp_path: Path, words: str) -> None:
    plain = full_report(tmp_path / "plain.html")
    hostile = full_report(tmp_path / "hostile.html", words)
    assert hostile.tags == plain.tags
    assert {name for name, _ in hostile.attributes} == {name for name, _ in plain.attributes}
    assert hostile.words.count(words) >= 14


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    report.write_report(tmp_path / "report.html", "Empty")
    assert "section" not in checked((tmp_path / "report.html").read_text()).tags


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    report.write_report(path, "First")
    before = path.read_text()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_report(path, "Second")
    assert path.read_text() == before
    assert os.listdir(tmp_path) == ["report.html"], "no partial file is left"


def test_the_page_can_be_read_by_others(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "report.html", "Shared")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_box_is_correct_from_iou_one_half() -> None:
    assert [example(iou=iou).correct for iou in (0.49, 0.5, 0.9, None)] == [False, True, True, None]


def test_table_rows_must_fit_the_header() -> None:
    html = table([["a", 1.0], ["b<", 22.5]], ["name", "value"])
    assert "<td>b&lt;</td><td class=n>22.5</td>" in html and "<td class=n>1.0</td>" in html
    with pytest.raises(ValueError, match="row 1 has 1 cells for 2 columns"):
        table([["a", 1.0], ["b"]], ["name", "value"])


# curves -----------------------------------------------------------------------------------------------


def test_a_null_in_the_log_is_a_gap() -> None:
    rows = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": None}, {"step": 2, "loss": 1.0}]
    (curve,) = report.curves_from_log(rows, {"loss": "loss"})
    assert list(curve.steps) == [0, 1, 2] and curve.values[0] == 2.0 and curve.values[1] != curve.values[1]


def test_log_is_read_and_curves_have_titles(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"step": step, "box": 2.0 - step, "lr": 0.1, "note": "x"} for step in (0, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n" + '{"step": 2, "los')
    read = report.read_log(path)
    assert read == rows, "the last line is unfinished"
    titles = {"lr": "learning rate", "unknown": "absent from the log", "box": "box loss"}
    assert report.curves_from_log(read, titles) == [
        report.Curve("learning rate", [0, 1], [0.1, 0.1]),
        report.Curve("box loss", [0, 1], [2.0, 1.0]),
    ]


@pytest.mark.parametrize(("line", "reason"), [("{bad", "not JSON"), ("[1]", "found list")])
def test_a_damaged_log_names_the_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0}\n' + line + "\n")
    with pytest.raises(ValueError, match=f"line 2: .*{reason}"):
        report.read_log(path)


def test_the_later_rows_of_a_resumed_run_count() -> None:
    rows = [{"step": 0, "loss": 3}, {"step": 5, "loss": 9}, {"step": 5, "loss": 2}, {"loss": 7}]
    assert report.curves_from_log(rows, {"loss": "loss"}) == [report.Curve("loss", [0, 5], [3.0, 2.0])]


def test_an_evaluation_is_not_part_of_the_training_curve() -> None:
    rows = [{"step": 5, "loss": 2.0}, {"step": 5, "event": "eval", "loss": 1.0}]
    assert report.curves_from_log(rows, {"loss": "loss"}) == [report.Curve("loss", [5], [2.0])]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=200))
def test_smoothing_stays_within_the_values(values: list[float]) -> None:
    smoothed = smooth(np.array(values))
    assert smoothed.shape == (len(values),)
    assert min(values) - 1e-9 <= smoothed.min() and smoothed.max() <= max(values) + 1e-9


def test_smoothing_keeps_gaps_and_does_not_lag() -> None:
    ramp = np.arange(100.0)
    assert np.allclose(smooth(ramp)[10:-10], ramp[10:-10])
    ramp[50] = np.nan
    assert np.flatnonzero(np.isnan(smooth(ramp))).tolist() == [50]


def line_points(svg: str, css_class: str) -> list[list[tuple[float, float]]]:
    """Return the points of each piece of the line of a class."""
    path = re.search(rf'<path class="{css_class}[^"]*" d="([^"]*)"', svg)
    assert path
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", piece)]
        for piece in path[1].split("M")[1:]
    ]


def test_a_curve_passes_through_its_values() -> None:
    svg = curve_svg(report.Curve("loss", [0, 50, 100], [4.0, 2.0, 0.0]))
    ElementTree.fromstring(svg)
    [(first, middle, last)] = line_points(svg, "v-line")
    assert first[0] < middle[0] < last[0] and first[1] < middle[1] < last[1], "y grows downwards"
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.1)
    assert ">loss<" in svg and ">step 0<" in svg and ">100<" in svg


def test_a_gap_breaks_the_line() -> None:
    values = [3.0, 2.0, math.nan, 1.0, math.inf, 0.5]
    svg = curve_svg(report.Curve("loss", list(range(6)), values))
    assert [len(piece) for piece in line_points(svg, "v-line")] == [2, 1, 1]
    assert "nan" not in svg and "inf" not in svg


@pytest.mark.parametrize("values", [[math.nan], [2.0], [2.0, 2.0], [0.0, 0.0]])
def test_flat_single_and_empty_curves_are_drawn(values: list[float]) -> None:
    svg = curve_svg(report.Curve("a < b", list(range(len(values))), values))
    ElementTree.fromstring(svg)
    assert "nan" not in svg


def test_a_long_curve_stays_small_and_keeps_its_spike() -> None:
    values = np.ones(20_000)
    values[12_345] = 50.0
    svg = curve_svg(report.Curve("loss", list(range(20_000)), values.tolist()))
    assert len(svg) < 20_000
    heights = [y for piece in line_points(svg, "v-raw") for _, y in piece]
    assert min(heights) < max(heights) - 100


def test_curve_and_bars_check_their_lengths() -> None:
    with pytest.raises(ValueError, match="2 steps but 1 values"):
        report.Curve("loss", [0, 1], [1.0])
    with pytest.raises(ValueError, match="1 values for 2 groups"):
        report.Bars("t", ["a", "b"], {"x": [1.0]})
    with pytest.raises(ValueError, match="start at 0"):
        report.Bars("t", ["a"], {"x": [-1.0]})
    with pytest.raises(ValueError, match="2 deviations for 1 groups"):
        report.Bars("t", ["a"], {"x": [1.0]}, deviations={"x": [0.1, 0.2]})


def test_bars_are_in_proportion_and_have_their_own_style(tmp_path: Path) -> None:
    bars = report.Bars("Which <grain>", ["R@1"], {"coarse": [20.0], "both": [80.0], "none": [math.nan]})
    path = report.write_svg(tmp_path / "bars.svg", report.bars_svg(bars))
    root = ElementTree.parse(path).getroot()
    widths = [float(node.attrib["width"]) for node in root.iter() if "v-f" in node.attrib.get("class", "")]
    assert widths[1] == pytest.approx(4 * widths[0], rel=0.02) and widths[2] == 0
    assert any("prefers-color-scheme" in (node.text or "") for node in root.iter())
    assert "Which <grain>" in [node.text for node in root.iter()]


def test_bars_with_deviations_have_whiskers_of_their_length() -> None:
    bars = report.Bars(
        "t", ["R@1"], {"a": [40.0], "b": [80.0], "c": [8.0]}, deviations={"a": [5.0], "b": [20.0]}
    )
    root = ElementTree.fromstring(report.bars_svg(bars))
    whiskers = [node.attrib["d"] for node in root.iter() if node.attrib.get("class") == "v-whisker"]
    widths = [float(node.attrib["width"]) for node in root.iter() if "v-f" in node.attrib.get("class", "")]
    spans = [[float(x) for x in re.findall(r"[MH]([\d.]+)", path)[:2]] for path in whiskers]
    assert len(spans) == 2
    for (low, high), deviation in zip(spans, (5.0, 20.0), strict=True):
        assert high - low == pytest.approx(2 * widths[1] * deviation / 80, abs=0.2)
    right = max(float(node.attrib["x"]) for node in root.iter() if node.tag.endswith("text"))
    assert right < 340


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_cover_the_range_in_even_round_steps(low: float, width: float) -> None:
    values = ticks(low, low + width)
    step = values[1] - values[0]
    assert 2 <= len(values) <= 12
    assert values[0] <= low + step * 1e-6 and values[-1] >= low + width - step * 1e-6
    assert np.allclose(np.diff(values), step, rtol=1e-3)
    assert len(set(tick_labels(values))) == len(values) or width < 1e-6 * abs(low), "labels differ"


def test_tick_labels_show_differences() -> None:
    assert tick_labels([2.301, 2.302, 2.303]) == ["2.301", "2.302", "2.303"]
    assert tick_labels([0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert tick_labels([0, 2500, 5000]) == ["0", "2,500", "5,000"]
    assert tick_labels([0, 1e-9, 2e-9]) == ["0.00e+00", "1.00e-09", "2.00e-09"]


def test_number_formats() -> None:
    assert [format_number(value) for value in (0, 3, 0.8123, 142.7, 12345.6, 4e-5, math.nan)] == [
        "0", "3", "0.812", "143", "12,346", "4.0e-05", "–",
    ]  # fmt: skip
    assert format_column([41, 68.8, math.nan]) == ["41.0", "68.8", "–"] and format_column([1, 20]) == [
        "1",
        "20",
    ]
