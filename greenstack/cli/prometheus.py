"""Prometheus as a local process: the configuration of its container, with the addresses of this machine."""

import shutil
from pathlib import Path

from greenstack.cli import ROOT

HERE = ROOT / "prometheus"
_NGINX = "nginx:9113"  # in the containers' network; prometheus.yml


def command(folder: Path, nginx: str, listen: str, retention: str) -> list[str]:
    """Write the configuration into `folder`, and return the command that runs Prometheus there.

    `nginx` and `listen` are `host:port`: where nginx tells its numbers, and where Prometheus is to answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = (HERE / "prometheus.yml").read_text()
    (folder / "prometheus.yml").write_text(configuration.replace(_NGINX, nginx))
    shutil.copy(HERE / "rules.yml", folder)
    return [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--storage.tsdb.retention.time={retention}",
        f"--web.listen-address={listen}",
        f"--web.console.templates={HERE}/consoles",
        f"--web.console.libraries={HERE}/consoles",
        "--web.cors.origin=none",  # else any page that a browser here shows could read the numbers
        "--log.level=warn",
    ]
