"""The images by themselves: what is in them, what is not, and what `docker run` makes of them."""

# ruff: noqa: S108 - the paths are inside containers

import contextlib
import gzip
import json
import secrets
import shutil
import ssl
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.compose import ROOT, docker
from tests.support.wait import until

# Names of programs that the runtime image has no use for and an intruder would.
TOOLS = {
    "sh", "bash", "dash", "ash", "zsh", "busybox", "pip", "pip3", "ensurepip", "uv", "apt", "apt-get", "dpkg", "apk",
    "gcc", "cc", "ld", "strip", "curl", "wget", "su", "sudo", "mount", "perl",
}  # fmt: skip


def inspect(image: str) -> dict[str, Any]:
    return dict(json.loads(docker("image", "inspect", image).stdout)[0])


@pytest.fixture(scope="module")
def files(app_image: str) -> list[tarfile.TarInfo]:
    """Every file in the image of the app."""
    container = docker("create", app_image).stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            return list(tarfile.open(fileobj=export.stdout, mode="r|"))
    finally:
        docker("rm", container)


@contextlib.contextmanager
def running(image: str, *options: str) -> Iterator[str]:
    """A container of `image`; gives its id."""
    container = docker("run", "--detach", *options, image).stdout.strip()
    try:
        yield container
    finally:
        docker("rm", "--force", "--volumes", container)


def blobs(saved: Path) -> Iterator[tuple[str, bytes]]:
    """Every layer, and all else that `docker save` gives of an image, by name."""
    with tarfile.open(saved) as archive:
        for member in archive:
            if file := archive.extractfile(member):
                content = file.read()
                yield member.name, gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def state(container: str) -> dict[str, Any]:
    return dict(json.loads(docker("inspect", container).stdout)[0]["State"])


