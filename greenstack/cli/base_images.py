"""Finds base images and a CA bundle for the builds, whatever this machine reaches."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greenstack.cli import ROOT, check_env, docker
from greenstack.cli.console import REFUSED, CommandError, say
from greenstack.cli.environment import Environment

CA_LIMIT = 500 * 1024  # bytes; BuildKit takes no larger secret


@dataclass(frozen=True)
class Base:
    """A base image by the variable that chooses it, and what replaces it where no registry is reached.

    It is not needed where the variable `unless` names an image that was built elsewhere.
    """

    variable: str
    stand_in: str
    built_by: str
    unless: str = ""


BASES = (
    Base("PYTHON_IMAGE", "greenstack/python:3.14-debian", "python", "IMAGE"),
    Base("NGINX_BASE_IMAGE", "greenstack/nginx:1.30-debian", "nginx", "EDGE_IMAGE"),
)
PROMETHEUS = Base("PROMETHEUS_IMAGE", "greenstack/prometheus:3.5-debian", "prometheus")


def choices(environment: Environment) -> dict[str, str]:
    """Return the variables that make the builds work here. Base images are pulled or built if need be."""
    variables = _ca_bundle(environment)
    bases = (*BASES, PROMETHEUS) if environment.metrics else BASES
    for base in (base for base in bases if _needs(environment.values, base)):
        chosen = environment.values.get(base.variable)
        image = chosen or _base_image(base)
        if image == base.stand_in and not docker.has_image(image) and not docker.send(image):
            _build(base)
        if not chosen:
            variables[base.variable] = image
    return variables


def _needs(values: Mapping[str, str], base: Base) -> bool:
    # certbot's image is made of the application's base, too.
    return not values.get(base.unless) or (base.built_by == "python" and values.get("TLS") == "acme")


def _base_image(base: Base) -> str:
    official = check_env.compose_knobs()[base.variable]
    if docker.has_image(official):
        return official
    if docker.has_image(base.stand_in):
        say(f"{official} is not here: building on {base.stand_in}, made of Debian packages")
        return base.stand_in
    if _pull(official):
        return official
    say(f"{official} cannot be had from a registry: building {base.stand_in} from Debian packages instead")
    return base.stand_in


def _pull(image: str) -> bool:
    """Pull `image`; return False if the registry does not begin to answer in time or has no such image."""
    say(f"pulling {image}")
    return docker.pull(image) is None


def _build(base: Base) -> None:
    if subprocess.run([ROOT / "tools/debian-images.sh", base.built_by], check=False).returncode:
        raise CommandError(
            f"{base.variable}: no base image: neither a registry nor Debian packages could give one (see above); "
            f"name an image that you have: make up {base.variable}=…"
        )


def _ca_bundle(environment: Environment) -> dict[str, str]:
    """Return `CA_BUNDLE`, for networks that inspect TLS: as set, else what this machine's own tools use."""
    chosen = environment.values.get("CA_BUNDLE")
    if chosen:
        if not (ROOT / chosen).is_file() and chosen != os.devnull:
            raise CommandError(f"CA_BUNDLE={chosen}: no such file; allowed: a file of CA certificates", status=REFUSED)
        return {}
    for name in ("SSL_CERT_FILE", "PIP_CERT"):
        file = Path(os.environ.get(name) or os.devnull)
        if file.is_file() and file.stat().st_size <= CA_LIMIT:
            return {"CA_BUNDLE": str(file.resolve())}
    return {}
