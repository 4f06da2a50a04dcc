import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from loadtest import report
from loadtest.results import Finding
from loadtest.rules import baseline
from tests.unit.loadtest import sample

SECTIONS = ["answer", "throughput", "rates", "percentiles", "resources", "validity", "baseline", "repeat"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here (Debian: apt-get install chromium)")


class Page(HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.charts, self.links, self.ids, self.text, self.open = [], {}, [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "section":
            self.sections.append(attrs["id"])
        if tag == "svg":
            self.charts.setdefault(self.sections[-1], []).append(attrs)
        self.links += [attrs[name] for name in ("href", "src") if name in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.open.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    results = sample.results()
    results.baseline = baseline.against(
        sample.results(seed=3, capacity=lambda n: 3600 * min(n, 2.1) ** 0.95), results, "old"
    )
    folder = tmp_path_factory.mktemp("full")
    paths = report.write(results, folder)
    return folder, Page((folder / "report.html").read_text()), paths


def test_all_files_are_written(full):
    _, _, paths = full
    assert [path.name for path in paths] == ["report.html", "results.json", "recommendation.env", "comment.md"]


def test_sections_are_in_order_with_their_charts(full):
    _, page, _ = full
    assert page.sections == SECTIONS
    drawn = {name: len(charts) for name, charts in page.charts.items()}
    assert drawn == dict.fromkeys(("throughput", "rates", "percentiles"), 1)
    assert all(chart["aria-label"] for charts in page.charts.values() for chart in charts)


def test_it_needs_no_network_and_no_other_file(full):
    folder, page, _ = full
    text = (folder / "report.html").read_text()
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"@import|url\((?!#)|<link|<iframe|fetch\(", text)


def test_ids_are_unique_and_colours_are_variables(full):
    folder, page, _ = full
    assert len(page.ids) == len(set(page.ids))
    text = (folder / "report.html").read_text()
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert "var(--s0)" in drawings
    assert not re.findall(r"#[0-9a-f]{6}\b", drawings)


def test_answer_says_what_to_set(full):
    folder, page, _ = full
    assert "MAX_WORKERS=3" in page.text
    lines = (folder / "recommendation.env").read_text().splitlines()
    # The empty line: what it is appended to may lack its last line end.
    assert [line for line in lines if not line.startswith("#")] == ["", "MAX_WORKERS=3"]
    assert any("make deploy PROFILE=prod" in line for line in lines)
    assert "echo MAX_WORKERS=3 >> env/prod.local.env && make deploy PROFILE=prod" in page.text
    assert "31 µs of CPU a request" in page.text


def test_the_regression_shows(full):
    _, page, _ = full
    assert "regression" in page.text
    assert "worse by more than 5 %" in page.text


@pytest.mark.parametrize(
    "results",
    [
        sample.results(mode="quick", workers=(1, 2, 3)),
        sample.results(mode="quick", workers=(1, 2, 3), invalid=range(9)),
        sample.results(mode="quick", workers=(2,), target="url"),
        sample.results(mode="quick", workers=(0,), target="url", current=0),
    ],
    ids=["quick", "cannot", "url", "url-unknown"],
)
def test_whatever_is_missing_is_said(results, tmp_path):
    paths = report.write(results, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.sections == SECTIONS
    setting = results.verdict.kind in ("recommend", "no_difference")
    assert ("recommendation.env" in [path.name for path in paths]) == setting


def test_an_experiment_interrupted_at_once_has_a_report(tmp_path):
    results = sample.results(mode="quick", workers=(1, 2))
    results.runs, results.state = [], "interrupted"
    results.verdict = None
    report.write(results, tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert page.sections == SECTIONS
    assert "was interrupted" in page.text


def test_what_was_measured_cannot_write_html(tmp_path):
    results = sample.results(mode="quick", workers=(1, 2))
    results.machine.cpu = "<script>alert(1)</script>"
    results.runs[0].findings = [_finding("<img src=x>")]
    report.write(results, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in text
    assert html.escape("<img src=x>") in text


def _finding(reason):
    return Finding("suspect", "host", reason)


def shot(folder, name, width, height, fragment=""):
    file = folder / f"{name}.png"
    subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000",
            f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={file}",
            f"file://{folder}/report.html{fragment}",
        ],
        check=True, capture_output=True, timeout=90,
    )  # fmt: skip
    with Image.open(file) as image:
        return image.convert("RGB")


@needs_browser
def test_a_browser_shows_it_in_light_and_dark(full):
    folder, _, _ = full
    light, dark = (shot(folder, name, 900, 3600, f"#{name}") for name in ("light", "dark"))
    # The page around the cards is the first pixel; the chart's own text must have turned with it.
    assert min(light.getpixel((2, 2))) > 230
    assert max(dark.getpixel((2, 2))) < 40
    for image in (light, dark):
        assert len(image.getcolors(2**24)) > 200  # an empty or broken page has a handful


@needs_browser
def test_a_browser_finds_every_section(full):
    folder, _, _ = full
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
            "--window-size=500,900", "--dump-dom", f"file://{folder}/report.html",
        ],
        check=True, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    page = Page(done.stdout)
    assert page.sections == SECTIONS
    assert "Throughput by workers" in page.text


@needs_browser
def test_a_phone_needs_no_sideways_scrolling(full, tmp_path):
    folder, _, _ = full
    # The page itself says how wide it became; headless Chromium's narrowest window is 500 pixels, so a frame is used.
    probe = tmp_path / "probe.html"
    probe.write_text(
        f"""<iframe id="f" src="file://{folder}/report.html" style="width:360px;height:800px;border:0"></iframe>
        <script>f.onload = () => document.title = [f.contentDocument.documentElement.scrollWidth,
        [...f.contentDocument.querySelectorAll(".chart")].filter(e => e.clientWidth > 250).length].join()</script>"""
    )
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            f"--user-data-dir={folder}/profile", "--virtual-time-budget=3000", "--dump-dom", f"file://{probe}",
        ],
        check=True, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    width, charts = re.search(r"<title>(\d+),(\d+)</title>", done.stdout).groups()
    assert int(width) <= 360
    assert int(charts) == 3


def comment(folder, factor, olds=2, **options):
    def one(factor, seed):
        return sample.results("quick", (1, 2), lambda n: factor * 3000 * min(n, 2), seed, **options)

    results = one(factor, 3)
    comparisons = [baseline.against(one(1.0, seed), results, "old") for seed in range(1, olds + 1)]
    results.baseline = baseline.agreed(comparisons) if olds > 1 else comparisons[0]
    assert report.COMMENT in [path.name for path in report.write(results, folder)]
    return (folder / report.COMMENT).read_text()


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_comment_says_what_was_lost(tmp_path):
    text = comment(tmp_path, 0.8)
    assert text.startswith("<!-- capacity -->\n### Capacity: a regression\n\n| workers |")
    titles, _, first, *_ = cells(text)
    row = dict(zip(titles, first, strict=True))
    assert (row["workers"], row["requests/s"]) == ("1", "at most")
    assert float(row["before"].replace(",", "")) == pytest.approx(3000, rel=0.03)
    assert float(row["after"].replace(",", "")) == pytest.approx(2400, rel=0.03)
    assert re.fullmatch(r"-2\d\.\d %|-1\d\.\d %", row["change"])
    low, high = (float(edge.strip(" %")) for edge in row["95 % interval"].split("…"))
    assert low < -18
    assert high < -5
    assert re.fullmatch(r"[\d.]+ → [\d.]+", row["p99, ms"])
    assert row[""] == "**regression**"
    assert "measured twice" in text


def test_comment_says_that_noise_hides_it(tmp_path):
    text = comment(tmp_path, 1.0, noise=0.1)
    assert "### Capacity: cannot tell" in text
    assert "cannot tell" in [row[-1] for row in cells(text)]
    assert "**regression**" not in text


def test_comment_says_that_nothing_is_lost(tmp_path):
    text = comment(tmp_path, 1.0, olds=1, noise=0.002)
    assert "### Capacity: no regression" in text
    assert "measured once" in text


def test_comment_says_what_cannot_be_compared(tmp_path):
    results = sample.results("quick", (1, 2))
    old = sample.results("quick", (1, 2), seed=2)
    old.scenario = "x"
    results.baseline = baseline.against(old, results, "old")
    report.write(results, tmp_path)
    text = (tmp_path / report.COMMENT).read_text()
    assert "### Capacity: cannot tell\n\n- not comparable: the scenario (loadtest/locustfile.py) has changed\n" in text
    assert not cells(text)
