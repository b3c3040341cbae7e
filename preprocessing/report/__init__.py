"""report.json and report.html: what a person should know of a data set before training on it."""

from preprocessing.report.build import REPORT_VERSION, TopValues, build_report
from preprocessing.report.page import render

__all__ = ["REPORT_VERSION", "TopValues", "build_report", "render"]
