# SPDX-License-Identifier: Apache-2.0
"""Enrolment in Kubernetes: names the capture this node's pods, and tells the API which of them are captured.

    pods and namespaces of the API -> candidates -> network namespaces -> capture -> annotation

Two tasks besides the ones that follow the API: one finds namespaces, one writes annotations, so that an API server that
is slow to take a patch delays nobody's capture. Who was found is also on disk: an agent that starts while the API is
away goes on with those, and with nobody new.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlencode

import msgspec

from nodeagent.agent.capture import Capture
from nodeagent.agent.enrolment import Claim, LocalPods
from nodeagent.agent.pod_starts import PodStarts
from nodeagent.config import Config
from nodeagent.errors import ControlPlaneError, KernelError
from nodeagent.kernel.pod_namespaces import Namespace, Unknown, assign, look, namespace_at
from nodeagent.kubernetes.api import ApiRefused, ApiServer
from nodeagent.kubernetes.follow import Follower
from nodeagent.kubernetes.node_pods import Candidate, NodePods, Patch
from nodeagent.kubernetes.objects import read_page
from nodeagent.kubernetes.reflector import Change, Reflector, Replaced
from nodeagent.model.address import Ip
from nodeagent.model.pod import CaptureReason, LocalPod
from nodeagent.upstream.backoff import delay

FILE_NAME = "kubernetes-pods.json"
FIRST_LOOK_SECONDS = 0.2
LONGEST_LOOK_SECONDS = 10.0
"""Between looks for namespaces that are not found; netlink tells of new ones at once, where it can."""
FIRST_PATCH_SECONDS = 0.5
LONGEST_PATCH_SECONDS = 30.0
_OUTDATED = frozenset({404, 409, 422})
"""A patch is refused with these when the pod has gone or is another one: the watch is about to tell."""

_NAMESPACES = "/api/v1/namespaces"

log = logging.getLogger(__name__)


class FoundPod(msgspec.Struct, frozen=True):
    """Of the file."""

    pod: LocalPod
    inode: int
    addresses: tuple[Ip, ...]
    is_wanted: bool
    is_held: bool = False


class Found(msgspec.Struct, frozen=True):
    """The file."""

    pods: tuple[FoundPod, ...]
    pods_version: str
    """Of what the API had told by then (resourceVersion)."""
    namespaces_version: str


class KubernetesPods:
    def __init__(self, config: Config, capture: Capture, api: ApiServer | None = None) -> None:
        self._config, self._capture = config, capture
        self._api = api or ApiServer(
            config.kubernetes_host, config.kubernetes_port, config.kubernetes_ca, config.kubernetes_token
        )
        self._ledger = NodePods(config.node, config.excluded_namespaces)
        self.starts = PodStarts(config, self._ledger, capture, self._hold, self._read_labels)
        self._of_pods = Reflector("/api/v1/pods", fieldSelector=f"spec.nodeName={config.node}")
        self._of_namespaces = Reflector(_NAMESPACES)
        self._followers = (
            Follower(self._api, self._of_pods, self._pods_changed),
            Follower(self._api, self._of_namespaces, self._namespaces_changed),
        )
        self._found: dict[str, Namespace] = {}
        """By uid."""
        self._lost: dict[str, bytes] = {}
        """What the kubelet had reported of pods when the namespace that they had was gone."""
        self._written: dict[str, str | None] = {}
        """By uid: what was written, until the watch tells anything of that pod. The answer to a patch is no news: it
        may be older than what the watch has told."""
        self._leaves_at: dict[str, float] = {}
        """By uid, of pods that opted out and are not announced any more, in seconds of the monotonic clock."""
        self._path = Path(config.run_dir) / FILE_NAME
        self._local: LocalPods | None = None
        self._started = time.time()
        self._look, self._write = asyncio.Event(), asyncio.Event()
        self._looks = self._patch_failures = 0
        self._next_look: asyncio.TimerHandle | None = None
        self._netns_error = self._patch_error = self._file_error = ""
        capture.settled = self._settled

    # ---- what is asked of it ---------------------------------------------------------------------------------------

    @property
    def error(self) -> str:
        """Why enrolment is not what it should be; empty when all is well."""
        errors = (*(follower.error for follower in self._followers), self._netns_error, self._patch_error)
        return next(filter(None, (*errors, self._file_error)), "")

    @property
    def since(self) -> float:
        """Since when this is so, Unix seconds."""
        return max((follower.since for follower in self._followers), default=0.0) or self._started

    def described(self) -> str:
        if not self._ledger.is_known:
            return f"{self._api.name} has not answered yet"
        return f"following {self._api.name}; {len(self._found)} pods with a network namespace"

    def look_again(self) -> None:
        """The node's devices have changed."""
        self._looks = 0
        self._look.set()

    async def run(self) -> None:
        self._restore()
        async with asyncio.TaskGroup() as tasks:
            for follower in self._followers:
                tasks.create_task(follower.run(), name="kubernetes api")
            tasks.create_task(self._keep_found(), name="kubernetes pods")
            tasks.create_task(self._keep_written(), name="kubernetes annotations")

    # ---- news --------------------------------------------------------------------------------------------------------

    def _pods_changed(self, change: Change) -> None:
        if isinstance(change, Replaced):
            self._written = {}
        else:
            self._written.pop(change.object.metadata.uid, None)
        self._ledger.pods_changed(change)
        self._news()

    def _namespaces_changed(self, change: Change) -> None:
        self._ledger.namespaces_changed(change)
        self._news()

    def _settled(self) -> None:
        """The capture may have let go who was leaving, and captured who is to be annotated."""
        self._look.set()
        self._write.set()
        self.starts.news()

    def _hold(self, uid: str, namespace: Namespace, addresses: tuple[Ip, ...]) -> None:
        """Of a pod that is about to start: where, as the runtime says it."""
        self._found[uid] = namespace
        self._lost.pop(uid, None)
        self._ledger.hold(uid, addresses)
        self._look.set()

    async def _read_labels(self, namespace: str) -> Mapping[str, str] | None:
        """By a list, for which the agent has a right, of one; without a resourceVersion it is of this moment."""
        query = urlencode({"fieldSelector": f"metadata.name={namespace}"})
        items = read_page(await self._api.fetch(f"{_NAMESPACES}?{query}")).items or ()
        return next((one.labels for one in items if one.metadata.name == namespace), None)

    def _news(self) -> None:
        self._looks = 0
        self._look.set()
        self._write.set()
        self.starts.news()

    # ---- namespaces --------------------------------------------------------------------------------------------------

    async def _keep_found(self) -> None:
        while True:
            await self._look.wait()
            self._look.clear()
            if not self._ledger.is_known:
                continue
            try:
                is_complete = await self._find()
            except KernelError as error:
                is_complete = False
                if str(error) != self._netns_error:
                    log.error("%s. %s", error, error.check)
                self._netns_error = str(error)
            else:
                self._netns_error = ""
            if self._next_look is not None:
                self._next_look.cancel()
            if not is_complete:
                self._looks += 1
                pause = delay(self._looks, FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS, random.random)
                self._next_look = asyncio.get_running_loop().call_later(pause, self._look.set)

    async def _find(self) -> bool:
        """False when a pod that should have a namespace has none yet. Raises KernelError."""
        held = {pod.uid for pod in self._capture.held}
        candidates = {one.uid: one for one in self._ledger.candidates(held)}
        left_out = self._ledger.left_out(held)
        self._let_go(candidates)
        unknown = await self._search(candidates, self._ledger.bystanders(held))
        for uid, reason in unknown.items():
            left_out[candidates[uid].namespace, candidates[uid].name] = reason
        self._tell(candidates, left_out)
        return not any(not candidates[uid].is_terminating for uid in unknown)

    def _let_go(self, candidates: Mapping[str, Candidate]) -> None:
        """Namespaces that have gone, and those of pods that are no candidates any more."""
        kept = {uid: one for uid, one in self._found.items() if uid in candidates and namespace_at(one.path) == one}
        for uid in candidates.keys() & self._found.keys() - kept.keys():
            self._lost[uid] = candidates[uid].status
            self._ledger.release(uid)
        self._leaves_at = {uid: at for uid, at in self._leaves_at.items() if uid in candidates}
        self._lost = {uid: status for uid, status in self._lost.items() if uid in candidates}
        self._found = kept

    async def _search(
        self, candidates: Mapping[str, Candidate], bystanders: Mapping[str, tuple[Ip, ...]]
    ) -> dict[str, str]:
        """Finds namespaces of those who have none; who has none afterwards, and why.

        A pod that is being deleted gets none any more, and one that has lost its own gets another when the kubelet has
        reported anything new of it: until then its address may have passed to a pod of which nothing is told yet.
        """
        missing = {uid: one for uid, one in candidates.items() if uid not in self._found}
        unknown: dict[str, str] = {
            uid: CaptureReason.TERMINATING if one.is_terminating else CaptureReason.NO_NETNS
            for uid, one in missing.items()
        }
        wanted = {
            uid: one.addresses
            for uid, one in missing.items()
            if not one.is_terminating and self._lost.get(uid) != one.status
        }
        if wanted:
            others = {**{uid: candidates[uid].addresses for uid in self._found}, **bystanders}
            addresses = frozenset(ip for ips in wanted.values() for ip in ips)
            taken = frozenset(self._found.values())
            seen = await asyncio.to_thread(look, self._config.netns_dir, addresses, taken)
            for uid, found in assign(wanted, others, seen).items():
                if uid in self._found:  # held meanwhile
                    del unknown[uid]
                elif isinstance(found, Unknown):
                    unknown[uid] = found.reason
                else:
                    self._found[uid] = found
                    del unknown[uid]
        return unknown

    def _is_wanted(self, pod: Candidate) -> bool:
        """Also for a while after its peers were told: each of them hears it at another moment."""
        if pod.is_opted_in or pod.is_announced:
            self._leaves_at.pop(pod.uid, None)
            return True
        now, wait = time.monotonic(), self._config.drain_seconds
        if pod.uid not in self._leaves_at:
            self._leaves_at[pod.uid] = now + wait
            asyncio.get_running_loop().call_later(wait, self._look.set)
        return now < self._leaves_at[pod.uid]

    def _tell(self, candidates: Mapping[str, Candidate], left_out: Mapping[tuple[str, str], str]) -> None:
        rows = tuple(
            FoundPod(
                LocalPod(one.namespace, one.name, self._found[uid].path, uid),
                self._found[uid].inode,
                one.addresses,
                self._is_wanted(one),
                self._ledger.is_held(uid),
            )
            for uid, one in sorted(candidates.items())
            if uid in self._found
        )
        local = _local_pods(rows, left_out)
        if local != self._local:
            self._local = local
            self._save(rows)
            self._capture.local_pods_changed(local)

    def _restore(self) -> None:
        """What a predecessor had found goes on, as far as it is still there."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=Found)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            log.warning("%s cannot be read, so pods are captured when the API has answered: %s", self._path, error)
            return
        self._of_pods.begin_at(found.pods_version)
        self._of_namespaces.begin_at(found.namespaces_version)
        self._found = {row.pod.uid: Namespace(row.pod.netns, row.inode) for row in found.pods}
        living = [row for row in found.pods if namespace_at(row.pod.netns) == self._found[row.pod.uid]]
        for row in living:
            if row.is_held:
                self._ledger.hold(row.pod.uid, row.addresses)
        self._capture.local_pods_changed(_local_pods(living, {}))

    def _save(self, rows: tuple[FoundPod, ...]) -> None:
        aside = self._path.with_suffix(".partial")
        try:
            with open(aside, "wb", opener=_for_owner_alone) as file:
                file.write(msgspec.json.encode(Found(rows, self._of_pods.last, self._of_namespaces.last)))
            aside.replace(self._path)
        except OSError as error:
            self._file_error = f"{self._path}: {error.strerror}"
            log.error("%s; a restart while the API is away would capture nobody", self._file_error)
        else:
            self._file_error = ""

    # ---- annotations -------------------------------------------------------------------------------------------------

    async def _keep_written(self) -> None:
        while True:
            await self._write.wait()
            self._write.clear()
            if not self._ledger.is_known or not self._capture.is_settled:
                continue
            captured = {pod.uid for pod in self._capture.captured()}
            pause = 0.0
            for patch in self._ledger.patches(captured):
                if self._written.get(patch.uid, "") == patch.value:
                    continue
                pause = max(pause, await self._patch(patch))
            if pause:
                self._write.set()  # again then, with what is true by then
                await asyncio.sleep(pause)
            else:
                self._patch_failures, self._patch_error = 0, ""

    async def _patch(self, patch: Patch) -> float:
        """Seconds to wait before it is tried again; 0 when it is written."""
        self._written[patch.uid] = patch.value  # before it is: the watch may tell of what came after it first
        try:
            await self._api.patch(patch.target, patch.body)
        except ControlPlaneError as error:
            self._written.pop(patch.uid, None)
            is_outdated = isinstance(error, ApiRefused) and error.status in _OUTDATED
            if not is_outdated and str(error) != self._patch_error:
                log.warning("annotating %s/%s: %s. %s", patch.namespace, patch.name, error, error.check)
            self._patch_error = "" if is_outdated else str(error)
            self._patch_failures += 1
            pause = delay(self._patch_failures, FIRST_PATCH_SECONDS, LONGEST_PATCH_SECONDS, random.random)
            return max(pause, error.retry_seconds) if isinstance(error, ApiRefused) else pause
        said = "is captured" if patch.value else "leaves the mesh"
        log.info("annotated %s/%s: it %s", patch.namespace, patch.name, said)
        return 0.0


def _local_pods(rows: Iterable[FoundPod], left_out: Mapping[tuple[str, str], str]) -> LocalPods:
    rows = tuple(rows)
    return LocalPods(
        tuple(row.pod for row in rows),
        {row.pod: Claim(frozenset(row.addresses), row.is_wanted, row.is_held) for row in rows},
        dict(left_out),
    )


def _for_owner_alone(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
