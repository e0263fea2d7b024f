# SPDX-License-Identifier: Apache-2.0
"""`--node NAME`: a command about another node is the same command line, run there.

In a lab of this machine as a process of that node, else by the operator's own kubectl in the node's nodeagent pod. So
options, output and exit status are those of the command there: there is no second protocol, no port has to be open, and
whoever may do it is whoever may `kubectl exec`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from nodeagent.cli.output import has_colour
from nodeagent.errors import AgentUnreachable, ConfigError, NotPossible

NAMESPACE, SELECTOR, CONTAINER = "nodeagent-system", "app.kubernetes.io/name=nodeagent", "agent"
"""As in daemonset/base."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""RFC 1123, as Kubernetes has it for nodes; anything else could be another selector."""
_REQUEST_SECONDS = 15
_OF_ANOTHER_NODE = ("NODEAGENT_SOCKET", "NODEAGENT_RUN_DIR", "NODEAGENT_BPFFS")
"""Settings of the operator's own shell that name an agent: a lab's node has its own."""


def run_there(node: str, words: Sequence[str]) -> NoReturn:
    """`words`: this command line, with or without --node.

    Raises ConfigError for no such node, AgentUnreachable where the way there is missing.
    """
    if not _NAME.fullmatch(node):
        raise ConfigError(f"--node: {node!r} is no name of a node", check="Expected: as `kubectl get nodes` lists it.")
    there = ["nodeagent", *without_node(words)]
    _enter_lab(node, there)
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise AgentUnreachable(
            f"no lab that is seen here has a node {node!r}, and to ask a cluster there is no kubectl",
            check="Is kubectl in PATH? Of a lab's or demo's node: as root. On the node itself leave out --node.",
        )
    namespace = os.environ.get("NODEAGENT_NAMESPACE") or NAMESPACE
    pod = _find_pod(kubectl, namespace, node)
    # With a terminal there the command draws, colours and is interrupted as here; but its two outputs become one.
    terminal = ["--stdin", "--tty"] if has_colour() and sys.stdin.isatty() else []
    place = ["--namespace", namespace, "--container", CONTAINER, *terminal, pod]
    sys.stdout.flush()
    try:
        os.execv(kubectl, [kubectl, "exec", *place, "--", *there])  # noqa: S606 - what the operator typed
    except OSError as error:
        raise NotPossible(f"{kubectl}: {error.strerror}", check="Is it executable?") from error


def without_node(words: Sequence[str]) -> list[str]:
    """The command line as it is typed on the node itself. What is behind `--` is another program's. Pure."""
    end = words.index("--") if "--" in words else len(words)
    kept: list[str] = []
    own = iter(words[:end])
    for word in own:
        if word == "--node":
            next(own, None)
        elif not word.startswith("--node="):
            kept.append(word)
    return [*kept, *words[end:]]


def choose_pod(pods: Sequence[Mapping[str, Any]]) -> str | None:
    """The youngest that is ready and stays: in an upgrade a node has two, and both reach the agent that is in force.

    Pure; `pods` as the API has them.
    """
    staying = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and _is_ready(pod)]
    youngest = max(staying, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)
    return None if youngest is None else str(youngest["metadata"]["name"])


def _is_ready(pod: Mapping[str, Any]) -> bool:
    """Its container is, so that something can be run in it; the agent itself may well be ill."""
    statuses = pod.get("status", {}).get("containerStatuses", ())
    return any(one["name"] == CONTAINER and "running" in one.get("state", {}) for one in statuses)


def _enter_lab(node: str, words: Sequence[str]) -> None:
    """Does not return when a lab of this machine has this node. Raises ConfigError when several have."""
    if os.geteuid() != 0:  # the journals are root's
        return
    from nodeagent.lab.enter import become, find_node
    from nodeagent.lab.journal import living_runs

    wanted = os.environ.get("NODEAGENT_LAB_RUN", "")
    if wanted and not (wanted.isascii() and wanted.isdigit()):
        raise ConfigError(f"NODEAGENT_LAB_RUN: {wanted!r} is no number", check="`nodeagent lab list` has them.")
    place = find_node(living_runs(), node, int(wanted) if wanted else None)
    if place is not None:
        for name in _OF_ANOTHER_NODE:
            os.environ.pop(name, None)
        become(place, words)


def _find_pod(kubectl: str, namespace: str, node: str) -> str:
    fields = f"spec.nodeName={node},status.phase=Running"
    selection = ["--namespace", namespace, "--selector", SELECTOR, "--field-selector", fields]
    done = _ask(kubectl, "get", "pods", *selection, "--output", "json")
    if done.returncode:
        raise AgentUnreachable(
            f"kubectl cannot list the pods of {namespace}: {_last_line(done.stderr)}",
            check="Does `kubectl get pods` work, with the cluster and the rights that are meant?",
        )
    try:
        pod = choose_pod(json.loads(done.stdout)["items"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise AgentUnreachable(
            f"kubectl does not answer as kubectl does: {error!r}", check=f"Is {kubectl} the right program?"
        ) from error
    if pod is not None:
        return pod
    found = _ask(kubectl, "get", "node", node, "--output", "name")
    if "NotFound" in found.stderr:
        raise ConfigError(f"the cluster has no node {node!r}", check="`kubectl get nodes` lists them.")
    raise AgentUnreachable(
        f"no nodeagent pod runs on {node}, in the namespace {namespace}",
        check=f"`kubectl get pods -n {namespace} -o wide` shows where they run; NODEAGENT_NAMESPACE names another "
        "namespace.",
    )


def _ask(kubectl: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [kubectl, *words, f"--request-timeout={_REQUEST_SECONDS}s"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise NotPossible(f"{kubectl}: {error.strerror}", check="Is it executable?") from error


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line), "it says nothing")
