# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server in memory, over TLS: list in pages, watch with bookmarks, merge patch with a uid to match.

It answers as kube-apiserver does where the agent asks, and can be told to misbehave in the ways that one does: refuse
with Retry-After, forget its history (410 as a status and as an ERROR event), cut a chunk in the middle, be away.
"""

import contextlib
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.kubernetes.api import ApiServer
from tests.unit.conftest import TinyCa

TOKEN = "the-token"  # noqa: S105 - of a server that lives for one test
ASKED = frozenset(
    {("list", "pods"), ("watch", "pods"), ("list", "namespaces"), ("watch", "namespaces"), ("patch", "pods/status")}
)
"""Verb and resource of everything that the agent asks for."""
Json = dict[str, Any]


def pod(
    name: str, namespace: str = "shop", *, uid: str = "", ips: tuple[str, ...] = ("10.0.0.1",), **more: Any
) -> Json:
    """A running pod of node-a. `more`: labels, annotations, phase, node, is_host_network, is_terminating."""
    metadata: Json = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}"}
    metadata |= {key: dict(more[key]) for key in ("labels", "annotations") if key in more}
    if more.get("is_terminating"):
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status: Json = {"phase": more.get("phase", "Running")}
    if ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    spec: Json = {"nodeName": more.get("node", "node-a"), "containers": [{"name": "app", "image": "app"}]}
    if more.get("is_host_network"):
        spec["hostNetwork"] = True
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status}


def namespace(name: str = "shop", mode: str = "") -> Json:
    labels = {"kubernetes.io/metadata.name": name} | ({"istio.io/dataplane-mode": mode} if mode else {})
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "uid": f"uid-{name}", "labels": labels},
        "status": {"phase": "Active"},
    }


def daemon_set(path: str, *, is_terminating: bool = False) -> Json:
    """`path`: namespace/name."""
    namespace, _, name = path.partition("/")
    metadata: Json = {"name": name, "namespace": namespace, "uid": f"uid-{name}"}
    if is_terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": {}, "status": {}}


_PLURALS = {"Pod": "pods", "Namespace": "namespaces", "DaemonSet": "daemonsets"}


class FakeKube:
    """Made by `serving`. Its fields are read and set by tests while it serves; `condition` guards them."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.objects: dict[str, dict[tuple[str, str], Json]] = {kind: {} for kind in _PLURALS.values()}
        self.version = 100
        self.history: list[tuple[int, str, Json]] = []
        """Version, plural name, event."""
        self.oldest = 0
        """Watches from before this version are refused."""
        self.page = 500
        self.asked: list[tuple[str, str]] = []
        """Verb and resource of each request that was let in, as RBAC names them."""
        self.targets: list[str] = []
        self.watches = 0
        """Open ones."""
        self.patched: list[tuple[str, str, Json]] = []
        """Namespace, name and body of patches that were applied."""
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        """Of the next requests: status and headers."""
        self.refuse_reads = 0
        """Status for every question for a DaemonSet, 0: none."""
        self.refuse_patches = 0
        """Status for every patch, 0: none."""
        self.lagging: tuple[int, dict[str, dict[tuple[str, str], Json]]] | None = None
        """Version and objects of a cache that has not come further."""
        self._cuts = self._drops = 0
        self._is_over = False

    # ---- what happens in the cluster -------------------------------------------------------------------------------

    def put(self, *objects: Json) -> None:
        with self.condition:
            for one in objects:
                kind = _PLURALS[one["kind"]]
                key = one["metadata"].get("namespace", ""), one["metadata"]["name"]
                self._tell("MODIFIED" if key in self.objects[kind] else "ADDED", kind, key, one)

    def delete(self, name: str, namespace: str = "shop", kind: str = "pods") -> None:
        with self.condition:
            key = ("" if kind == "namespaces" else namespace, name)
            self._tell("DELETED", kind, key, self.objects[kind][key])

    def annotation(self, name: str, namespace: str = "shop") -> str | None:
        with self.condition:
            metadata = self.objects["pods"][namespace, name]["metadata"]
            found: str | None = metadata.get("annotations", {}).get("ambient.istio.io/redirection")
            return found

    def _tell(self, event: str, kind: str, key: tuple[str, str], one: Json) -> None:
        self.version += 1
        one = json.loads(json.dumps(one))
        one["metadata"]["resourceVersion"] = str(self.version)
        if event == "DELETED":
            del self.objects[kind][key]
        else:
            self.objects[kind][key] = one
        self.history.append((self.version, kind, {"type": event, "object": one}))
        self.condition.notify_all()

    # ---- misbehaving -------------------------------------------------------------------------------------------------

    def bookmark(self) -> None:
        """To every watch, at a version at which nothing else happens."""
        with self.condition:
            self.version += 1
            for kind, name in (("pods", "Pod"), ("namespaces", "Namespace")):
                about = {"kind": name, "apiVersion": "v1", "metadata": {"resourceVersion": str(self.version)}}
                self.history.append((self.version, kind, {"type": "BOOKMARK", "object": about}))
            self.condition.notify_all()

    def forget(self) -> None:
        """History is compacted: who resumes from before is told 410. Open watches end."""
        with self.condition:
            self.version += 1
            self.oldest = self.version
            self.history = []
            self._drops += 1
            self.condition.notify_all()

    def lag(self) -> None:
        """Lists that may be as old are from now on as they would be at this moment."""
        with self.condition:
            self.lagging = self.version, {kind: dict(rows) for kind, rows in self.objects.items()}

    def cut(self) -> None:
        """Every open watch ends in the middle of its next event."""
        with self.condition:
            self._cuts += 1

    def drop(self) -> None:
        """Every open watch ends, as at its timeout."""
        with self.condition:
            self._drops += 1
            self.condition.notify_all()

    def end(self) -> None:
        with self.condition:
            self._is_over = True
            self.condition.notify_all()

    # ---- answers -----------------------------------------------------------------------------------------------------

    def events(self, kind: str, version: int) -> Iterator[Json | bytes | None]:
        """Of a watch; None: keep waiting. Bytes: a piece of an event after which the connection is cut."""
        with self.condition:
            if version < self.oldest:
                words = f"too old resource version: {version} ({self.oldest})"
                status = {"kind": "Status", "status": "Failure", "message": words, "reason": "Expired", "code": 410}
                yield {"type": "ERROR", "object": status}
                return
            cuts, drops = self._cuts, self._drops
            self.watches += 1
            try:
                while not self._is_over and drops == self._drops:
                    for at, which, event in list(self.history):
                        if at <= version or which != kind:
                            continue
                        version = at
                        if cuts != self._cuts:
                            yield json.dumps(event).encode()[:40]
                            return
                        yield event
                    self.condition.wait(0.05)
                    yield None
            finally:
                self.watches -= 1

    def patch(self, namespace: str, name: str, body: Json) -> tuple[int, Json]:
        with self.condition:
            known = self.objects["pods"].get((namespace, name))
            if known is None:
                return 404, _status(404, "NotFound", f'pods "{name}" not found')
            if body["metadata"].get("uid", known["metadata"]["uid"]) != known["metadata"]["uid"]:
                return 422, _status(422, "Invalid", f'Pod "{name}" is invalid: metadata.uid: field is immutable')
            changed = json.loads(json.dumps(known))
            annotations = changed["metadata"].setdefault("annotations", {})
            for key, value in body["metadata"]["annotations"].items():
                if value is None:
                    annotations.pop(key, None)
                else:
                    annotations[key] = value
            self.patched.append((namespace, name, body))
            self._tell("MODIFIED", "pods", (namespace, name), changed)
            return 200, self.objects["pods"][namespace, name]


