"""Reports: one self-contained HTML page with metrics, pictures and curves; boxes drawn on pictures."""

from xvlm.report.bars import Bars, bars_svg
from xvlm.report.cards import table
from xvlm.report.curves import Curve, curve_svg, curves_from_log, read_log
from xvlm.report.draw import DrawnBox, draw_box
from xvlm.report.items import (
    AnswerExample,
    GroundingExample,
    ImageRanking,
    Metric,
    Picture,
    Section,
    Table,
    TextRanking,
)
from xvlm.report.page import write_report, write_svg

__all__ = [
    "AnswerExample",
    "Bars",
    "Curve",
    "DrawnBox",
    "GroundingExample",
    "ImageRanking",
    "Metric",
    "Picture",
    "Section",
    "Table",
    "TextRanking",
    "bars_svg",
    "curve_svg",
    "curves_from_log",
    "draw_box",
    "read_log",
    "table",
    "write_report",
    "write_svg",
]
