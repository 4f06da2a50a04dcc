"""The figures: a request's way, a setting's way, a deploy, the timers."""

from typing import NamedTuple

from greenstack.server.settings import Settings, parse_duration
from tools.pictures.drawing import LINE, MARGIN, WIDTH, Drawing

INNER = WIDTH - 2 * MARGIN
MIDDLE = WIDTH / 2
GAP = 12


class Bar(NamedTuple):
    """A bar of a time line, between two shares of the width."""

    start: float
    end: float
    label: str
    style: str


def request() -> Drawing:
    """Return the way of a request: client, nginx, socket, Gunicorn, worker, application."""
    drawing = Drawing("A request goes from the client through nginx and a unix socket to a worker of a replica", 474)
    drawing.note(MIDDLE - 80, 16, 160, ["client"])
    drawing.arrow(MIDDLE, 50, 88)
    drawing.text(MIDDLE + GAP, 74, "127.0.0.1:8080", "muted")
    tasks = ["reads slow clients to the end, limits them,", "gives a request id, writes one JSON log line"]
    drawing.note(MARGIN, 88, INNER, ["nginx", *tasks])
    _replica(drawing, MARGIN, "replica 1: a container", "box")
    _replica(drawing, MIDDLE + GAP / 2, "replica 2: make scale N=2", "box dashed")
    return drawing


def _replica(drawing: Drawing, left: float, name: str, style: str) -> None:
    width = (INNER - GAP) / 2
    centre = left + width / 2
    drawing.arrow(MIDDLE, 162, 222, to=centre)
    drawing.text(centre, 182, f"{name.partition(':')[0].replace(' ', '-')}.sock", "middle muted")
    drawing.box(left, 222, width, 236, style)
    drawing.text(centre, 246, name, "middle strong")
    drawing.note(left + GAP, 260, width - 2 * GAP, ["Gunicorn", "watches its workers"], "plain")
    half = (width - 3 * GAP) / 2
    for number in (0, 1):
        worker = left + GAP + number * (half + GAP)
        drawing.arrow(centre, 314, 346, to=worker + half / 2)
        drawing.note(worker, 346, half, [f"worker {number + 1}", "Uvicorn", "your app"], "good")
    drawing.text(centre, 444, "… up to MAX_WORKERS", "middle muted")


def setting() -> Drawing:
    """Return the way of a setting: where it may stand, who checks it, who reads it."""
    drawing = Drawing("A setting comes from the shell or a file, is checked, and reaches the application or nginx", 500)
    sources = {
        "the shell": "wins over all",
        "env/prod.local.env": "yours, not in the repository",
        "env/prod.env": "what production changes",
        "the default": "declared in settings.py",
    }
    for number, (source, remark) in enumerate(sources.items()):
        drawing.note(MARGIN, 16 + 44 * number, 230, [source])
        drawing.text(MIDDLE, 38 + 44 * number, remark, "muted")
    drawing.arrow(131, 182, 214)
    drawing.note(MARGIN, 214, INNER, ["compose.yaml", "hands each setting to those that read it"], "plain")
    drawing.arrow(MIDDLE, 268, 300)
    drawing.note(MARGIN, 300, INNER, ["check", "one bad value: one line, exit status 2, nothing starts"], "wait")
    width = (INNER - GAP) / 2
    readers = [
        (MARGIN, ["app", "gunicorn_conf.py", "Gunicorn, workers"]),
        (MIDDLE + GAP / 2, ["nginx", "entrypoint: derive, render", "nginx.conf"]),
    ]
    for left, lines in readers:
        drawing.arrow(MIDDLE, 354, 392, to=left + width / 2)
        drawing.note(left, 392, width, lines, "good")
    drawing.text(MIDDLE, 488, "nginx derives its timers, so nobody sets them twice", "middle muted")
    return drawing


def deploy() -> Drawing:
    """Return what runs when during `make deploy`."""
    drawing = Drawing("During a deploy the new container is ready before the old one stops", 352)
    built, ready, told, gone = 0.3, 0.52, 0.6, 0.86  # shares of the width: nothing is to scale
    for number, share in enumerate((built, ready, told), 1):
        x = MARGIN + INNER * share
        drawing.rule(x, 38, 238)
        drawing.text(x, 256, str(number), "middle strong")
    rows = {
        "nginx": [Bar(0, 1, "takes every request", "plain")],
        "old container": [Bar(0, told, "serves", "good"), Bar(told, gone, "finishes", "wait")],
        "new container": [Bar(built, ready, "starts", "wait"), Bar(ready, 1, "serves", "good")],
    }
    for number, (name, bars) in enumerate(rows.items()):
        drawing.text(MARGIN, 30 + 74 * number, name, "strong")
        for bar in bars:
            _draw(drawing, 38 + 74 * number, bar)
    events = [
        "1  make deploy has built the image",
        "2  the new container is ready, nginx uses its socket",
        "3  the old one takes no new request, finishes, ends",
    ]
    for number, event in enumerate(events):
        drawing.text(MARGIN, 288 + 22 * number, event, "muted")
    return drawing


def timers() -> Drawing:
    """Return the timers on two time lines, with the default settings."""
    settings = Settings()
    drawing = Drawing("Timers of an idle connection, and of a stop", 610)
    drawing.text(MARGIN, 34, "An idle connection between nginx and a worker", "strong")
    nginx, drain, keep_alive = settings.upstream_keep_alive, settings.drain, settings.keep_alive
    idle = [
        Bar(0, nginx / keep_alive, f"nginx closes it: {nginx:g} s", "plain"),
        Bar(0, drain / keep_alive, f"a stopping worker waits for that: {drain:g} s", "wait"),
        Bar(0, 1, f"a worker closes it: KEEP_ALIVE, {keep_alive} s", "good"),
    ]
    _time_line(drawing, 50, idle)
    drawing.text(MARGIN, 238, "nginx always closes first, so no POST meets a closed one.", "muted")
    drawing.text(MARGIN, 290, "A stop: seconds after the signal", "strong")
    grace, docker = settings.graceful_timeout, parse_duration(settings.stop_grace_period)
    answer = settings.request_timeout
    finish = settings.time_to_finish
    stop = [
        Bar(0, drain / docker, f"idle connections stay open: {drain:g} s", "wait"),
        Bar(0, answer / docker, f"nginx waits for an answer: REQUEST_TIMEOUT, {answer} s", "plain"),
        Bar(0, finish / docker, f"running requests may end: {finish} s", "good"),
        Bar(0, grace / docker, f"Gunicorn ends the worker: GRACEFUL_TIMEOUT, {grace} s", "wait"),
        Bar(0, 1, f"Docker ends all: STOP_GRACE_PERIOD, {docker} s", "plain"),
    ]
    _time_line(drawing, 306, stop)
    return drawing


def _time_line(drawing: Drawing, top: float, bars: list[Bar]) -> None:
    """Draw bars below each other, the label of each above it."""
    for number, bar in enumerate(bars):
        y = top + 58 * number
        drawing.text(MARGIN, y + 16, bar.label)
        _draw(drawing, y + 22, bar._replace(label=""))


def _draw(drawing: Drawing, top: float, bar: Bar) -> None:
    x, width = MARGIN + INNER * bar.start, INNER * (bar.end - bar.start)
    drawing.box(x, top, width, LINE + 8, bar.style)
    drawing.text(x + width / 2, top + 19, bar.label, "middle")


FIGURES = {"request": request, "setting": setting, "deploy": deploy, "timers": timers}
