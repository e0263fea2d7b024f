# SPDX-License-Identifier: Apache-2.0
"""What is missing is marked, with what to do; what is only useful does not fail the machine."""

import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nodeagent.certs.chain import NOT_YET
from nodeagent.model.mark import DEFAULT_MARKS, Marks
from tests.unit.cli.test_forms import validate

Call = Callable[..., tuple[int, str, str]]


@dataclass(frozen=True)
class Probe:
    name: str
    ok: bool
    evidence: str
    advice: str = ""
    is_needed: bool = True


_GOOD = Probe("kernel", ok=True, evidence="Linux 6.1", advice="Linux 5.10 or newer is needed.")
_MISSING = Probe("bpffs", ok=False, evidence="no bpffs is mounted at /x", advice="mount -t bpf bpf /x")
_TLS = Probe("ktls", ok=True, evidence="with new keys", is_needed=False)
_USEFUL = Probe("cgroup2", ok=False, evidence="not mounted", advice="mount it", is_needed=False)

_BEARER = "✓ token          /var/run/secrets/tokens/istio-token False"


Asked = list[tuple[str, Marks, str]]


@pytest.fixture
def asked() -> Asked:
    return []


@pytest.fixture
def folders() -> list[str]:
    return []


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch, asked: Asked, folders: list[str]) -> list[Probe]:
    found: list[Probe] = []

    def probe_all(bpffs: str, marks: Marks, *, cgroup: str, netns_dir: str, ports: dict[str, str]) -> list[Probe]:
        folders.append(netns_dir)
        assert list(ports) == ["stats-address", "ready-address", "admin-address"]
        asked.append((bpffs, marks, cgroup))
        return [*found]

    def probe_before(bpffs: str, marks: Marks, *, cgroup: str, netns_dir: str, ports: dict[str, str]) -> list[Probe]:
        folders.append(netns_dir)
        return [Probe("before", ok=True, evidence=f"{bpffs} {marks.base:#x} {cgroup} {ports['stats-address']}")]

    def probe_node(bpffs: str, marks: Marks) -> list[Probe]:
        return [Probe("node", ok=True, evidence=f"{bpffs} {marks.base:#x}")]

    module = types.SimpleNamespace(probe_all=probe_all, probe_before=probe_before, probe_node=probe_node)
    monkeypatch.setitem(sys.modules, "nodeagent.kernel.survey", module)
    tls = types.SimpleNamespace(kernel_tls=lambda: _TLS)
    monkeypatch.setitem(sys.modules, "nodeagent.agent.tls_probe", tls)

    def token(path: str, *, is_expected: bool, now: float) -> Probe:
        assert now > 0
        return Probe("token", ok=True, evidence=f"{path} {is_expected}")

    monkeypatch.setitem(sys.modules, "nodeagent.agent.token_probe", types.SimpleNamespace(token=token))
    return found


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        pytest.param(
            [_GOOD, _USEFUL],
            0,
            "✓ kernel         Linux 6.1\n"
            "! cgroup2        not mounted\n"
            "                 mount it\n"
            "✓ ktls           with new keys\n"
            f"{_BEARER}\n"
            "this machine can run the agent\n",
            id="able",
        ),
        pytest.param(
            [_GOOD, _MISSING],
            1,
            "✓ kernel         Linux 6.1\n"
            "✗ bpffs          no bpffs is mounted at /x\n"
            "                 mount -t bpf bpf /x\n"
            "✓ ktls           with new keys\n"
            f"{_BEARER}\n"
            "this machine cannot run the agent as it is\n",
            id="not able",
        ),
    ],
)
def test_check(call: Call, probes: list[Probe], found: list[Probe], status: int, said: str) -> None:
    probes += found
    assert call("check", "--bpffs", "/x") == (status, said, "")


