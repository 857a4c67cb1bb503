"""The manifests are what Kubernetes takes, may do little, and name nothing that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from tests.deploy.composing import DEPLOY, ROOT, stages
from typer.main import get_command

from roster import NodePassport, __version__
from roster.cli.app import app
from roster.cli.doctor.environment import KNOWN

FOLDER = DEPLOY / "kubernetes"
# The oldest that is still looked after in some clouds, and the newest that the schemas know.
VERSIONS = ("1.29", "1.37")
WORKLOADS = ("Deployment", "StatefulSet")
# Who reads a variable besides Roster: the founding document's names, the examples' agents, the shell.
OTHERS = {"ETCD_HOST", "ETCD_PORT", "RABBITMQ_HOST", "ROSTER_PASSPORT", "POD_NAME"}
OURS = ("roster", "roster-agent")


def documents() -> list[dict[str, Any]]:
    found = []
    for file in sorted(FOLDER.glob("*.yaml")):
        found += [one for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]
    return found


def of(*kinds: str) -> Iterator[dict[str, Any]]:
    yield from (one for one in documents() if one["kind"] in kinds)


def pods() -> list[Any]:
    return [
        pytest.param(one["spec"]["template"]["spec"], id=one["metadata"]["name"]) for one in of(*WORKLOADS)
    ]


def containers() -> list[Any]:
    return [
        pytest.param(container, one["spec"]["template"]["spec"], id=f"{one['metadata']['name']}-{container['name']}")
        for one in of(*WORKLOADS)
        for container in one["spec"]["template"]["spec"]["containers"]
    ]  # fmt: skip


def ours(container: dict[str, Any]) -> bool:
    return container["image"].partition(":")[0] in OURS


PODS = pytest.mark.parametrize("pod", pods())
CONTAINERS = pytest.mark.parametrize(("container", "pod"), containers())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "document", [pytest.param(one, id=f"{one['kind']}-{one['metadata']['name']}") for one in documents()]
)
def test_it_is_what_kubernetes_takes(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_find_faults() -> None:
    broken = next(of("Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["imag"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError, match="imag"):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


def test_the_namespace_comes_first_and_holds_everything() -> None:
    found = documents()
    assert found[0]["kind"] == "Namespace"
    assert found[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {one["metadata"].get("namespace") for one in found[1:]} == {found[0]["metadata"]["name"]}
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)


@PODS
def test_a_pod_is_as_the_restricted_standard_asks(pod: dict[str, Any]) -> None:
    """Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == stages()["roster"].user
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {kind for volume in pod["volumes"] for kind in set(volume) - {"name"}} <= {
        "configMap",
        "secret",
        "emptyDir",
    }


@PODS
def test_a_pod_holds_no_token_for_kubernetes(pod: dict[str, Any]) -> None:
    account = next(of("ServiceAccount"))
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["automountServiceAccountToken"] is False
    assert account["automountServiceAccountToken"] is False


@CONTAINERS
def test_a_container_may_do_little(container: dict[str, Any], pod: dict[str, Any]) -> None:
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    if ours(container):
        state = stages()["roster"].environment["ROSTER_STATE_DIR"]
        mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
        assert "readOnly" not in mounts[state]
        config = next(one for one in of("ConfigMap") if one["metadata"]["name"] == "roster")
        # A volume's own directory belongs to root and to the group: Roster makes one below it that is its own.
        assert Path(config["data"]["ROSTER_STATE_DIR"]).parent == Path(state)


@CONTAINERS
def test_a_container_runs_what_the_command_knows(container: dict[str, Any], pod: dict[str, Any]) -> None:
    if not ours(container):
        return
    image, _, version = container["image"].partition(":")
    assert version == __version__
    stage = stages()[{"roster": "roster", "roster-agent": "agent"}[image]]
    assert "command" not in container
    line = stage.line(container["args"])
    if line[0] == "python":
        assert (ROOT / f"{line[2].replace('.', '/')}.py").is_file()
    else:
        arguments(line)
    probe = container.get("readinessProbe", {}).get("exec")
    if probe:
        shell, flag, script = probe["command"]
        assert (shell, flag) == ("sh", "-c")
        arguments(script.removeprefix("exec ").replace('"', "").replace("$POD_NAME", "writer-0").split())


def arguments(line: list[str]) -> None:
    """Parse a command as a run would, and run nothing."""
    root: Any = get_command(app)
    assert line[0] == "roster"
    with root.commands[line[1]].make_context(line[1], list(line[2:])):
        pass


@CONTAINERS
def test_its_variables_are_read_and_its_paths_are_mounted(
    container: dict[str, Any], pod: dict[str, Any]
) -> None:
    volumes = {one["name"] for one in pod["volumes"]}
    for one in of("StatefulSet"):
        if one["spec"]["template"]["spec"] == pod:
            volumes |= {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
    mounts = [one["mountPath"] for one in container.get("volumeMounts", [])]
    assert {one["name"] for one in container.get("volumeMounts", [])} <= volumes
    maps = {one["metadata"]["name"]: one["data"] for one in of("ConfigMap")}
    names: list[str] = []
    for source in container.get("envFrom", []):
        names += maps[source["configMapRef"]["name"]]
    given = [one["name"] for one in container.get("env", [])]
    names += given
    assert set(names) <= KNOWN | OTHERS
    texts = [*container.get("args", []), *(one.get("value", "") for one in container.get("env", []))]
    for text in texts:
        for used in re.findall(r"\$\(([A-Z_]+)\)", text):
            assert used in given
        for path in re.findall(r"(?:^|=)(/(?:run/secrets|etc/roster)/[^\s]*)", text):
            assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), path
    for one in container.get("env", []):
        # A variable may only use those before it.
        for used in re.findall(r"\$\(([A-Z_]+)\)", one.get("value", "")):
            assert given.index(used) < given.index(one["name"])


