"""README and docs: links, commands, settings and figures are right, and the two READMEs say the same."""

import re
from collections import Counter
from pathlib import Path

import pytest

from greenstack.server import check
from tools.pictures.figures import FIGURES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)\"""")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def prose(document: Path) -> str:
    return BLOCK.sub("", document.read_text(encoding="utf-8"))


def code(document: Path) -> list[str]:
    """Return the code of a document: each block, and each piece between backticks."""
    blocks = [block for _language, block in BLOCK.findall(document.read_text(encoding="utf-8"))]
    return blocks + CODE.findall(prose(document))


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = (title for _level, title in HEADING.findall(prose(document)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    links = [first or second for first, second in LINK.findall(prose(document))]
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


@each_document
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for text in code(document) for name in re.findall(r"\bmake ([a-z][a-z0-9-]*)", text)}
    assert named <= targets


NAME = r"[A-Z][A-Z0-9_]+"
# Where other names stand than the server's settings: Compose, the commands' own options, the tutorial.
READERS = ["compose*.yaml", "Makefile", "loadtest/**/*.py", "benchmarks/**/*.py", "tools/*.sh", "tests/apps/**/*.*"]
READERS += ["docker/compat/*.*", "greenstack/server/old_images.py", "greenstack/cli/containers.py"]
READERS += [".github/workflows/*.yaml"]
ELSEWHERE = {
    *("WORKER_ID", "WORKER_SLOT"),  # set by our hooks
    *(
        "COMPOSE_ENV_FILES",
        "COMPOSE_FILE",
        "COMPOSE_PROFILES",
        "PIP_CERT",
        "SSL_CERT_FILE",
        "PYTHON_JIT",
        "SCHED_BATCH",
    ),  # read by others
    *("FASTAPI_OTEL_AUTO_CONFIGURE", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_METRICS_EXPORTER"),  # OpenTelemetry's
    *("OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"),
    *("PROFILE", "REPOSITORY", "COPY", "GET", "APP_MODULE_FILE", "NAME_FILE"),
}


def names(document: Path) -> set[str]:
    """Return the names of variables in a document: `NAME`, `NAME=value`, and NAME=value in a command."""
    alone = [match[1] for text in CODE.findall(prose(document)) if (match := re.match(rf"({NAME})(=|:?$)", text))]
    given = [name for text in code(document) for name in re.findall(rf"(?:^| )({NAME})=", text, re.MULTILINE)]
    return {name for name in alone + given if not re.fullmatch(r"WORKER_\d+", name)}


@each_document
def test_variables_exist(document: Path) -> None:
    readers = [file for pattern in READERS for file in ROOT.glob(pattern) if file.is_file()]
    known = {name for file in readers for name in re.findall(NAME, file.read_text(encoding="utf-8"))}
    assert names(document) <= known | check.NAMES.keys() | ELSEWHERE


def test_pictures_are_used_and_current() -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    for picture in (ROOT / "docs/images").iterdir():
        assert f"images/{picture.name}" in text, f"{picture.name}: no document shows it"
    for name, draw in FIGURES.items():
        assert (ROOT / f"docs/images/{name}.svg").read_text(encoding="utf-8") == draw().svg(), "run `make pictures`"


def test_tutorial_shows_its_application() -> None:
    tutorial = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    blocks = [block for language, block in BLOCK.findall(tutorial) if language == "python"]
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "tests/apps/notes/app").glob("*.py")]
    assert blocks
    for block in blocks:
        assert any(block.strip() in source for source in sources)


def commands(document: Path) -> list[str]:
    """Return a document's code line by line, without what may be translated: comments, remarks in a second column."""
    lines = [line for _, block in BLOCK.findall(document.read_text(encoding="utf-8")) for line in block.splitlines()]
    return [re.sub(r"  +.*", "", line.strip()) for line in lines]


def test_readmes_have_the_same_headings() -> None:
    levels = [[level for level, _title in HEADING.findall(prose(document))] for document in (README, CHINESE)]
    assert levels[0] == levels[1]


def test_readmes_have_the_same_commands() -> None:
    assert commands(README) == commands(CHINESE)


def test_readmes_have_the_same_figures() -> None:
    figures = [Counter(re.findall(r"\d+(?:[.,]\d+)*", prose(document))) for document in (README, CHINESE)]
    assert figures[0] == figures[1]


def test_readmes_have_the_same_links() -> None:
    links = [[a or b for a, b in LINK.findall(prose(document))] for document in (README, CHINESE)]
    others = [[link for link in part if not link.startswith("README")] for part in links]
    assert others[0] == others[1]
