"""Base images and the CA bundle: what is taken where, and what is tried."""

from pathlib import Path

import pytest

from greenstack.cli import ROOT, base_images, check_env, docker
from greenstack.cli.console import CommandError
from greenstack.cli.environment import Environment

OFFICIAL = {base.variable: check_env.compose_knobs()[base.variable] for base in base_images.BASES}
STAND_INS = {base.variable: base.stand_in for base in base_images.BASES}


class Machine:
    """A machine that has some images and reaches some registry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: set[str] = set()
        self.registry: set[str] = set()
        self.built: list[str] = []
        monkeypatch.setattr(docker, "has_image", lambda name: name in self.images)
        monkeypatch.setattr(base_images, "_pull", lambda name: name in self.registry)
        monkeypatch.setattr(base_images, "_build", lambda base: self.built.append(base.built_by))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name in ("SSL_CERT_FILE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    return Machine(monkeypatch)


def choices(**values: str) -> dict[str, str]:
    return base_images.choices(Environment("", (), values, {}, {}, []))


def test_official_images_that_are_there_are_used(machine: Machine) -> None:
    machine.images = {*OFFICIAL.values(), *STAND_INS.values()}
    assert choices() == OFFICIAL


def test_else_present_stand_ins_are_used_and_named(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.images = set(STAND_INS.values())
    machine.registry = set(OFFICIAL.values())
    assert choices() == STAND_INS
    assert "greenstack/python:3.14-debian" in capsys.readouterr().out


def test_else_a_registry_is_asked(machine: Machine) -> None:
    machine.registry = set(OFFICIAL.values())
    assert choices() == OFFICIAL
    assert not machine.built


def test_else_stand_ins_are_built_and_named(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert choices() == STAND_INS
    assert machine.built == ["python", "nginx"]
    assert "cannot be had from a registry" in capsys.readouterr().out


def test_what_the_user_chose_stands(machine: Machine) -> None:
    assert choices(PYTHON_IMAGE="mine:1", NGINX_BASE_IMAGE="mine:2") == {}
    assert not machine.built


def test_a_chosen_stand_in_is_built_if_missing(machine: Machine) -> None:
    assert choices(**STAND_INS) == {}
    assert machine.built == ["python", "nginx"]


def test_prometheus_is_wanted_where_it_is_switched_on(machine: Machine) -> None:
    machine.images = {*OFFICIAL.values(), *STAND_INS.values(), base_images.PROMETHEUS.stand_in}
    assert "PROMETHEUS_IMAGE" not in choices()
    assert choices(METRICS="on")["PROMETHEUS_IMAGE"] == base_images.PROMETHEUS.stand_in


def test_stand_ins_are_those_of_the_offline_profile() -> None:
    text = (ROOT / "env/offline.env").read_text()
    prometheus = base_images.PROMETHEUS
    for variable, image in {**STAND_INS, prometheus.variable: prometheus.stand_in}.items():
        assert f"{variable}={image}\n" in text
        assert image in (ROOT / "tools/debian-images.sh").read_text()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "PIP_CERT"])
def test_the_shells_ca_bundle_reaches_the_builds(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    machine.images = set(OFFICIAL.values())
    bundle = tmp_path / "ca.pem"
    monkeypatch.setenv(name, str(bundle))
    assert "CA_BUNDLE" not in choices()
    bundle.write_text("certificates")
    assert choices()["CA_BUNDLE"] == str(bundle)
    assert "CA_BUNDLE" not in choices(CA_BUNDLE=str(bundle))


def test_a_missing_ca_bundle_is_refused(machine: Machine) -> None:
    with pytest.raises(CommandError, match=r"CA_BUNDLE=/nope\.pem: no such file") as refused:
        choices(CA_BUNDLE="/nope.pem")
    assert refused.value.status == 2


def test_an_image_from_elsewhere_needs_no_base(machine: Machine) -> None:
    machine.registry = set(OFFICIAL.values())
    assert choices(IMAGE="registry.example/app:1") == {"NGINX_BASE_IMAGE": OFFICIAL["NGINX_BASE_IMAGE"]}
    both = {"IMAGE": "registry.example/app:1", "EDGE_IMAGE": "registry.example/nginx:1"}
    assert choices(**both) == {}
    assert choices(**both, TLS="acme") == {"PYTHON_IMAGE": OFFICIAL["PYTHON_IMAGE"]}, "for certbot's"


def test_a_silent_registry_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "docker"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(docker, "REGISTRY_DEADLINE", 0.5)
    for script, pulled in [("exec sleep 60", False), ("echo x; exit 1", False), ("echo x; sleep 1; echo y", True)]:
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        assert base_images._pull("x") is pulled