def test_no_manifest_holds_a_secret_and_the_page_says_how_each_is_made() -> None:
    assert list(of("Secret")) == []
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    wanted = {
        volume["secret"]["secretName"]
        for one in of(*WORKLOADS)
        for volume in one["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    }
    assert wanted == {"gateway-tokens", "bus-passwords", "runs"}
    for name in wanted:
        assert f"create secret generic {name} " in page
    for one in of(*WORKLOADS):
        for container in one["spec"]["template"]["spec"]["containers"]:
            for variable in container.get("env", []):
                assert not variable["name"].endswith(("PASSWORD", "TOKEN", "SECRET"))


def test_every_selector_selects() -> None:
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in of(*WORKLOADS)
    }
    for one in of(*WORKLOADS):
        assert one["spec"]["selector"]["matchLabels"].items() <= labels[one["metadata"]["name"]].items()
    for one in of("Service"):
        assert one["spec"]["selector"].items() <= labels[one["metadata"]["name"]].items()
    for one in of("PodDisruptionBudget", "NetworkPolicy"):
        selector = one["spec"].get("selector") or one["spec"].get("podSelector")
        if selector:
            assert selector["matchLabels"].items() <= labels[one["metadata"]["name"]].items()
    services = {one["metadata"]["name"] for one in of("Service")}
    assert {one["spec"]["serviceName"] for one in of("StatefulSet")} <= services


def test_whatever_there_is_two_of_may_lose_one() -> None:
    budgets = {one["metadata"]["name"] for one in of("PodDisruptionBudget")}
    assert {one["metadata"]["name"] for one in of(*WORKLOADS) if one["spec"]["replicas"] > 1} == budgets


def test_ports_have_names_that_are_there() -> None:
    for one in of("Deployment"):
        pod = one["spec"]["template"]["spec"]
        ports = {port["name"] for item in pod["containers"] for port in item.get("ports", [])}
        asked = set()
        for container in pod["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for way in ("httpGet", "tcpSocket"):
                    if way in container.get(probe, {}):
                        asked.add(container[probe][way]["port"])
        for service in of("Service", "NetworkPolicy"):
            if service["metadata"]["name"] == one["metadata"]["name"] and service["kind"] == "Service":
                asked |= {port["targetPort"] for port in service["spec"]["ports"]}
        assert asked <= ports


def test_each_replica_has_its_passport() -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in of("ConfigMap")}
    passports = {name: NodePassport.parse(text, source=name) for name, text in maps["passports"].items()}
    wanted = set()
    for one in of("StatefulSet"):
        name = one["metadata"]["name"]
        wanted |= {f"{name}-{number}" for number in range(one["spec"]["replicas"])}
        (bus,) = (v["secret"] for v in one["spec"]["template"]["spec"]["volumes"] if v["name"] == "bus")
        if name == "writer":
            users = {f"ai-team.writer-{number}" for number in range(one["spec"]["replicas"])}
            assert {item["key"] for item in bus["items"]} == users
    assert {f"{name}.yaml" for name in wanted} == set(passports)
    for file, passport in passports.items():
        assert f"{passport.name}.yaml" == file
        assert passport.namespace == "ai-team"
        assert passport.warnings == ()
    assert len({one.mindbus_queue for one in passports.values()}) == len(passports)
    (sidecar,) = maps["handbook-passport"].values()
    alone = NodePassport.parse(sidecar)
    assert "communication" not in alone.to_dict()["spec"]
    assert alone.annotations["address"].startswith("http://handbook.roster:8080")


def test_the_writers_declare_what_the_founding_documents_writer_does() -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in of("ConfigMap")}
    first = NodePassport.load(DEPLOY / "passports" / "writer-001.yaml")
    for name in ("writer-0.yaml", "writer-1.yaml"):
        passport = NodePassport.parse(maps["passports"][name])
        assert [one.name for one in passport.capabilities] == [one.name for one in first.capabilities]
        assert passport.capabilities_mark == first.capabilities_mark


def test_what_is_not_allowed_is_refused_on_the_network() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in of("NetworkPolicy")}
    everybody = policies["nothing-by-itself"]
    assert everybody["podSelector"] == {}
    assert set(everybody["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in everybody
    assert "egress" not in everybody
    opened = {port["port"] for rule in policies["servers"]["egress"] for port in rule.get("ports", [])}
    assert opened == {53, 2379, 5671, 5672, 5432}
    listening = {one["metadata"]["name"] for one in of("Service") if one["spec"].get("ports")}
    assert listening <= set(policies)
