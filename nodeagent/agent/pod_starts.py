# SPDX-License-Identifier: Apache-2.0
"""Pods that are about to start, as the CNI plugin of this node asks about them (daemonset/cni.c).

The plugin waits, and with it the pod, of which nothing runs yet. So what its network namespace says of its addresses is
believed, and a pod of the mesh is captured by them before it has sent anything; the kubelet reports them, and the
control plane hears of them, only when it runs. Until then the workers let its connections wait.

Whatever is not known for certain is an error, by which the pod is held: the runtime asks again. What is followed of the
API may be old, so whether a namespace enrols a pod is asked anew before the pod starts uncaptured for want of a label.
That it does is believed: a pod that is captured in error does not talk in plain text.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path, PurePosixPath

from nodeagent.agent.capture import Capture
from nodeagent.config import Config
from nodeagent.errors import ControlPlaneError, NotPossible
from nodeagent.kernel.pod_namespaces import Namespace, namespace_at, read_addresses
from nodeagent.kubernetes.node_pods import NodePods
from nodeagent.model.address import Ip
from nodeagent.model.opt_in import Standing, enrols
from nodeagent.model.pod import CaptureReason, LocalPod

MOST_WAITING = 32
"""Half of the clients that the admin socket takes: those that wait push out no other order, which is older then."""
KNOWN_SECONDS = 10.0
"""The kubelet hears of a pod by a watch of its own, so it may be faster than ours."""
LABELS_SECONDS = 5.0
CAPTURED_SECONDS = 10.0
"""Milliseconds, once the agent has begun; with those above less than the plugin waits (ANSWER in daemonset/cni.c)."""

Hold = Callable[[str, Namespace, tuple[Ip, ...]], None]
"""Uid, and what is captured from now on."""
ReadLabels = Callable[[str], Awaitable[Mapping[str, str] | None]]
"""Of a namespace, as the API has them at this moment; None: there is no such one. Raises ControlPlaneError."""


class PodHeld(NotPossible):
    check = "It is tried again. `nodeagent status` and `nodeagent pods` on this node say what is missing."


class PodStarts:
    def __init__(self, config: Config, ledger: NodePods, capture: Capture, hold: Hold, read_labels: ReadLabels) -> None:
        self._config, self._ledger, self._capture = config, ledger, capture
        self._hold, self._read_labels = hold, read_labels
        self._news = asyncio.Event()
        self._waiting = 0

    def news(self) -> None:
        """The API has told something, or the kernel has what was wanted."""
        self._news.set()  # wakes who waits now
        self._news.clear()

    async def start(self, namespace: str, name: str, uid: str, netns: str) -> str:
        """Returns when the pod may start: a CaptureReason why it is not captured, empty when it is.

        Args:
            namespace: of the pod, as `name`.
            name: of the pod.
            uid: Kubernetes' own name for it; empty where the runtime tells none.
            netns: path of its network namespace, as the runtime has it.

        Raises PodHeld and KernelError.
        """
        if namespace in self._config.excluded_namespaces:
            return CaptureReason.EXCLUDED_NS
        if self._waiting >= MOST_WAITING:
            raise PodHeld(f"{self._waiting} other pods of this node wait to start")
        self._waiting += 1
        try:
            return await self._start(namespace, name, uid, netns)
        finally:
            self._waiting -= 1

    async def _start(self, namespace: str, name: str, uid: str, netns: str) -> str:
        if not await self._comes(lambda: self._ledger.find(namespace, name, uid) is not None, KNOWN_SECONDS):
            words = "has not told of it yet" if self._ledger.is_known else "has not answered yet"
            raise PodHeld(f"the Kubernetes API {words}")
        found = self._ledger.find(namespace, name, uid)
        assert found is not None
        uid, standing = found
        if standing is Standing.NOT_LABELLED:
            await self._confirm_not_labelled(namespace)
        if standing is not Standing.OPTED_IN:
            return standing
        place = self._place(netns)
        addresses = await asyncio.to_thread(read_addresses, place)
        if not addresses:
            raise PodHeld(f"{netns} has no address", check="Is nodeagent-cni the last plugin of its list?")
        self._hold(uid, place, tuple(sorted(addresses)))
        pod = LocalPod(namespace, name, place.path, uid)
        if not await self._comes(lambda: self._is_captured(pod), CAPTURED_SECONDS):
            raise PodHeld(self._capture.kernel_error or "it is not captured yet")
        return ""

    async def _confirm_not_labelled(self, namespace: str) -> None:
        """Raises PodHeld."""
        try:
            async with asyncio.timeout(LABELS_SECONDS):
                labels = await self._read_labels(namespace)
        except (ControlPlaneError, TimeoutError) as error:
            words = str(error) or "no answer in time"
            raise PodHeld(f"whether namespace {namespace} is of the mesh is not known: {words}") from error
        if labels is None or enrols(labels):
            raise PodHeld(f"the Kubernetes API has not told of a change of namespace {namespace} yet")

    def _is_captured(self, pod: LocalPod) -> bool:
        """The kernel is asked only when it has been told: many may wait, and each of them makes news for the others."""
        return pod in self._capture.held and pod in self._capture.captured()

    def _place(self, netns: str) -> Namespace:
        """Where this agent sees it: it has the directory at a path of its own, and /var/run is a link on most nodes."""
        place = namespace_at(str(Path(self._config.netns_dir) / PurePosixPath(netns).name))
        if place is None:
            raise PodHeld(
                f"{netns} is not seen in {self._config.netns_dir}",
                check="Where does the container runtime mount network namespaces? Name it with --netns-dir.",
            )
        return place

    async def _comes(self, condition: Callable[[], bool], seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._news.wait()
        except TimeoutError:
            return condition()
        return True
