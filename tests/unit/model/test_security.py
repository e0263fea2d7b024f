# SPDX-License-Identifier: Apache-2.0
"""Extensions of security: which dry runs are about whom, what several lists say together, and that all of it can go."""

import msgspec
import pytest

from nodeagent.model.mesh import Changes, Mesh
from nodeagent.model.policy import Action, Policy, PolicyScope
from nodeagent.model.security import DryRun, Revocations, TrustDomains
from nodeagent.model.traffic import Extension, WorkloadLabels
from nodeagent.model.workload import Workload

DB = Workload(uid="db", name="db", namespace="shop")
OTHER = Workload(uid="other", name="other", namespace="office")


def dry_run(name: str, *, namespace: str = "shop", selector: dict[str, str] | None = None) -> DryRun:
    policy = Policy(name=name, namespace="shop", scope=PolicyScope.NAMESPACE, action=Action.DENY, is_dry_run=True)
    return DryRun(policy=policy, namespace=namespace, selector=selector or {})


def names(mesh: Mesh, workload: Workload) -> list[str]:
    return [policy.name for policy in mesh.dry_runs_for(workload)]


EVERYTHING: tuple[Extension, ...] = (
    dry_run("a", selector={"app": "db"}),
    TrustDomains(domains=frozenset({"one", "two"})),
    Revocations(source="file", certificates=frozenset({b"x" * 32})),
)


def test_names_tell_kinds_apart() -> None:
    assert [one.name for one in EVERYTHING] == ["dry-run/shop/a", "trust-domains", "revocations/file"]


def test_a_change_arrives_as_it_was_sent() -> None:
    changes = Changes(extensions=EVERYTHING)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(changes), type=Changes) == changes


@pytest.mark.parametrize(
    ("about", "workload", "is_about"),
    [
        (dry_run("a"), DB, True),
        (dry_run("a"), OTHER, False),
        (dry_run("a", namespace=""), OTHER, True),
        (dry_run("a", selector={"app": "db"}), DB, True),
        (dry_run("a", selector={"app": "web"}), DB, False),
        (dry_run("a", namespace="", selector={"app": "db"}), DB, True),
        (dry_run("a", namespace="", selector={"app": "db"}), OTHER, False),
    ],
)
def test_a_dry_run_is_about_a_namespace_or_everybody_by_labels(
    about: DryRun, workload: Workload, *, is_about: bool
) -> None:
    mesh = Mesh()
    mesh.apply(Changes(extensions=(about, WorkloadLabels(uid="db", labels={"app": "db", "version": "v1"}))))
    assert names(mesh, workload) == (["a"] if is_about else [])


def test_what_is_replaced_or_removed_is_gone() -> None:
    mesh = Mesh()
    mesh.apply(Changes(extensions=(*EVERYTHING, dry_run("b"))))
    mesh.apply(Changes(extensions=(dry_run("b", namespace=""), dry_run("a"))))
    assert sorted(names(mesh, DB)) == ["a", "b"]
    assert names(mesh, OTHER) == ["b"]
    mesh.apply(Changes(removed_extensions=tuple(mesh.extensions)))
    assert (names(mesh, DB), names(mesh, OTHER)) == ([], [])
    assert (mesh.security.trust_domains, mesh.security.revoked) == (frozenset(), frozenset())
    assert mesh.policy_named("shop/a") is None


def test_lists_of_several_sources_hold_together() -> None:
    mesh = Mesh()
    one, other = (Revocations(source=source, certificates=frozenset({source.encode() * 32})) for source in "xy")
    mesh.apply(Changes(extensions=(one, other)))
    assert mesh.security.revoked == {b"x" * 32, b"y" * 32}
    mesh.apply(Changes(removed_extensions=(one.name,)))
    assert mesh.security.revoked == {b"y" * 32}


def test_one_in_force_goes_before_a_dry_run_of_its_name() -> None:
    mesh, about = Mesh(), dry_run("a")
    mesh.apply(Changes(extensions=(about,)))
    assert mesh.policy_named("shop/a") is about.policy
    enforced = msgspec.structs.replace(about.policy, is_dry_run=False)
    mesh.apply(Changes(policies=(enforced,)))
    assert mesh.policy_named("shop/a") is enforced