@pytest.mark.usefixtures("probes")
def test_it_looks_for_what_the_agent_was_told(call: Call, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("check", "--bpffs", "/x")[0] == 0
    assert call("check", "--cgroup", "/y", "--mark", "0x100000", "--mark-mask", "1048832")[0] == 2, "no room for four"
    assert call("check", "--cgroup", "/y", "--mark", "0x100000", "--mark-mask", "1048583")[0] == 0
    monkeypatch.setenv("NODEAGENT_MARK", "0x100")
    monkeypatch.setenv("NODEAGENT_MARK_MASK", "0x107")
    assert call("check", "--bpffs", "/x")[0] == 0
    assert asked == [
        ("/x", DEFAULT_MARKS, ""),
        ("/sys/fs/bpf", Marks(0x100000, 0x100007), "/y"),
        ("/x", Marks(0x100, 0x107), ""),
    ]


def test_json(call: Call, probes: list[Probe]) -> None:
    probes += [_MISSING]
    status, out, _ = call("check", "--bpffs", "/x", "-o", "json")
    assert status == 1
    assert json.loads(out) == {
        "schema": "nodeagent/v1",
        "ok": False,
        "checks": [
            {
                "id": "bpffs",
                "name": "bpffs",
                "ok": False,
                "evidence": "no bpffs is mounted at /x",
                "advice": "mount -t bpf bpf /x",
                "is_needed": True,
                "docs": "docs/checks.md#bpffs",
            },
            {
                "id": "ktls",
                "name": "ktls",
                "ok": True,
                "evidence": "with new keys",
                "advice": "",
                "is_needed": False,
                "docs": "docs/checks.md#ktls",
            },
            {
                "id": "token",
                "name": "token",
                "ok": True,
                "evidence": "/var/run/secrets/tokens/istio-token False",
                "advice": "",
                "is_needed": True,
                "docs": "docs/checks.md#token",
            },
        ],
    }


def test_wide_has_the_place_of_each(call: Call, probes: list[Probe]) -> None:
    probes += [_MISSING]
    assert call("check", "--bpffs", "/x", "-o", "wide")[1].splitlines() == [
        "✗ bpffs          no bpffs is mounted at /x",
        "                 mount -t bpf bpf /x",
        "                 docs/checks.md#bpffs",
        "✓ ktls           with new keys",
        "                 docs/checks.md#ktls",
        _BEARER,
        "                 docs/checks.md#token",
        "this machine cannot run the agent as it is",
    ]


def test_one_is_explained_without_checking_anything(call: Call) -> None:
    status, out, err = call("check", "--explain", "agent-xds")
    assert (status, err) == (0, "")
    assert out.startswith("## agent-xds\n")
    assert "**What to do** " in out
    status, out, err = call("check", "--explain", "xyz")
    assert (status, out) == (2, "")
    assert "there is no check 'xyz'" in err


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(
            ["--pre", "--stats-address", "[::]:99"],
            [
                "✓ before         /x 0x1000  [::]:99",
                "✓ ktls           with new keys",
                _BEARER,
                "this machine can run the agent",
            ],
            id="before there is an agent",
        ),
        pytest.param(["--setup"], ["✓ node           /x 0x1000", "nothing that is needed is missing"], id="setup"),
        pytest.param(
            ["--pre", "--setup"],
            ["✓ ktls           with new keys", _BEARER, "this machine can run the agent"],
            id="both",
        ),
    ],
)
def test_a_part_of_it(call: Call, flags: list[str], said: list[str]) -> None:
    status, out, err = call("check", "--bpffs", "/x", *flags)
    assert (status, out.splitlines(), err) == (0, said, "")


@pytest.mark.parametrize(("state", "status", "sign"), [("ok", 0, "✓"), ("degraded", 0, "!"), ("failed", 1, "✗")])
def test_the_agent_itself(call: Call, agent: dict[str, object], state: str, status: int, sign: str) -> None:
    row = {"component": "redirect", "state": state, "since": "", "age_seconds": 1.0, "detail": "2/3 pods captured"}
    agent["/status"] = {"components": [row]}
    agent["/certs"] = {"certificates": []}
    found, out, _ = call("check", "--proxy")
    assert found == status
    assert out.startswith(f"{sign} redirect       2/3 pods captured\n")
    assert ("nodeagent pods" in out) is (state != "ok")
    row, *_ = json.loads(call("check", "--proxy", "-o", "json")[1])["checks"]
    validate({"schema": "nodeagent/v1", "ok": state != "failed", "checks": [row]}, "Checks")
    assert (row["id"], row["docs"]) == ("agent-redirect", "docs/checks.md#agent-redirect")


