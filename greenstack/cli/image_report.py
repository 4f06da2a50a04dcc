"""What the images consist of: size by layer, packages, and a bill of materials (CycloneDX)."""

import gzip
import json
import subprocess
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from greenstack.cli import ROOT, RUN, docker
from greenstack.cli.console import out, say

# Run inside the image, which has Python and nothing else.
_LIST_PACKAGES = """
import importlib.metadata, json, pathlib, platform
python = sorted({(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()})
debian = []
for file in sorted(pathlib.Path("/var/lib/dpkg/status.d").glob("*")):
    fields = dict(line.split(": ", 1) for line in file.read_text().splitlines() if ": " in line and line[0] != " ")
    debian.append((fields["Package"], fields["Version"]))
print(json.dumps({"generic": [("python", platform.python_version())], "pypi": python, "deb/debian": debian}))
"""

_ORIGINS = {"generic": "base image", "pypi": "PyPI", "deb/debian": "Debian"}


@dataclass(frozen=True)
class Component:
    """A package: its type in a package URL (a key of `_ORIGINS`), name and version."""

    kind: str
    name: str
    version: str

    def cyclonedx(self) -> dict[str, str]:
        """Describe it as a component of CycloneDX 1.6."""
        purl = f"pkg:{self.kind}/{self.name.lower()}@{self.version}"
        return {"type": "library", "name": self.name, "version": self.version, "purl": purl, "bom-ref": purl}


def show(image: str) -> None:
    """Print what `image` consists of and write its bill of materials below .run/."""
    found = components(image)
    layers = Table("layer", "size", title=f"{image}: layers, newest first", title_justify="left")
    for line in docker.output("history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", image).splitlines():
        size, command = line.split("\t", 1)
        if size != "0B":
            layers.add_row(command.replace("# buildkit", "").strip()[:90], size)
    packages = Table("package", "version", "from", title="packages", title_justify="left")
    for it in found:
        packages.add_row(it.name, it.version, _ORIGINS[it.kind])
    out.print(layers, packages)
    unpacked = int(docker.output("image", "inspect", "--format", "{{.Size}}", image))
    say(f"{image}: {unpacked / 1e6:.1f} MB unpacked, {compressed_size(image) / 1e6:.1f} MB as a compressed archive")
    file = RUN / f"{image.replace('/', '-').replace(':', '-')}.cdx.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(bill_of_materials(image, found), indent=2) + "\n")
    say(f"bill of materials (CycloneDX): {file.relative_to(ROOT)}")


def components(image: str) -> list[Component]:
    """List the packages in `image`, which must have Python."""
    answer = json.loads(docker.output("run", "--rm", "--network", "none", image, "-c", _LIST_PACKAGES))
    return [Component(kind, name, version) for kind, rows in answer.items() for name, version in rows]


def bill_of_materials(image: str, found: list[Component]) -> dict[str, Any]:
    """Make a CycloneDX 1.6 document."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": image, "bom-ref": image}},
        "components": [it.cyclonedx() for it in found],
    }


def compressed_size(image: str) -> int:
    """Bytes of `docker save | gzip`, close to what a push transfers."""
    size = 0

    class Counter:
        def write(self, data: bytes) -> int:
            nonlocal size
            size += len(data)
            return len(data)

        def flush(self) -> None: ...

    with (
        subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save,
        gzip.GzipFile(fileobj=Counter(), mode="wb") as archive,
    ):
        assert save.stdout  # noqa: S101 - for the type checker
        for block in iter(lambda: save.stdout.read(2**20), b""):  # type: ignore[union-attr]
            archive.write(block)
    return size
