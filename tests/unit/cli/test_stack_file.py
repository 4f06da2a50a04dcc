"""The file for `docker stack deploy`: what becomes of each thing that compose.yaml says."""

from pathlib import Path
from typing import Any

import pytest

from greenstack.cli import stack_file
from greenstack.cli.console import CommandError
from greenstack.cli.stack_file import StackFile

IMAGES = {"shop-app": "registry.example/app:1", "shop-nginx": "registry.example/nginx:1"}


def service(image: str, **others: Any) -> dict[str, Any]:
    return {"image": image, "command": None, "restart": "unless-stopped", **others}


def derived(root: Path = Path("/shop"), others: dict[str, Any] | None = None, **of_app: Any) -> StackFile:
    """Derive the file of a stack whose app has these keys as well, and which has these other services."""
    app, nginx = service("shop-app", build={"context": "."}), service("shop-nginx", build={"context": "nginx"})
    config: dict[str, Any] = {
        "name": "shop",
        "services": {"check": service("shop-app"), "app": {**app, **of_app}, "nginx": nginx, **(others or {})},
        "networks": {"internal": {"name": "shop_internal", "ipam": {}, "internal": True}},
        "volumes": {"sockets": {"name": "shop_sockets", "driver_opts": {"type": "tmpfs"}}, "idle": {}},
        "secrets": {"ca": {"name": "shop_ca", "file": "docker/no-ca.pem"}},
    }
    return stack_file.derive(config, IMAGES, root)


def app(**keys: Any) -> dict[str, Any]:
    return dict(derived(**keys).content["services"]["app"])


def test_limits_become_resources() -> None:
    found = app(mem_limit="1073741824", cpus=0.5, pids_limit=64)
    assert found["deploy"]["resources"] == {"limits": {"memory": "1073741824", "cpus": "0.5", "pids": 64}}
    assert not {"mem_limit", "cpus", "pids_limit"} & found.keys()


def test_no_limit_of_cpus_is_none() -> None:
    assert app(cpus="0")["deploy"]["resources"] == {"limits": {}}


def test_tmpfs_becomes_a_volume() -> None:
    file = derived(tmpfs=["/run/x:size=1m"])
    assert file.notes == ["tmpfs /run/x:size=1m (app): its options are left out, so its size has no limit"]
    found = file.content["services"]["app"]
    assert found["volumes"] == [{"type": "tmpfs", "target": "/run/x"}]
    assert "tmpfs" not in found


def test_ports_are_the_nodes_own() -> None:
    port = {"mode": "ingress", "host_ip": "10.0.0.1", "target": 8080, "published": "80", "protocol": "tcp"}
    file = derived(ports=[port])
    ports = file.content["services"]["app"]["ports"]
    assert ports == [{"mode": "host", "target": 8080, "published": 80, "protocol": "tcp"}]
    assert any("every address of each node, not at 10.0.0.1 alone" in note for note in file.notes)


def test_a_port_that_nobody_chose_is_the_nodes_choice() -> None:
    assert app(ports=[{"mode": "ingress", "target": 9000}])["ports"] == [
        {"mode": "host", "target": 9000, "protocol": "tcp"}
    ]


def test_a_port_of_this_machine_alone_is_not_opened() -> None:
    port = {"mode": "ingress", "host_ip": "127.0.0.1", "target": 5432, "published": "5432", "protocol": "tcp"}
    file = derived(others={"db": service("postgres", ports=[port])})
    assert "ports" not in file.content["services"]["db"]
    assert [note for note in file.notes if note.startswith("db is not published")]


def test_a_job_runs_on_the_nodes_of_the_app() -> None:
    placement = {"constraints": ["node.labels.web==true"]}
    services = stack_file.running_once(derived(deploy={"placement": placement}).content, ["true"])["services"]
    assert services["prepare"]["deploy"]["placement"] == placement


def test_a_job_leaves_variables_to_its_own_shell() -> None:
    job = stack_file.running_once(derived().content, ["sh", "-c", "echo $HOME"])["services"]["prepare"]
    assert job["command"] == ["-c", "echo $$HOME"]


def test_an_unset_variable_is_left_out() -> None:
    assert app(environment={"A": None, "B": "", "C": "x"})["environment"] == {"B": "", "C": "x"}


def test_the_names_of_images_reach_no_container() -> None:
    assert app(environment={"A": "b", "IMAGE": "x", "EDGE_IMAGE": "y"})["environment"] == {"A": "b"}


