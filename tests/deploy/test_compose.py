"""deploy/compose.yaml is what the Compose Specification allows, and everything in it exists."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from servers.compose import FILE
from tests.deploy.composing import COMPOSE, DEPLOY, DOCKERFILE, OURS, ROOT, compose, stages, variables
from typer.main import get_command

from roster import NodePassport
from roster.cli.app import app
from roster.cli.doctor.environment import KNOWN

SCHEMA = Path(__file__).parent / "schemas" / "compose-spec.json"
SERVERS = ("etcd", "consul", "zookeeper", "rabbitmq")
FOUNDING = {"ETCD_HOST", "ETCD_PORT", "RABBITMQ_HOST"}
# What the examples' agents read besides.
EXAMPLES = {"ROSTER_PASSPORT"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found = compose()["services"]
    assert isinstance(found, dict)
    return found


def faults(document: Any) -> list[str]:
    validator = jsonschema_rs.validator_for(json.loads(SCHEMA.read_text(encoding="utf-8")))
    return [f"{list(fault.instance_path)}: {fault.message}" for fault in validator.iter_errors(document)]


@pytest.mark.parametrize("document", [yaml.safe_load(COMPOSE.read_text(encoding="utf-8")), compose()])
def test_it_is_what_the_specification_allows(document: Any) -> None:
    assert faults(document) == []


def test_the_schema_finds_faults() -> None:
    broken = compose()
    broken["services"]["etcd"]["helthcheck"] = {}
    broken["services"]["etcd"]["depends_on"] = {"rabbitmq": {"condition": "service_is_well"}}
    assert len(faults(broken)) == 2


def test_it_is_the_file_that_the_tests_of_stores_start_servers_from() -> None:
    assert FILE == COMPOSE


def test_what_the_founding_document_has_is_there(services: dict[str, Any]) -> None:
    assert services["etcd"]["image"].startswith("quay.io/coreos/etcd:v3.5")
    assert "etcd-data:/etcd-data" in services["etcd"]["volumes"]
    assert "-management" in services["rabbitmq"]["image"]
    for name in OURS:
        environment = services[name]["environment"]
        assert (environment["ETCD_HOST"], environment["ETCD_PORT"], environment["RABBITMQ_HOST"]) == (
            "etcd",
            "2379",
            "rabbitmq",
        )
        assert {environment[one] for one in ("ETCD_HOST", "RABBITMQ_HOST")} <= set(services)
    for name in ("agent-writer-001", "agent-writer-002"):
        passport = f"./passports/{name.removeprefix('agent-')}.yaml:/app/node_passport.yaml:ro"
        assert passport in services[name]["volumes"]


def test_without_a_profile_there_is_all_but_the_other_stores(services: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert profiles["consul"] == ["consul"]
    assert profiles["zookeeper"] == ["zookeeper"]
    assert {name for name, asked in profiles.items() if not asked} >= {"etcd", "rabbitmq", *OURS}


def test_everybody_waits_until_the_servers_are_well(services: dict[str, Any]) -> None:
    for name in OURS:
        waits = services[name]["depends_on"]
        assert {one: waits[one]["condition"] for one in SERVERS} == dict.fromkeys(SERVERS, "service_healthy")
        for other, how in waits.items():
            assert "healthcheck" in services[other]
            # A service whose profile is not asked for is not there.
            assert how.get("required", True) is not bool(services[other].get("profiles"))


def test_every_service_says_whether_it_is_well(services: dict[str, Any]) -> None:
    for name, service in services.items():
        check = service["healthcheck"]
        assert check["test"][0] == "CMD", name
        assert _seconds(check["timeout"]) <= 10
        assert (
            _seconds(check.get("start_period", "0s")) + _seconds(check["interval"]) * check["retries"] >= 60
        )


def _seconds(text: str) -> int:
    assert re.fullmatch(r"\d+s", text), text
    return int(text[:-1])


def test_what_our_containers_run_is_what_the_command_knows(services: dict[str, Any]) -> None:
    made = stages()
    root: Any = get_command(app)
    for name in OURS:
        service = services[name]
        stage = made[service["build"]["target"]]
        for line in (stage.line(service["command"]), service["healthcheck"]["test"][1:]):
            if line[0] == "python":
                if line[1] == "-c":
                    compile(line[2], name, "exec")
                else:
                    assert line[1] == "-m"
                    assert (ROOT / f"{line[2].replace('.', '/')}.py").is_file()
                continue
            assert line[0] == "roster"
            command = root.commands[line[1]]
            # Parses the arguments as a run would, and runs nothing.
            with command.make_context(line[1], list(line[2:])):
                pass


def test_our_containers_are_built_from_the_dockerfile(services: dict[str, Any]) -> None:
    made = stages()
    images: dict[str, str] = {}
    for name in OURS:
        build = services[name]["build"]
        assert (DEPLOY / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]) == DOCKERFILE
        assert build["target"] in made
        assert images.setdefault(services[name]["image"], build["target"]) == build["target"]
    assert {name for name, one in services.items() if "build" in one} == set(OURS)


def test_our_containers_may_do_little(services: dict[str, Any]) -> None:
    for name in OURS:
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(service)
        # With a root that cannot be written the state directory has to be a volume.
        state = stages()[service["build"]["target"]].environment["ROSTER_STATE_DIR"]
        assert [one for one in service["volumes"] if one.split(":")[1] == state], name


def test_every_variable_is_read_by_somebody(services: dict[str, Any]) -> None:
    for name in OURS:
        assert set(services[name]["environment"]) <= KNOWN | FOUNDING | EXAMPLES, name
    page = (DEPLOY.parent / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert {one for one in variables() if f"`{one}`" not in page} == set()
    assert set(re.findall(r"`(ROSTER_COMPOSE_[A-Z]+)`", page)) <= variables()


def test_a_store_is_chosen_by_a_variable_and_its_profile() -> None:
    for url, host in (("consul://consul:8500", "consul"), ("zookeeper://zookeeper", "zookeeper")):
        services = compose({"ROSTER_COMPOSE_REGISTRY": url})["services"]
        assert host in services
        for name in OURS:
            assert services[name]["environment"]["ROSTER_REGISTRY"] == url
        assert url in COMPOSE.read_text(encoding="utf-8")
    assert compose()["services"]["gateway"]["environment"]["ROSTER_REGISTRY"] == ""


def test_every_port_is_this_machines_alone_and_nobody_elses(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published) == 6
    assert "127.0.0.1:8700:8700" in services["gateway"]["ports"]
    assert "0.0.0.0:8700" in services["gateway"]["command"]


def test_every_path_exists_and_every_volume_is_declared(services: dict[str, Any]) -> None:
    whole = compose()
    named = set()
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), volume
                assert mode == ["ro"]
            else:
                named.add(source)
        for secret in service.get("secrets", []):
            assert secret in whole["secrets"]
            assert f"/run/secrets/{secret}" in service["command"], name
    assert named == set(whole["volumes"])
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert whole["secrets"]["gateway-tokens"]["file"] == "./secrets/gateway-tokens.yaml"
    assert "/deploy/secrets/" in ignored


def test_the_passports_are_good_and_those_of_the_containers(services: dict[str, Any]) -> None:
    seen = set()
    for name in OURS:
        for volume in services[name]["volumes"]:
            source, target, *_ = volume.split(":")
            if not source.startswith("./passports/"):
                continue
            passport = NodePassport.load(DEPLOY / source)
            assert passport.warnings == ()
            seen.add(Path(source).name)
            assert name.endswith(passport.name) or name == "orchestrator"
            assert target in (
                *services[name]["command"],
                services[name]["environment"].get("ROSTER_PASSPORT"),
            )
            waits = services[name]["healthcheck"]["test"]
            assert f"node/{passport.name}" in waits
            assert passport.namespace in waits
    assert seen == {file.name for file in (DEPLOY / "passports").iterdir()}


def test_the_writers_do_not_share_a_queue() -> None:
    passports = [NodePassport.load(file) for file in (DEPLOY / "passports").iterdir()]
    assert (
        len({one.mindbus_queue for one in passports})
        == len({one.name for one in passports})
        == len(passports)
    )
