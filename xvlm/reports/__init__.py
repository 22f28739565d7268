"""Reports: one self-contained HTML page with metrics, examples and training curves; charts as SVG files."""

from xvlm.reports.bars import Bars, bars_svg
from xvlm.reports.curves import Curve, curves_from_log, read_log
from xvlm.reports.draw import BoxAnnotation, draw_boxes
from xvlm.reports.items import (
    AnswerExample,
    DetectionExample,
    GroundingExample,
    ImageRanking,
    Item,
    Metric,
    Section,
    Table,
    TextRanking,
)
from xvlm.reports.page import write_report, write_svg
from xvlm.reports.reliability import ReliabilityDiagram

__all__ = [
    "AnswerExample",
    "Bars",
    "BoxAnnotation",
    "Curve",
    "DetectionExample",
    "GroundingExample",
    "ImageRanking",
    "Item",
    "Metric",
    "ReliabilityDiagram",
    "Section",
    "Table",
    "TextRanking",
    "bars_svg",
    "curves_from_log",
    "draw_boxes",
    "read_log",
    "write_report",
    "write_svg",
]