def test_the_app_starts_first_and_nginx_stops_first() -> None:
    services = derived().content["services"]
    for name, order in (("app", "start-first"), ("nginx", "stop-first")):
        deploy = services[name]["deploy"]
        assert deploy["mode"] == "global"
        assert deploy["update_config"] == {"order": order, "parallelism": 1, "failure_action": "rollback"}
        assert deploy["rollback_config"]["order"] == order


def test_what_a_file_says_of_deploy_wins() -> None:
    own = {"mode": "replicated", "replicas": 4, "resources": {"limits": {"pids": 9}}}
    deploy = app(mem_limit="1", deploy=own)["deploy"]
    assert (deploy["mode"], deploy["replicas"]) == ("replicated", 4)
    assert deploy["resources"]["limits"] == {"memory": "1", "pids": 9}
    assert deploy["update_config"]["order"] == "start-first"


def test_images_are_those_of_the_registry() -> None:
    services = derived(others={"jobs": service("shop-app", build={"context": "."})}).content["services"]
    assert {each["image"] for each in services.values()} == set(IMAGES.values())
    assert "check" not in services


def test_a_service_that_is_built_here_is_refused() -> None:
    with pytest.raises(CommandError, match="db: its image is built here"):
        derived(others={"db": service("shop-db", build={"context": "."})})


def test_what_swarm_lacks_is_said() -> None:
    file = derived(security_opt=["no-new-privileges:true"], cpu_shares=256, depends_on={"check": {}})
    assert [note.partition(":")[0] for note in file.notes] == ["cpu_shares (app)", "security_opt (app)"]
    assert not {"security_opt", "cpu_shares", "depends_on"} & file.content["services"]["app"].keys()


def test_a_secret_has_another_name_with_another_content(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / ".gitignore").touch()
    mount = {"type": "bind", "source": str(folder), "target": "/run/secrets", "read_only": True}
    names = []
    for content in ("one", "two"):
        (folder / "token").write_text(content)
        found = derived(tmp_path, volumes=[mount]).content
        assert found["services"]["app"]["secrets"] == [{"source": "token", "target": "token"}]
        assert "volumes" not in found["services"]["app"]
        (declared,) = found["secrets"].values()
        assert declared["file"] == str(folder / "token")
        names.append(declared["name"])
    assert names[0] != names[1]


def test_files_of_this_machine_are_refused() -> None:
    mount = {"type": "bind", "source": "/shop/app", "target": "/srv/app"}
    with pytest.raises(CommandError, match="app mounts /shop/app, which no other node has"):
        derived(volumes=[mount])


def test_files_of_each_node_are_told() -> None:
    mount = {"type": "bind", "source": "/etc/shop", "target": "/shop", "bind": {"create_host_path": True}}
    file = derived(volumes=[mount])
    assert file.content["services"]["app"]["volumes"] == [{"type": "bind", "source": "/etc/shop", "target": "/shop"}]
    assert "app mounts /etc/shop: each node must have it" in file.notes


def test_only_what_is_used_is_declared() -> None:
    content = derived(volumes=[{"type": "volume", "source": "sockets", "target": "/run/app", "volume": {}}]).content
    assert content["volumes"] == {"sockets": {"driver_opts": {"type": "tmpfs"}}}
    assert content["networks"] == {"internal": {"internal": True}}
    assert "secrets" not in content


def test_a_job_runs_once_as_the_app_would() -> None:
    file = derived(others={"db": service("postgres")}, mem_limit="9", environment={"A": "b"})
    services = stack_file.running_once(file.content, ["alembic", "upgrade", "head"])["services"]
    assert services.keys() == {"db", "prepare"}
    job = services["prepare"]
    assert (job["entrypoint"], job["command"]) == (["alembic"], ["upgrade", "head"])
    assert (job["image"], job["environment"]) == ("registry.example/app:1", {"A": "b"})
    assert job["deploy"]["mode"] == "replicated-job"
    assert job["deploy"]["resources"] == {"limits": {"memory": "9"}}


def test_prometheus_is_left_out_and_said() -> None:
    file = derived(others={"prometheus": service("shop-prometheus", build={"context": "prometheus"})})
    assert "prometheus" not in file.content["services"]
    assert file.notes[-1].startswith("Prometheus is left out")