@pytest.mark.parametrize(("days", "sign"), [(59, "!"), (61, "✓")])
def test_a_root_that_ends_soon(call: Call, agent: dict[str, object], days: int, sign: str) -> None:
    def root(name: str, days: int) -> dict[str, object]:
        ends = {"expires_in_seconds": days * 86400, "not_after": "2026-03-01T00:00:00Z", "valid": days > 0}
        return {"name": name, "type": "Root", "last_error": "", **ends}

    agent["/status"] = {"components": []}
    leaf = {**root("spiffe://x", 0), "type": "Leaf"}
    agent["/certs"] = {"certificates": [leaf, root("CN=late", 3000), root("CN=soon", days)]}
    status, out, _ = call("check", "--proxy", "-o", "wide")
    assert status == 0, "it still works"
    assert out.startswith(f"{sign} roots          CN=soon ends 2026-03-01T00:00:00Z\n")
    assert "docs/checks.md#roots" in out


_FINE = {"name": "spiffe://x", "type": "Leaf", "valid": True, "expires_in_seconds": 9, "last_error": ""}
_LATER = {"not_before": "2026-03-01T00:00:00Z", "valid": False}
_ROOT = {"type": "Root", "not_after": "2036-03-01T00:00:00Z", "expires_in_seconds": 1 << 30}
_REFUSED = {"last_error": f"spiffe://x: the CA's certificate {NOT_YET} 2026-03-01T00:00:00Z only"}


@pytest.mark.parametrize(
    ("row", "sign", "evidence"),
    [
        pytest.param({}, "✓", "no certificate begins later than now", id="well"),
        pytest.param({"last_error": "no answer"}, "✓", "no certificate begins later than now", id="another trouble"),
        pytest.param({"valid": False, "expires_in_seconds": 0}, "✓", "no certificate begins later", id="there is none"),
        pytest.param(_LATER, "✗", "spiffe://x begins at 2026-03-01T00:00:00Z", id="the clock was set back"),
        pytest.param({**_LATER, **_ROOT}, "✓", "no certificate begins later", id="a root is made ahead"),
        pytest.param(_REFUSED, "!", _REFUSED["last_error"], id="refused, another is in use"),
        pytest.param({**_REFUSED, "valid": False, "expires_in_seconds": 0}, "✗", _REFUSED["last_error"], id="refused"),
    ],
)
def test_a_clock_that_is_behind(
    call: Call, agent: dict[str, object], row: dict[str, object], sign: str, evidence: str
) -> None:
    agent["/status"] = {"components": []}
    agent["/certs"] = {"certificates": [{**_FINE, **row}]}
    status, out, _ = call("check", "--proxy")
    assert status == (1 if sign == "✗" else 0)
    assert f"\n{sign} clock          {evidence}" in out


@pytest.mark.usefixtures("probes")
@pytest.mark.parametrize(
    ("flags", "folder", "told"),
    [
        pytest.param(["--netns-dir", "/y"], "", "/var/run/secrets/tokens/istio-token False", id="without the API"),
        pytest.param(
            ["--kubernetes", "on", "--pre"], "/run/netns", "/var/run/secrets/tokens/istio-token True", id="with it"
        ),
        pytest.param(["--kubernetes", "on", "--netns-dir", "/y", "--token", "t"], "/y", "t True", id="at other places"),
        pytest.param(["--token", "t"], "", "t True", id="a token is named"),
    ],
)
def test_what_an_agent_is_known_to_use(
    call: Call, folders: list[str], flags: list[str], folder: str, told: str
) -> None:
    status, out, _ = call("check", *flags)
    assert (status, folders) == (0, [folder])
    assert f"✓ token          {told}\n" in out


def test_without_an_agent(call: Call, agent: dict[str, object]) -> None:
    del agent
    assert call("check", "--proxy")[0] == 3


@pytest.mark.usefixtures("probes")
def test_an_address_that_is_none(call: Call) -> None:
    status, _, err = call("check", "--ready-address", "here")
    assert status == 2
    assert "--ready-address" in err
    assert call("check", "--ready-address", "")[0] == 0
