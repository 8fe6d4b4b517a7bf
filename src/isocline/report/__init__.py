"""The report: one self-contained page and the README's figures, built from the pipeline's artefacts."""

from isocline.report.export import export_figures
from isocline.report.page import render_page, write_page
from isocline.report.sources import Sources, read_sources

__all__ = ["Sources", "export_figures", "read_sources", "render_page", "write_page"]
