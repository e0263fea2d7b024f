# SPDX-License-Identifier: Apache-2.0
"""The manifests: valid by Kubernetes' own schemas, and what no schema says: that each part fits the others and us."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from nodeagent.cli.cni import install
from nodeagent.config import Config, make_config
from nodeagent.version import VERSION
from tests.kube_api import ASKED
from tests.unit.daemonset.conftest import DAEMONSET

Object = dict[str, Any]
KUBERNETES = ("1.30", "1.32", "1.34", "1.36", "1.37")
HOST_PATHS = {"/sys/fs/bpf", "/sys/fs/cgroup", "/run/netns", "/run/nodeagent"}
FOLDERS = sorted(path.parent for path in DAEMONSET.rglob("kustomization.yaml"))


def documents(path: Path) -> Iterator[Object]:
    yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def built(folder: Path) -> Iterator[Object]:
    """As `kubectl kustomize`, of what is used here: files and folders, no patches."""
    [kustomization] = documents(folder / "kustomization.yaml")
    assert kustomization.keys() <= {"apiVersion", "kind", "namespace", "resources"}
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        yield from built(path) if path.is_dir() else documents(path)


def find(kind: str) -> Object:
    [found] = [one for one in built(DAEMONSET / "base") if one["kind"] == kind]
    return found


@pytest.fixture(scope="module")
def pod() -> Object:
    spec: Object = find("DaemonSet")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def agent(pod: Object) -> Object:
    [found] = pod["containers"]
    assert isinstance(found, dict)
    return found


def test_every_file_is_part_of_something() -> None:
    named = {
        (folder / name).resolve()
        for folder in FOLDERS
        for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    }
    others = {"kustomization.yaml", "policy-exceptions.yaml"}
    files = {path.resolve() for path in DAEMONSET.rglob("*.yaml") if path.name not in others}
    assert files <= named


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("folder", ["base", "cni"])
def test_kubernetes_schemas_accept_each_object(folder: str, version: str) -> None:
    for one in built(DAEMONSET / folder):
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_are_strict() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**find("DaemonSet"), "sepc": {}}, KUBERNETES[-1], strict=True)


def test_the_role_allows_what_the_agent_asks_for_and_nothing_else() -> None:
    rules = find("ClusterRole")["rules"]
    assert all(rule["apiGroups"] == [""] for rule in rules)
    assert {(verb, name) for rule in rules for name in rule["resources"] for verb in rule["verbs"]} == ASKED
    [subject] = find("ClusterRoleBinding")["subjects"]
    account = find("ServiceAccount")["metadata"]
    assert (subject["name"], subject["namespace"]) == (account["name"], account["namespace"])
    assert find("ClusterRoleBinding")["roleRef"]["name"] == find("ClusterRole")["metadata"]["name"]


def test_the_capabilities_are_those_of_the_readme_each_with_its_reason(agent: Object) -> None:
    granted = agent["securityContext"]["capabilities"]
    readme = (DAEMONSET.parent / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What a node gets")[2].partition("\n- ")[0]
    assert granted["drop"] == ["ALL"]
    assert {f"CAP_{name}" for name in granted["add"]} == set(re.findall(r"CAP_[A-Z_]+", section))
    text = (DAEMONSET / "base/daemonset.yaml").read_text(encoding="utf-8")
    for name in granted["add"]:
        assert re.search(rf"- {name} # \w+", text), name


def test_the_agent_has_no_more_than_that(agent: Object, pod: Object) -> None:
    context = agent["securityContext"]
    assert context["privileged"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    [init] = pod["initContainers"]
    assert init["securityContext"] == {"privileged": True, "readOnlyRootFilesystem": True}
    assert init["command"] == ["nodeagent", "prepare-node"]
    assert {mount["name"] for mount in init["volumeMounts"]} == {"bpffs", "run"}, "privilege, but no token"


def test_each_mount_has_its_volume_and_the_host_shows_four_places(agent: Object, pod: Object) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = [*agent["volumeMounts"], *pod["initContainers"][0]["volumeMounts"]]
    assert {mount["name"] for mount in mounts} == set(volumes)
    assert {volume["hostPath"]["path"] for volume in volumes.values() if "hostPath" in volume} == HOST_PATHS
    for mount in mounts:
        if "hostPath" in volumes[mount["name"]]:
            assert mount["mountPath"] == volumes[mount["name"]]["hostPath"]["path"]
    shown = [mount for mount in agent["volumeMounts"] if mount.get("mountPropagation") == "Bidirectional"]
    assert shown == [], "only a privileged container may"


def test_the_mounts_are_where_the_agent_looks(agent: Object) -> None:
    defaults = make_config({"node": "node-a"}, {}, {})
    places = [mount["mountPath"] for mount in agent["volumeMounts"]]
    files = (defaults.token, defaults.root_certificate, defaults.kubernetes_token, defaults.kubernetes_ca)
    for path in (defaults.run_dir, defaults.bpffs, defaults.netns_dir, *files):
        assert any(Path(path).is_relative_to(place) for place in places), path


def test_every_variable_is_a_setting_and_every_value_is_good(agent: Object) -> None:
    known = {field.metadata["env"] for field in dataclasses.fields(Config)}
    given = {one["name"]: one.get("value", "10.0.0.1") for one in agent["env"]} | find("ConfigMap")["data"]
    assert given.keys() <= known
    made = make_config({}, {**given, "KUBERNETES_SERVICE_HOST": "10.96.0.1"}, {})
    assert made.kubernetes == "on"
    assert [one["configMapRef"]["name"] for one in agent["envFrom"]] == [find("ConfigMap")["metadata"]["name"]]


def test_probes_ask_our_ports_at_loopback_and_nothing_is_declared(agent: Object) -> None:
    address = next(one["value"] for one in agent["env"] if one["name"] == "NODEAGENT_READY")
    for name, path in (("startupProbe", "live"), ("livenessProbe", "live"), ("readinessProbe", "ready")):
        probe = agent[name]["httpGet"]
        assert f"{probe['host']}:{probe['port']}" == address
        assert isinstance(probe["port"], int)
        assert probe["path"] == f"/healthz/{path}"
    assert "ports" not in agent, "with the host's network two agents of a node could not be"


def test_the_upgrade_is_a_takeover(agent: Object, pod: Object) -> None:
    spec = find("DaemonSet")["spec"]
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["minReadySeconds"] > 0
    assert agent["command"] == ["supervise", "--takeover", "nodeagent", "agent"]
    assert (pod["hostNetwork"], pod["hostPID"]) == (True, True)
    assert pod["terminationGracePeriodSeconds"] > Config.drain_seconds + Config.connect_seconds


def test_one_image_of_this_version(pod: Object) -> None:
    images = {one["image"] for one in (*pod["initContainers"], *pod["containers"])}
    assert images == {f"nodeagent:{VERSION}"}


def test_labels_select_the_pods_and_keep_them_out_of_the_mesh() -> None:
    spec = find("DaemonSet")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert (labels["istio.io/dataplane-mode"], labels["sidecar.istio.io/inject"]) == ("none", "false")
    assert find("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


def test_the_monitor_finds_the_metrics() -> None:
    found = {one["kind"]: one for one in built(DAEMONSET / "overlays/monitoring")}
    monitor, spec = found["PodMonitor"], found["DaemonSet"]["spec"]
    selected = monitor["spec"]["selector"]["matchLabels"]
    assert selected.items() <= spec["template"]["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    port = Config.stats_address.rpartition(":")[2]
    for address, expected in (("10.0.0.1", f"10.0.0.1:{port}"), ("fd00::1", f"[fd00::1]:{port}")):
        made = address
        for step in endpoint["relabelings"]:
            if step.get("targetLabel") == "__address__" and re.fullmatch(step["regex"], address):
                made = re.sub(f"^{step['regex']}$", step["replacement"].replace("$1", r"\1"), address)
        assert made == expected
    annotations = spec["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == port


# ---- what keeps the CNI plugin on a node -----------------------------------------------------------------------------


def plugin(kind: str) -> Object:
    [found] = [one for one in built(DAEMONSET / "cni") if one["kind"] == kind]
    return found


@pytest.fixture(scope="module")
def installer() -> Object:
    """Its container."""
    [found] = plugin("DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def test_the_plugin_is_in_the_agents_namespace_and_brings_none() -> None:
    """So that taking it away takes nothing else away."""
    made = list(built(DAEMONSET / "cni"))
    kinds = {one["kind"] for one in made}
    assert kinds == {"ServiceAccount", "Role", "RoleBinding", "DaemonSet"}
    assert {one["metadata"]["namespace"] for one in made} == {find("Namespace")["metadata"]["name"]}


def test_the_installer_may_ask_for_its_own_daemon_set_and_nothing_else(installer: Object) -> None:
    meta = plugin("DaemonSet")["metadata"]
    [rule] = plugin("Role")["rules"]
    assert rule == {
        "apiGroups": ["apps"],
        "resources": ["daemonsets"],
        "resourceNames": [meta["name"]],
        "verbs": ["get"],
    }
    assert installer["command"][-2:] == ["--daemonset", f"{meta['namespace']}/{meta['name']}"]
    [subject] = plugin("RoleBinding")["subjects"]
    assert plugin("RoleBinding")["roleRef"]["name"] == plugin("Role")["metadata"]["name"]
    assert subject["name"] == plugin("ServiceAccount")["metadata"]["name"]


def test_the_installer_has_no_privilege_and_two_directories(installer: Object) -> None:
    spec = plugin("DaemonSet")["spec"]["template"]["spec"]
    context = installer["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert (context["privileged"], context["allowPrivilegeEscalation"]) == (False, False)
    assert context["readOnlyRootFilesystem"] is True
    assert (spec["hostNetwork"], "hostPID" in spec) == (True, False)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in installer["volumeMounts"]} == set(volumes)
    shown = {volume["hostPath"]["path"] for volume in volumes.values() if "hostPath" in volume}
    defaults = {option.name: option.default for option in install.params}
    assert shown == {defaults["net_dir"], defaults["bin_dir"]}


def test_the_installers_settings_are_those_of_the_agent_and_its_image(installer: Object) -> None:
    given = {one["name"]: one["value"] for one in installer["env"]}
    defaults = {option.envvar: option.default for option in install.params if isinstance(option, click.Option)}
    assert given["NODEAGENT_CNI_EXCLUDE_NAMESPACES"] == defaults["NODEAGENT_CNI_EXCLUDE_NAMESPACES"]
    excluded = set(given["NODEAGENT_CNI_EXCLUDE_NAMESPACES"].split(","))
    assert Config().excluded_namespaces <= excluded
    assert find("Namespace")["metadata"]["name"] in excluded, "else no agent could start"
    assert given.keys() <= defaults.keys()
    assert installer["image"] == f"nodeagent:{VERSION}"
    assert installer["readinessProbe"]["exec"]["command"] == ["nodeagent", "cni", "check"]


def test_the_installers_labels_select_its_pods_alone() -> None:
    spec = plugin("DaemonSet")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert not spec["selector"]["matchLabels"].items() <= find("DaemonSet")["spec"]["selector"]["matchLabels"].items()
    assert (labels["istio.io/dataplane-mode"], labels["sidecar.istio.io/inject"]) == ("none", "false")
