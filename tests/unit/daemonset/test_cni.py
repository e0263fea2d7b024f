# SPDX-License-Identifier: Apache-2.0
"""The CNI plugin by itself, run as a container runtime runs it: by its environment and its standard input."""

import json
import random
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nodeagent.kubernetes.conflist import VERSIONS

RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "mac": "0a:58:0a:f4:00:06", "sandbox": "/var/run/netns/cni-1"}],
    "ips": [{"interface": 0, "address": "10.244.0.6/24", "gateway": "10.244.0.1"}],
    "dns": {"search": ['a "quoted" \\ one', "{", "]", "Übung"]},
}
ARGS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=ab;K8S_POD_UID=uid-1"
NETNS = "/var/run/netns/cni-1"
HELD = 11
SAYS_YES = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"not_captured": ""}'
SAYS_NO = (
    b"HTTP/1.1 503 Service Unavailable\r\n\r\n"
    b'{"schema": "nodeagent/v1", "error": "it is \\"not\\" captured", "check": "See `pods`."}\n'
)


class Runtime:
    def __init__(self, plugin: Path, directory: Path) -> None:
        self.plugin, self.socket = plugin, directory / "admin.sock"

    def configuration(self, **changes: object) -> dict[str, object]:
        own = {"socket": str(self.socket), "excludeNamespaces": ["kube-system", "istio-system"]}
        whole = {"name": "pods", "type": "nodeagent-cni", "cniVersion": "1.0.0", **own, "prevResult": RESULT, **changes}
        return {key: value for key, value in whole.items() if value is not None}

    def run(
        self, command: str = "ADD", *, stdin: bytes | None = None, args: str = ARGS, **changes: object
    ) -> tuple[int, Any]:
        """Status, and what was said as JSON; None for nothing."""
        environment = {"CNI_COMMAND": command, "CNI_NETNS": NETNS, "CNI_ARGS": args, "CNI_IFNAME": "eth0"}
        given = json.dumps(self.configuration(**changes)).encode() if stdin is None else stdin
        done = subprocess.run(
            [self.plugin],
            input=given,
            env={key: value for key, value in environment.items() if value},
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.stderr == b""
        assert done.returncode in {0, 1}
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    @contextmanager
    def agent(self, *answers: bytes) -> Iterator[list[bytes]]:
        """One that answers so; what it was asked."""
        asked: list[bytes] = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.socket))
            listener.listen()

            def serve() -> None:
                for answer in answers:
                    client, _ = listener.accept()
                    with client:
                        asked.append(client.recv(8192))
                        client.sendall(answer)

            thread = threading.Thread(target=serve)
            thread.start()
            yield asked
            thread.join()
        self.socket.unlink()


@pytest.fixture
def runtime(cni: Path, tmp_path: Path) -> Runtime:
    return Runtime(cni, tmp_path)


def test_a_pod_starts_when_the_agent_says_so_and_its_network_is_as_it_was(runtime: Runtime) -> None:
    with runtime.agent(SAYS_YES) as asked:
        assert runtime.run() == (0, RESULT)
    [request] = asked
    line, *headers = request.decode().split("\r\n")
    assert line == f"POST /pods/start?namespace=shop&name=web-0&uid=uid-1&netns={NETNS} HTTP/1.1"
    assert headers == ["Host: node", "", ""]


def test_what_comes_back_is_what_came_byte_by_byte(runtime: Runtime) -> None:
    result = b'{ "ips":[ ],\n\t"dns" : {"x":"\\u00fc\\"}"}, "n": -1.5e3}'
    text = b'{"a":"prevResult","prevResult": ' + result + b' , "cniVersion" :"0.4.0","socket":"/s"}'
    environment = {"CNI_COMMAND": "ADD", "CNI_NETNS": NETNS, "CNI_ARGS": ""}
    done = subprocess.run([runtime.plugin], input=text, env=environment, capture_output=True, check=True)
    assert done.stdout == result + b"\n"


def test_without_an_agent_a_pod_is_held_and_its_events_say_by_what(runtime: Runtime) -> None:
    status, said = runtime.run()
    assert (status, said["code"], said["cniVersion"]) == (1, HELD, "1.0.0")
    assert "pod shop/web-0 is held" in said["msg"]
    assert str(runtime.socket) in said["msg"]
    assert "No such file" in said["msg"]


def test_a_socket_that_nobody_listens_at_is_no_agent(runtime: Runtime) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(runtime.socket))
    status, said = runtime.run()
    assert (status, said["code"]) == (1, HELD)
    assert "refused" in said["msg"]


def test_an_agent_that_takes_nobody_any_more_is_none(runtime: Runtime) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as before:
        listener.bind(str(runtime.socket))
        listener.listen(0)
        before.connect(str(runtime.socket))
        status, said = runtime.run()
    assert (status, said["code"]) == (1, HELD)
    assert "temporarily unavailable" in said["msg"]


def test_an_agent_that_comes_in_a_moment_is_waited_for(runtime: Runtime) -> None:
    began = subprocess.Popen(
        [runtime.plugin],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"CNI_COMMAND": "ADD", "CNI_NETNS": NETNS, "CNI_ARGS": ARGS},
    )
    assert began.stdin is not None
    began.stdin.write(json.dumps(runtime.configuration()).encode())
    began.stdin.close()
    with runtime.agent(SAYS_YES):  # it has asked before, or asks now: either way it is answered
        assert began.stdout is not None
        assert json.loads(began.stdout.read()) == RESULT
        assert began.wait() == 0
    began.stdout.close()


