"""The versions of the application: the last images that were in service, each kept under a name of its own.

The name is in the repository of the service's image, and its tag is the time at which it became the newest (UTC)
and the revision: `greenstack-app:20261126-085812-5ed2904c9f3b`.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from greenstack.cli import docker
from greenstack.cli.console import REFUSED, CommandError, say
from greenstack.cli.docker import Compose

KEPT = 5  # versions
REVISION = "org.opencontainers.image.revision"  # OCI image specification, annotations
_TAG = re.compile(r"(\d{8}-\d{6})(-.+)?")
_COMMIT = re.compile(r"([0-9a-f]{12})[0-9a-f]{28}(-dirty)?")


@dataclass(frozen=True)
class Version:
    """An image that was in service: its tag, the image's id, and the revision that its label tells."""

    tag: str
    image: str
    revision: str

    @property
    def since(self) -> str:
        """When it became the newest version, UTC."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.strptime(self.tag[:15], "%Y%m%d-%H%M%S"))


def image_name(compose: Compose) -> str:
    """Return the name of the application's image, as Compose looks for it."""
    return str(compose.services()["app"]["image"])


def in_service(compose: Compose) -> str | None:
    """Return the id of the image that serves, the newest where two do; None where nothing runs."""
    # Where the old ones' end was interrupted, two serve; and who goes back may have one that crashes.
    found = [(each.well, docker.inspect(each.id)) for each in compose.containers("app") if each.runs]
    return str(max(found, key=lambda each: (each[0], each[1]["Created"]))[1]["Image"]) if found else None


def kept(compose: Compose) -> list[Version]:
    """Return the versions that are here, oldest first."""
    return _kept(docker.repository(image_name(compose)))


def _kept(repository: str) -> list[Version]:
    lines = docker.output("image", "ls", "--filter", f"reference={repository}", "--format", "{{.Tag}}").split()
    tags = sorted(tag for tag in lines if _TAG.fullmatch(tag))
    images = [docker.image(f"{repository}:{tag}") for tag in tags]
    return [
        Version(tag, image["Id"], (image["Config"].get("Labels") or {}).get(REVISION, "unknown"))
        for tag, image in zip(tags, images, strict=True)
        if image
    ]


@contextlib.contextmanager
def or_back(compose: Compose) -> Iterator[None]:
    """Where what happens meanwhile fails, give the image that serves its name back: who scales then gets that one."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(CommandError):
            give_back(compose)
        raise


def give_back(compose: Compose) -> None:
    """Give the image that serves its name back, which a build may have taken from it; nobody needs that one then."""
    if serving := in_service(compose):
        other = docker.image(image_name(compose))
        docker.output("tag", serving, image_name(compose))
        if other and not (docker.image(other["Id"]) or {}).get("RepoTags"):
            docker.remove_images([other["Id"]])


def keep(compose: Compose) -> None:
    """Name the image in service as the newest version, and remove the oldest above `KEPT`."""
    service, image = compose.services()["app"], in_service(compose)
    if image is None or service.get("build", {}).get("target") == "dev":  # the code is not in that one
        return
    repository = docker.repository(service["image"])
    _name(repository, image)
    elsewhere = compose.environment.values.get("IMAGE") or repository
    for version in _kept(repository)[:-KEPT]:
        _remove(version, {repository, docker.repository(elsewhere)})


def renew(compose: Compose) -> None:
    """Make the version in service the newest, if a rollback went to it: it is the one before that which comes now."""
    repository, image = docker.repository(image_name(compose)), in_service(compose)
    if image and image in [version.image for version in _kept(repository)]:
        _name(repository, image)


def _name(repository: str, image: str) -> None:
    versions = _kept(repository)
    if not versions or versions[-1].image != image:
        docker.output("tag", image, f"{repository}:{_new_tag(image)}")
        docker.remove_images([f"{repository}:{version.tag}" for version in versions if version.image == image])


def _new_tag(image: str) -> str:
    found = docker.image(image)
    revision = ((found["Config"].get("Labels") or {}) if found else {}).get(REVISION, "unknown")
    if match := _COMMIT.fullmatch(revision):
        revision = match[1] + (match[2] or "")
    revision = re.sub("[^A-Za-z0-9_.-]", "-", revision)[:40]
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + ("" if revision == "unknown" else f"-{revision}")


def _remove(version: Version, repositories: set[str]) -> None:
    """Remove the image of a version, if nothing but `repositories` has a name for it, and no container has it."""
    found = docker.image(version.image) or {}
    names = [*(found.get("RepoTags") or ()), *(found.get("RepoDigests") or ())]
    docker.remove_images([name for name in names if docker.repository(name) in repositories])


def wanted(compose: Compose, to: str) -> Version:
    """Return the version that `to` names by its tag or revision; without it the one before that in service."""
    versions, serving = kept(compose), in_service(compose)
    if serving is None:
        raise CommandError("nothing runs: make up")
    if to:
        found = [each for each in versions if each.tag == to] or [
            each for each in versions if each.revision.startswith(to)
        ]
        if not found:
            names = ", ".join(each.tag for each in versions) or "there is none yet"
            raise CommandError(f"TO={to}: no such version; allowed: {names}", status=REFUSED)
        return found[-1]
    here = next((index for index, each in enumerate(versions) if each.image == serving), len(versions))
    if here == 0:
        raise CommandError("there is no version before the one in service: make versions lists them", status=REFUSED)
    return versions[here - 1]


def take(compose: Compose, service: str, variable: str) -> bool:
    """Make the image that `variable` names the one of `service`; return False where it names none.

    From its registry; where that has it not, the one that is here, which another machine's engine is given.
    CommandError where there is none.
    """
    image = compose.environment.values.get(variable)
    if not image:
        return False
    say(f"pulling {image}")
    if reason := docker.pull(image):
        if not docker.send(image) and not docker.has_image(image):
            raise CommandError(f"{variable}={image}: cannot be pulled: {reason}; allowed: an image", status=REFUSED)
        say(f"it cannot be pulled ({reason}): taking the one that is here")
    docker.output("tag", image, str(compose.services()[service]["image"]))
    return True