def test_the_app_image_says_how_to_run(app_image: str) -> None:
    config = inspect(app_image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert [*config["Entrypoint"], *config["Cmd"]] == ["python3", "-m", "gunicorn", "-c", "docker/gunicorn_conf.py"]
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config["Healthcheck"]["Test"] == ["CMD", "python3", "-I", "-S", "greenstack/server/healthcheck.py"]
    # Ignored without a start period (moby #49900).
    assert 0 < config["Healthcheck"]["StartInterval"] <= 1e9 < config["Healthcheck"]["StartPeriod"]


def test_the_nginx_image_says_how_to_run(nginx_image: str) -> None:
    config = inspect(nginx_image)["Config"]
    user = config["User"].partition(":")[0]
    assert user.isdigit(), "Kubernetes can tell only from a number that it is not root"
    assert int(user) != 0
    assert config["StopSignal"] == "SIGQUIT", "SIGTERM makes nginx drop its requests"
    assert 0 < config["Healthcheck"]["StartInterval"] <= 1e9 < config["Healthcheck"]["StartPeriod"]


@pytest.mark.parametrize("image", ["app_image", "nginx_image"])
def test_labels(built: dict[str, str], image: str, request: pytest.FixtureRequest) -> None:
    labels = inspect(request.getfixturevalue(image))["Config"]["Labels"]
    told = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert told.keys() >= {"title", "description", "licenses", "version", "revision"}
    assert told["revision"] == built["REVISION"], "the build argument arrives"
    assert image == "nginx_image" or "created" in told
    assert all(told.values())


def test_the_app_image_has_its_packages_commands(app_image: str) -> None:
    told = docker("run", "--rm", "--entrypoint", "gunicorn", app_image, "--version").stdout
    assert told.startswith("gunicorn (version ")


def test_no_tools_in_the_app_image(files: list[tarfile.TarInfo]) -> None:
    names = {Path(file.name).name: file.name for file in files if not file.isdir()}
    assert not names.keys() & TOOLS
    assert "python3" in names, "or this test looks at the wrong thing"
    folders = {Path(file.name).name.partition("-")[0] for file in files if file.isdir()}
    assert not folders & {"pip", "setuptools", "ensurepip"}


def test_nothing_in_the_app_image_gives_rights_away(files: list[tarfile.TarInfo]) -> None:
    assert not [file.name for file in files if file.mode & 0o6000], "setuid or setgid"
    writable = {file.name.rstrip("/") for file in files if not file.issym() and file.mode & 0o002}
    # /dev and its like are the engine's own.
    assert {name for name in writable if not name.startswith(("dev", "proc", "sys"))} == {"tmp", "var/tmp", "run/app"}
    assert {file.mode & 0o7777 for file in files if file.name.rstrip("/") in ("tmp", "var/tmp", "run/app")} == {0o1777}
    assert {file.uid for file in files if file.name.startswith(("srv", "opt", "usr"))} == {0}, "code belongs to root"


def test_app_image_holds_the_code_alone(files: list[tarfile.TarInfo]) -> None:
    inside = {Path(file.name).relative_to("srv").parts[0] for file in files if file.name.startswith("srv/")} - {"."}
    assert inside == {"app", "docker", "greenstack"}, "no tests, no environment files, no secrets"


def compressed_size(image: str) -> int:
    """Return the bytes of `docker save | gzip`, close to what a push transfers."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save:
        return len(subprocess.check_output(["gzip", "--stdout"], stdin=save.stdout))


@pytest.mark.slow
def test_app_image_is_small(app_image: str) -> None:
    assert inspect(app_image)["Size"] <= 75e6
    assert compressed_size(app_image) <= 27e6


def test_all_code_is_compiled(files: list[tarfile.TarInfo]) -> None:
    # The root file system is read-only: what is not compiled here is compiled at every start.
    compiled = {file.name for file in files if file.name.endswith(".pyc")}
    code = [file.name for file in files if file.name.startswith(("srv/", "opt/"))]
    sources = [Path(name) for name in code if name.endswith(".py")]
    assert len(sources) > 100
    missing = [
        source for source in sources
        if not any(name.startswith(f"{source.parent}/__pycache__/{source.stem}.") for name in compiled)
    ]  # fmt: skip
    assert missing == []


@pytest.mark.slow
def test_ca_secret_is_in_no_layer(bases: dict[str, str], app_image: str, tmp_path: Path) -> None:
    marker = f"# marker {secrets.token_hex(16)}\n"
    trusted = ssl.get_default_verify_paths().cafile
    bundle = tmp_path / "ca.pem"
    bundle.write_text((Path(trusted).read_text() if trusted else "") + marker)
    for folder in ("app", "docker", "greenstack"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "requirements").mkdir()
    # No package, so that no index is needed; never seen before, so that the layer is not taken from the cache.
    (tmp_path / "requirements/server.txt").write_text(f"# {secrets.token_hex(16)}\n")
    image = f"ct-secret:{secrets.token_hex(4)}"
    docker(
        "build", "--file", str(tmp_path / "docker/Dockerfile"), "--target", "build", "--tag", image,
        "--build-arg", f"PYTHON_IMAGE={bases['PYTHON_IMAGE']}", "--secret", f"id=ca,src={bundle}", str(tmp_path),
    )  # fmt: skip
    saved = tmp_path / "image.tar"
    docker("image", "save", "--output", str(saved), image)
    docker("image", "rm", "--force", image)
    assert not [blob for blob, content in blobs(saved) if marker.encode() in content]
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", app_image).stdout
    assert "BEGIN CERTIFICATE" not in history


# Loads the added library, and prints what it and the time zones say.
ADDED = """
import ctypes, zoneinfo
zones = map(zoneinfo.ZoneInfo, ("Europe/Berlin", "US/Pacific"))
print(ctypes.CDLL("libmagic.so.1").magic_version() > 500, *zones)
"""


@pytest.mark.slow
def test_system_packages_and_a_checkout_that_others_cannot_read(bases: dict[str, str], tmp_path: Path) -> None:
    for folder in ("app", "docker", "greenstack", "requirements"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in tmp_path.rglob("*"):
        path.chmod(path.stat().st_mode & ~0o027)
    image = f"ct-packages:{secrets.token_hex(4)}"
    ca_bundle = bases.get("CA_BUNDLE", str(ROOT / "docker/no-ca.pem"))
    docker(
        "build", "--file", str(tmp_path / "docker/Dockerfile"), "--target", "runtime", "--tag", image,
        "--build-arg", f"PYTHON_IMAGE={bases['PYTHON_IMAGE']}",
        "--build-arg", "SYSTEM_PACKAGES=libmagic1 tzdata-legacy", "--secret", f"id=ca,src={ca_bundle}", str(tmp_path),
    )  # fmt: skip
    try:
        assert docker("run", "--rm", image, "-c", ADDED).stdout == "True Europe/Berlin US/Pacific\n"
        assert "settings ok" in docker("run", "--rm", image, "-m", "greenstack.server.check").stdout
    finally:
        docker("image", "rm", "--force", image)


def test_bare_image_serves_on_port_8080(app_image: str) -> None:
    # No Compose, no variable: what `docker run` or Kubernetes does with it.
    hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--user", "54321:54321")
    with running(app_image, *hardened) as container:
        until(lambda: state(container)["Health"]["Status"] == "healthy", "the container is healthy")
        answer = docker("exec", container, "python3", "-c", FETCH.format(port=8080)).stdout
        assert json.loads(answer) == {"Hello": "World"}
        began = time.monotonic()
        docker("stop", "--timeout", "60", container)
        assert state(container)["ExitCode"] == 0
        assert time.monotonic() - began < 60


FETCH = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/').read().decode())"


def test_host_and_port(app_image: str) -> None:
    # Compose never passes these on without a BIND, which overrides them: the image alone shows them.
    with running(app_image, "--env", "HOST=127.0.0.1", "--env", "PORT=9321", "--env", "MAX_WORKERS=1") as container:
        until(lambda: state(container)["Health"]["Status"] == "healthy", "the container is healthy")
        assert "127.0.0.1:9321" in docker("logs", container).stderr
        answer = docker("exec", container, "python3", "-c", FETCH.format(port=9321)).stdout
        assert json.loads(answer) == {"Hello": "World"}


REFUSED = {
    "MAX_WORKERS=0": "MAX_WORKERS=0: ",
    "KEEP_ALIVE=often": "KEEP_ALIVE=often: ",
    "BIND=8080": "BIND=8080: ",
    "BIND=192.0.2.1:80": "BIND=192.0.2.1:80: ",
    "APP_MODULE=app.nowhere:app": "APP_MODULE=app.nowhere:app: ",
    "MAX_WORKER=4": "MAX_WORKER=4: ",
    "LOG_LEVEL=info\r": "LOG_LEVEL=info: ",
}


@pytest.mark.parametrize("setting", REFUSED, ids=repr)
def test_bad_setting_ends_with_2_and_one_line(app_image: str, setting: str) -> None:
    done = docker("run", "--rm", "--env", setting, app_image, check=False)
    assert done.returncode == 2, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if REFUSED[setting] in line]
    assert len(lines) == 1
    assert "Traceback" not in done.stderr


def test_nginx_refuses_what_it_cannot_read(nginx_image: str) -> None:
    # The check that runs before it says more. This is the last guard, for an image that somebody runs alone.
    hardened = ("--read-only", "--tmpfs", "/tmp", "--tmpfs", "/var/tmp/nginx:mode=1777", "--cap-drop", "ALL")
    done = docker("run", "--rm", *hardened, "--env", "CLIENT_MAX_BODY_SIZE=lots", nginx_image, check=False)
    assert done.returncode == 2, done.stderr
    assert '"client_max_body_size" directive invalid value' in done.stderr