def test_what_an_agent_refuses_is_held_with_its_words(runtime: Runtime) -> None:
    with runtime.agent(SAYS_NO):
        status, said = runtime.run()
    assert (status, said["code"]) == (1, HELD)
    assert said["msg"] == 'pod shop/web-0 is held: it is "not" captured'
    assert said["details"] == "See `pods`."


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 ",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 2",
        b"SSH-2.0-x 200 \r\n\r\n",
        b"HTTP/1.1 500 Bug\r\n\r\n",
        b"HTTP/1.1 404 \r\n\r\n[",
        b'HTTP/1.1 503 \r\n\r\n{"error": 7}',
        b'HTTP/1.1 503 \r\n\r\n{"error": "half',
        b'HTTP/1.1 503 \r\n\r\n{"error" "x"}',
        b"\0" * 100,
    ],
)
def test_anything_else_holds(runtime: Runtime, answer: bytes) -> None:
    with runtime.agent(answer):
        status, said = runtime.run()
    assert (status, said["code"]) == (1, HELD)
    assert "pod shop/web-0 is held" in said["msg"]


@pytest.mark.parametrize("namespace", ["kube-system", "istio-system"])
def test_an_excluded_namespace_starts_without_an_agent(runtime: Runtime, namespace: str) -> None:
    assert runtime.run(args=f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=dns") == (0, RESULT)


@pytest.mark.parametrize("version", ["0.2.0", "2.0.0", None])
def test_what_nobody_is_asked_about_starts_by_any_version(runtime: Runtime, version: str | None) -> None:
    """A node's own pods, also behind plugins that are older or newer than this one."""
    for args in ("K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=dns", ""):
        assert runtime.run(args=args, cniVersion=version) == (0, RESULT)


@pytest.mark.parametrize("namespace", ["kube", "system", "kube-system2", "KUBE-SYSTEM"])
def test_a_name_that_is_much_alike_is_not_excluded(runtime: Runtime, namespace: str) -> None:
    with runtime.agent(SAYS_NO):
        assert runtime.run(args=f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=dns")[0] == 1


@pytest.mark.parametrize("args", ["", "IgnoreUnknown=1", "XK8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"])
def test_what_is_no_pod_of_kubernetes_starts(runtime: Runtime, args: str) -> None:
    assert runtime.run(args=args) == (0, RESULT)


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("stdin", [None, b"", b"no json"])
def test_the_other_verbs_need_nobody(runtime: Runtime, command: str, stdin: bytes | None) -> None:
    assert runtime.run(command, stdin=stdin) == (0, None)


def test_it_tells_its_versions(runtime: Runtime) -> None:
    status, said = runtime.run("VERSION", stdin=b'{"cniVersion":"1.1.0"}')
    assert status == 0
    assert said == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        pytest.param(1, {"cniVersion": "0.2.0"}, id="without chains"),
        pytest.param(1, {"cniVersion": "2.0.0"}, id="a version to come"),
        pytest.param(6, {"cniVersion": None}, id="no version"),
        pytest.param(6, {"stdin": b""}, id="nothing"),
        pytest.param(6, {"stdin": b'{"cniVersion": "1.0.0'}, id="half of it"),
        pytest.param(6, {"stdin": b"[" * 100_000}, id="depth"),
        pytest.param(5, {"stdin": b"x" * (2 << 20)}, id="too much"),
        pytest.param(7, {"prevResult": None}, id="alone"),
        pytest.param(7, {"prevResult": "none"}, id="no result"),
        pytest.param(7, {"socket": None}, id="no socket"),
        pytest.param(7, {"socket": "/a" * 100}, id="a path that is too long"),
        pytest.param(7, {"socket": 'a"b'}, id="no path"),
        pytest.param(4, {"command": "BEGIN"}, id="an unknown verb"),
        pytest.param(4, {"command": ""}, id="no verb"),
        pytest.param(4, {"args": "K8S_POD_NAMESPACE=shop"}, id="no name"),
        pytest.param(4, {"args": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a b"}, id="no name of a pod"),
        pytest.param(4, {"args": f"K8S_POD_NAMESPACE={'x' * 600};K8S_POD_NAME=web"}, id="too long a name"),
        pytest.param(4, {"args": 'K8S_POD_NAMESPACE=shop"&x=;K8S_POD_NAME=web'}, id="no name of a namespace"),
    ],
)
def test_what_is_wrong_is_told_by_its_code_and_holds(runtime: Runtime, code: int, changes: dict[str, Any]) -> None:
    command = changes.pop("command", "ADD")
    status, said = runtime.run(command, **changes)
    assert (status, said["code"]) == (1, code)


def test_no_input_makes_it_crash_or_says_yes_in_its_place(cni: Path, tmp_path: Path) -> None:
    """Bytes of a configuration exchanged, left out and doubled."""
    runtime, rng = Runtime(cni, tmp_path), random.Random(7)
    whole = json.dumps(runtime.configuration(socket="/no/such"), ensure_ascii=False).encode()
    for _ in range(300):
        text = bytearray(whole)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(3)] = rng.choice([b"", b'"', b"\\", b"{", b"]", b",", b"\0", b":"])
        # A namespace that is nobody's: whether it starts depends on what is read alone, and nobody is waited for.
        environment = {"CNI_COMMAND": "ADD", "CNI_NETNS": NETNS, "CNI_ARGS": ""}
        done = subprocess.run([cni], input=bytes(text), env=environment, capture_output=True, check=False)
        assert done.returncode in {0, 1}, (bytes(text), done.stderr)
        assert done.stderr == b""