def _status(code: int, reason: str, message: str) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kube: FakeKube

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        *_, space, kind, name = ["", *parts.path.split("/")]
        if kind == "daemonsets":
            if not self._is_refused("get", kind):
                if self.kube.refuse_reads:
                    self._answer(self.kube.refuse_reads, _status(self.kube.refuse_reads, "", "not now"))
                    return
                found = self.kube.objects[kind].get((space, name))
                self._answer(200 if found else 404, found or _status(404, "NotFound", f'"{name}" not found'))
            return
        kind = name
        is_watch = query.get("watch") == "1"
        if self._is_refused("watch" if is_watch else "list", kind):
            return
        field, _, value = query.get("fieldSelector", "").partition("=")
        if field == "metadata.name":
            named = [one for one in self.kube.objects[kind].values() if one["metadata"]["name"] == value]
            self._answer(200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": named})
            return
        node = value
        if is_watch:
            self._watch(kind, node, int(query["resourceVersion"]))
        else:
            self._list(kind, node, query)

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        *_, space, _, name, subresource = urlsplit(self.path).path.split("/")
        if self._is_refused("patch", f"pods/{subresource}"):
            return
        if self.kube.refuse_patches:
            self._answer(self.kube.refuse_patches, _status(self.kube.refuse_patches, "Forbidden", "no"))
            return
        self._answer(*self.kube.patch(space, name, body))

    def _is_refused(self, verb: str, resource: str) -> bool:
        with self.kube.condition:
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._answer(401, _status(401, "Unauthorized", "Unauthorized"))
                return True
            self.kube.asked.append((verb, resource))
            self.kube.targets.append(self.path)
            if not self.kube.refusals:
                return False
            code, headers = self.kube.refusals.popleft()
        self._answer(code, _status(code, "", "not now"), headers)
        return True

    def _list(self, kind: str, node: str, query: dict[str, str]) -> None:
        with self.kube.condition:
            first, objects, told = 0, self.kube.objects, self.kube.version
            oldest = int(query.get("resourceVersion", told))
            assert oldest == 0 or "limit" not in query or "resourceVersion" not in query, "that means Exact"
            if oldest > told:
                self._answer(504, _status(504, "Timeout", f"Too large resource version: {oldest}, current: {told}"))
                return
            if self.kube.lagging is not None and oldest <= self.kube.lagging[0]:
                told, objects = self.kube.lagging
            if "continue" in query:
                first, version = map(int, query["continue"].split("@"))
                if version < self.kube.oldest:
                    self._answer(410, _status(410, "Expired", "The provided continue parameter is too old"))
                    return
            found = [one for one in objects[kind].values() if _is_of(one, node)]
            page = found[first : first + self.kube.page]
            metadata = {"resourceVersion": str(told)}
            if first + self.kube.page < len(found):
                metadata["continue"] = f"{first + self.kube.page}@{told}"
        self._answer(200, {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page})

    def _watch(self, kind: str, node: str, version: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self.kube.events(kind, version):
            if isinstance(event, bytes):
                self._write(b"%x\r\n%s" % (len(event) + 500, event))  # a chunk that says more than comes
                break
            if event is not None and _is_of(event["object"], node, event["type"]):
                text = json.dumps(event).encode() + b"\n"
                for piece in (text[:7], text[7:]):
                    self._write(b"%x\r\n%s\r\n" % (len(piece), piece))
        else:
            self._write(b"0\r\n\r\n")
        self.close_connection = True

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the client has gone: the next event, or the end, will tell
            self.wfile.write(data)

    def _answer(self, code: int, body: Json, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(text)), "Connection": "close", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self._write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        del format, args


def _is_of(one: Json, node: str, event: str = "") -> bool:
    return not node or event in {"BOOKMARK", "ERROR"} or one["spec"]["nodeName"] == node


@contextlib.contextmanager
def serving(
    directory: Path, listener: socket.socket | None = None, ip: str = "127.0.0.1", ca: TinyCa | None = None
) -> Iterator[tuple[FakeKube, ApiServer]]:
    """A server on `listener` (a port of loopback), and how the agent finds it: its files are in `directory`."""
    directory.mkdir(exist_ok=True)
    ca, key = ca or TinyCa("Kubernetes"), ec.generate_private_key(ec.SECP256R1())
    certificate = ca.sign(key.public_key(), [x509.IPAddress(ip_address(ip))])
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server.pem").write_bytes(private + certificate.encode())
    (directory / "ca.crt").write_text(ca.pem)
    (directory / "token").write_text(TOKEN)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    sock = listener or socket.create_server((ip, 0))
    kube = FakeKube()
    handler: Callable[..., BaseHTTPRequestHandler] = type("Handler", (_Handler,), {"kube": kube})
    server = _Server(sock, context, handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    port = sock.getsockname()[1]
    try:
        yield kube, ApiServer(ip, port, str(directory / "ca.crt"), str(directory / "token"))
    finally:
        kube.end()
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, handler: Callable[..., BaseHTTPRequestHandler]
    ) -> None:
        super().__init__(sock.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self._context = sock, context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """TLS in the request's own thread, so that a client that is silent keeps nobody waiting."""
        with contextlib.suppress(OSError), self._context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)
