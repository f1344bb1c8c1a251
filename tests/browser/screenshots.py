"""Screenshots of report pages, in light and dark: a run in which something was found, a clean one.

``python -m tests.browser.screenshots --run runs/demo --out reports/report``; ``runs/demo`` is what
``sdc-guard demo --quick --out runs/demo`` wrote.  Without ``--clean`` a clean run is made first.
"""

from __future__ import annotations

import argparse
import base64
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

import sdc_guard
from sdc_guard.demo.training import build_step
from sdc_guard.document.reading import read_document, write_document
from sdc_guard.document.schema import Report
from sdc_guard.render.page import report_page
from sdc_guard.report.gather import gather
from sdc_guard.report.judging import judge
from tests.browser.chromium import find_chromium, launch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTH, HEIGHT = 1280, 900
QUALITY = 72
WHOLE_QUALITY = 55
NUM_STEPS = 260


def clean_run(folder: Path) -> None:
    """The demo's small model, trained under a guard of the default budget, without a fault."""
    training = build_step("quick", seed=0, fused=True, num_steps=NUM_STEPS)
    model = sdc_guard.wrap(training.model, optimizer=training.optimizer, out=folder)
    for _ in range(NUM_STEPS):
        training.step()
    sdc_guard.unwrap(model)


def without_this_machine(report: Report) -> Report:
    """The report with this folder and this host's name left out of every text."""
    text = write_document(report).decode("utf-8")
    text = text.replace(f"{Path.cwd()}/", "").replace(f'"{Path.cwd()}"', '"."')
    host = socket.gethostname()
    for before, after in ((f'"{host}"', '"node"'), (f'"{host}/', '"node/'), (f'"{host},', '"node,'),
                          (f"{tempfile.gettempdir()}/", "")):
        text = text.replace(before, after)
    return read_document(text)


def capture(page: Page, path: Path, clip: dict[str, float] | None = None) -> None:
    """What is in view, or the part of the whole page that ``clip`` names, as WebP."""
    # Right after loading there may be no frame yet to take.
    page.bring_to_front()
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    session = page.context.new_cdp_session(page)
    options = {"clip": clip, "captureBeyondViewport": True} if clip else {}
    quality = WHOLE_QUALITY if clip else QUALITY
    answer = session.send("Page.captureScreenshot",
                          {"format": "webp", "quality": quality, **options})
    path.write_bytes(base64.b64decode(answer["data"]))
    session.detach()
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def shoot(browser: Browser, name: str, report: Report, out: Path, *, is_long: bool,
          is_whole: bool = True, section: str = "") -> None:
    """The first screen in both schemes, and that of ``section``; of a long page the other views,
    and all of it at half size."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.html"
        text = report_page(report)
        file.write_bytes(text.encode())
        print(f"{name}: page of {len(text.encode()) / 1000:.0f} kB")
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT},
                                          color_scheme=scheme, reduced_motion="reduce")
            page = context.new_page()
            page.goto(file.as_uri())
            capture(page, out / f"{name}-{scheme}.webp")
            if section:
                page.locator(f"#{section}").evaluate("section => section.scrollIntoView()")
                capture(page, out / f"{name}-units-{scheme}.webp")
            if is_long:
                page.locator("#patterns").evaluate("section => section.scrollIntoView()")
                capture(page, out / f"{name}-bits-{scheme}.webp")
            if scheme == "light" and is_whole:
                height = page.evaluate("document.documentElement.scrollHeight")
                page.evaluate("scrollTo(0, 0)")
                capture(page, out / f"{name}-whole-{scheme}.webp",
                        {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 0.5})
            context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a run with findings")
    parser.add_argument("--hunt", type=Path, help="what a hunt wrote, hunt.json: alone, or too")
    parser.add_argument("--sweep", type=Path, help="what a sweep wrote, sweep.json: alone, or too")
    parser.add_argument("--title", default="a sweep", help="of the sweep's page")
    parser.add_argument("--clean", type=Path, help="a run without; made where it is not given")
    parser.add_argument("--out", type=Path, default=Path("reports/report"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        clean = options.clean
        if clean is None and options.run is not None:
            clean = Path(folder) / "clean"
            clean_run(clean)
        browser = launch(playwright, find_chromium())
        if options.hunt is not None:
            report = gather([options.hunt], title="sdc_guard: a hunt")
            shoot(browser, "hunt", without_this_machine(report), options.out, is_long=False,
                  is_whole=False)
        if options.sweep is not None:
            report = judge(gather([options.sweep], title=f"sdc_guard: {options.title}"))
            shoot(browser, "sweep", without_this_machine(report), options.out, is_long=False,
                  is_whole=False, section="sweep")
        for name, run in (("demo", options.run), ("clean", clean)):
            if run is None:
                continue
            report = gather([run], title=f"sdc_guard: {name} run")
            shoot(browser, name, without_this_machine(report), options.out, is_long=name == "demo")
        browser.close()


if __name__ == "__main__":
    main()
