"""Gathers what the runtime image is made of: Python, the libraries it links and the virtual environment.

    python3 docker/rootfs.py DESTINATION VENV SYSTEM-PACKAGES

SYSTEM-PACKAGES is a file with a Debian package a line, all of whose files but the documents come along.

Runs in the build stage, on the official Python image (Python below /usr/local, shared libpython) and on
the Debian stand-in (below /usr) alike, which is why it asks the interpreter and ldd instead of knowing.
No shell, no package manager, no compiler, no pip comes along.
"""

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

# Parts of the standard library that no server needs: tests, desktop, terminal, installers, build files.
UNNEEDED = shutil.ignore_patterns(
    "__pycache__", "test", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "venv", "pydoc_data",
    "config-*", "site-packages", "dist-packages", "EXTERNALLY-MANAGED", "*.a", "_test*.so", "_ctypes_test*.so",
    "xxlimited*.so", "_tkinter*.so", "_curses*.so", "_dbm*.so", "readline*.so",
)  # fmt: skip
ZONES_TWICE = shutil.ignore_patterns("right", "posix", "localtime")
INSTALLERS = shutil.ignore_patterns("__pycache__", "pip", "pip-*")
INSTALLER = re.compile("pip|activate|[Aa]ctivate|python")
DOCUMENTS = re.compile("/usr/share/(doc|man|info|locale|lintian|bug)/")
FILES = ("/etc/os-release", "/etc/ld.so.cache", "/etc/nsswitch.conf", "/etc/ssl/certs/ca-certificates.crt")
USERS = "root:x:0:0:root:/:/none\napp:x:10001:10001:app:/tmp:/none\n"


def copy_packages(names: list[str], root: Path) -> None:
    """Copy the files of Debian packages to the same places below `root`; links stay links."""
    listing = subprocess.run(["dpkg", "--listfiles", *names], capture_output=True, text=True, check=True).stdout
    for path in (Path(line) for line in listing.splitlines() if line.startswith("/") and not DOCUMENTS.match(line)):
        target = root / path.relative_to("/")
        if (path.is_file() or path.is_symlink()) and not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)


def copy(path: Path, root: Path, ignore: Any = None) -> None:
    """Copy a file or a tree to the same place below `root`, links resolved."""
    target = root / path.relative_to("/")
    if path.is_dir():
        shutil.copytree(path, target, ignore=ignore, dirs_exist_ok=True)
    elif path.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def copy_scripts(source: Path, target: Path) -> None:
    """Copy the commands that packages bring along (alembic, celery …): Python starts them, no shell is needed."""
    for file in source.iterdir():
        if file.is_file() and file.read_bytes().startswith(b"#!/") and not INSTALLER.match(file.name):
            shutil.copy2(file, target)


def libraries(root: Path) -> set[Path]:
    """Return the shared libraries that the programs and modules below `root` link, the loader included."""
    listing = subprocess.run(["ldd", *binaries(root)], capture_output=True, text=True, check=False).stdout
    return {Path(name) for name in re.findall(r"(/\S+) \(0x", listing) if not name.startswith(str(root))}


def binaries(root: Path) -> list[Path]:
    """Return the ELF files below `root`."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if path.read_bytes()[:4] == b"\x7fELF"]


def record_packages(names: list[str], files: set[Path], root: Path) -> None:
    """Note the Debian packages `names` and those that `files` are of, where scanners look in images without dpkg."""
    target = root / "var/lib/dpkg/status.d"
    target.mkdir(parents=True)
    owners = set(names)
    for file in files:
        # Packages name some files by their place before the merge of /lib into /usr.
        for name in (str(file.resolve()), str(file.resolve()).removeprefix("/usr")):
            answer = subprocess.run(["dpkg", "-S", name], capture_output=True, text=True, check=False).stdout
            owners.update(answer.partition(": ")[0].split(", ") if answer else ())
    for owner in owners:
        status = subprocess.run(["dpkg", "-s", owner], capture_output=True, text=True, check=True).stdout
        (target / owner.partition(":")[0]).write_text(status)


def main(root: Path, venv: Path, system_packages: Path) -> None:
    """Fill `root`."""
    for folder in ("bin", "lib", "lib64", "sbin"):
        if Path("/", folder).is_symlink():  # one place for each library, by whichever name it is asked for
            (root / "usr" / folder).mkdir(parents=True)
            (root / folder).symlink_to(f"usr/{folder}")
    interpreter = Path(sys.executable).resolve()
    copy(interpreter, root)
    copy(Path(sysconfig.get_path("stdlib")), root, UNNEEDED)
    copy(venv / "lib", root, INSTALLERS)
    copy(venv / "pyvenv.cfg", root)
    bin_folder = root / venv.relative_to("/") / "bin"
    bin_folder.mkdir()
    (bin_folder / "python3").symlink_to(interpreter)
    copy_scripts(venv / "bin", bin_folder)
    packages = system_packages.read_text().split()
    # Before the packages, as tzdata-legacy may be one of them.
    shutil.copytree("/usr/share/zoneinfo", root / "usr/share/zoneinfo", symlinks=True, ignore=ZONES_TWICE)
    if packages:
        copy_packages(packages, root)
    linked = libraries(root)
    for library in linked:
        copy(library, root)
    record_packages(packages, linked | {interpreter}, root)
    subprocess.run(["strip", "--strip-unneeded", *binaries(root)], check=True)
    for file in FILES:
        copy(Path(file), root)
    (root / "etc/passwd").write_text(USERS)
    for folder in ("tmp", "var/tmp", "run/app", "srv", "dev", "proc", "sys"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("tmp", "var/tmp", "run/app"):
        os.chmod(root / folder, 0o1777)  # noqa: S103 - any UID may run the image
    # Unchecked: the files in an image do not change, so nobody needs to compare them with their source.
    compileall.compile_dir(
        root, quiet=1, workers=0, stripdir=str(root), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
