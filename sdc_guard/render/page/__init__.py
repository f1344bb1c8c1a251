"""The report as one HTML page that opens from disk.  See :func:`report_page`."""

from sdc_guard.render.page.build import MIN_BYTES, report_page

__all__ = ["MIN_BYTES", "report_page"]
