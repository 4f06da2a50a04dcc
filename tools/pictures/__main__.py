"""Write docs/images: figures and terminal output as SVG; as PNG the newest load test's report and the metrics page.

The page is that of the stack that runs now.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

from greenstack.cli import environment
from tools.pictures.figures import FIGURES

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs/images"
COLUMNS = 64  # characters of a terminal's line; more would be too small on a phone
PAGE_WIDTH, PAGE_HEIGHT = 1000, 760  # CSS pixels of the page of METRICS=on
REPORT_WIDTH, REPORT_HEIGHT = 620, 900  # CSS pixels of the report's beginning: the answer and the first chart

# Instead of Rich's own frame, which loads a font from the network. Each piece of text has its length, so any font fits.
TERMINAL = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">
<style>text {{ font: {char_height}px ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre; }} {styles}</style>
<rect width="100%" height="100%" rx="12" fill="#292929"/>
<defs>{lines}</defs>
<g transform="translate(12, 30)">{backgrounds}{matrix}</g>
</svg>
"""


def main() -> None:
    """Write all pictures."""
    IMAGES.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (IMAGES / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
    write_terminal("refused", "make up PROFILE=prod MAX_WORKERS=two RATE_LIMT=5")
    write_page(environment.resolve(environment.current("")).metrics_url)
    results = sorted((ROOT / "loadtest/results").glob("*/report.html"))
    if not results:
        sys.exit("no report in loadtest/results, so its pictures stay as they are; make one: make loadtest")
    for theme in ("light", "dark"):
        write_report(results[-1], theme)
    print(f"docs/images is new; the report is that of {results[-1].relative_to(ROOT)}")


def write_terminal(name: str, command: str) -> None:
    """Write what a terminal shows of a command and its output, errors included."""
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # of the make that runs this
    done = subprocess.run(
        command.split(),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in outer},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text(f"$ {command}", style="bold"))
        console.print(Text.from_ansi(done.stdout.rstrip()))
    svg = console.export_svg(title="", code_format=TERMINAL, unique_id=name)
    (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")


def write_page(url: str) -> None:
    """Write what the page of a stack with METRICS=on shows of its last five minutes."""
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - ours, http
    except OSError:
        print("no stack runs with METRICS=on, so the picture of its page stays as it is")
        return
    photograph(f"{url}?span=300", IMAGES / "metrics.png", PAGE_WIDTH, PAGE_HEIGHT, "--virtual-time-budget=5000")


def write_report(report: Path, theme: str) -> None:
    """Write the beginning of a load test's report as Chromium shows it, in the `light` or the `dark` theme."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        html = report.read_text(encoding="utf-8")
        page.write_text(html.replace("<html", f'<html data-theme="{theme}"', 1), encoding="utf-8")
        photograph(page.as_uri(), IMAGES / f"report-{theme}.png", REPORT_WIDTH, REPORT_HEIGHT)


def photograph(url: str, target: Path, width: int, height: int, *options: str) -> None:
    """Write what Chromium shows at `url` in a window of that many CSS pixels."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no Chromium, so the report's pictures stay as they are; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--force-device-scale-factor=2", f"--user-data-dir={folder}", f"--window-size={width},{height}"),
            f"--screenshot={target}",
        ]
        subprocess.run([*command, *options, url], check=True, capture_output=True)
    Image.open(target).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(target, optimize=True)


if __name__ == "__main__":
    main()
