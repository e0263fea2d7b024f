# SPDX-License-Identifier: Apache-2.0
"""The documents are true in what can be checked: links, paths, tests, commands, verbs; every file begins as it must.

What the reference says is compared by tools/make_docs.py.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from nodeagent.cli.main import COMMANDS, cli
from nodeagent.hbone.limits import Limits, Role
from nodeagent.lab.demo.tour import LAST, TOUR

ROOT = Path(__file__).resolve().parent.parent.parent
_OURS = (
    *("nodeagent", "bpf", "tests", "tools", "vagrant", "docs", "examples"),
    *("observability", "daemonset", ".ci"),
)
_GENERATED = ROOT / "nodeagent/proto"

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in _OURS for path in (ROOT / folder).rglob("*.md"))])
SOURCES = sorted(
    path for folder in _OURS for suffix in ("py", "c", "h") for path in (ROOT / folder).rglob(f"*.{suffix}")
)

_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
_PROGRAM = re.compile(r"(?:^|[\s`(])nodeagent ([a-z][a-z-]*)(.*)")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture(params=DOCUMENTS, ids=_name)
def document(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def _prose(document: Path) -> str:
    return _FENCED.sub("", document.read_text(encoding="utf-8"))


def _code_lines(document: Path) -> Iterator[str]:
    """Everything that is shown as code; a line that ends with a backslash together with the next."""
    text = document.read_text(encoding="utf-8")
    for block in _FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from _CODE.findall(_FENCED.sub("", text))


def test_the_documents_are_found() -> None:
    assert {"README.md", "ARCHITECTURE.md", "docs/reference.md", "bpf/README.md"} <= set(map(_name, DOCUMENTS))
    assert {"nodeagent/config.py", "bpf/from_pod.c", "tools/make_docs.py"} <= set(map(_name, SOURCES))


# ---- links, paths and tests --------------------------------------------------------------------------------------


def _anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = _HEADING.findall(_prose(document))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere(document: Path) -> None:
    for target in _LINK.findall(_prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        leads_to = (document.parent / path).resolve() if path else document
        assert leads_to.exists(), f"{target}: nothing is there"
        assert not anchor or anchor in _anchors(leads_to), f"{target}: no such heading"


@cache
def _tests(path: Path) -> frozenset[str]:
    """Functions, classes and `Class::function` of a test file."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return frozenset(names)


def _is_there(document: Path, path: str) -> bool:
    """Beside the document, from the root, or, for a room, from the package."""
    return any(next(iter(place.glob(path)), None) for place in (document.parent, ROOT, ROOT / "nodeagent"))


def test_every_path_that_is_named_exists(document: Path) -> None:
    for code in _CODE.findall(_prose(document)):
        path, _, name = code.partition("::")
        if not _PATH.fullmatch(path):
            continue
        if path.startswith(tuple(f"{folder}/" for folder in _OURS)) or re.search(r"\w\.(py|c|h|proto|md)$", path):
            assert _is_there(document, path.rstrip("/")), f"`{code}`: no such file"
        if name:
            assert name in _tests(ROOT / path), f"`{code}`: no such test"


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_a_document_that_a_source_names_is_here(source: Path) -> None:
    """Whoever is sent to another page must be able to open it."""
    for name in re.findall(r"(?<![\w/.*])([\w/-]+\.md)\b", source.read_text(encoding="utf-8")):
        assert _is_there(source, name), f"{name}: no such document"


def test_what_is_printed_from_the_code_is_current() -> None:
    """References, examples and the schema; `make proto` prints them anew."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools/make_docs.py", "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- commands and verbs ------------------------------------------------------------------------------------------


def _options(words: list[str]) -> set[str]:
    """Of the command that `words` begin with, and of those above it. Raises click.UsageError for no command."""
    context, command, known = click.Context(cli), cli, {"--help", "-h"}
    current: click.Command = command
    while True:
        known |= {option for parameter in current.params for option in parameter.opts}
        if not isinstance(current, click.Group) or not words:
            return known
        _, found, words = current.resolve_command(context, words)
        assert found is not None
        current = found


def test_every_command_and_flag_exists(document: Path) -> None:
    for line in _code_lines(document):
        found = _PROGRAM.search(line.split("#", maxsplit=1)[0])
        if found is None or "Usage:" in line:
            continue
        words = [found[1], *found[2].partition(" -- ")[0].split()]  # what comes behind is another program's
        flags = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert words[0] in COMMANDS, f"{line.strip()}: no such command"
        if "|" not in line and ">" not in line:
            known = _options([word for word in words if re.fullmatch(r"[a-z-]+", word) and word[0] != "-"][:2])
            assert flags <= known, f"{line.strip()}: no such flag"


def test_the_readme_names_every_command() -> None:
    told = " ".join(line for line in _code_lines(ROOT / "README.md") if "nodeagent" in line or "make" in line)
    assert set(COMMANDS) <= set(re.findall(r"[a-z-]+", told))


def test_every_command_has_an_example_of_what_it_says() -> None:
    page = (ROOT / "docs/examples.md").read_text(encoding="utf-8")
    shown = {line.split()[2] for line in page.splitlines() if line.startswith("$ nodeagent ")}
    assert shown == set(COMMANDS)
    for claim in (*(claim.words for claim in TOUR), LAST):
        assert f" ✓ {claim}  " in page, "record the demo again: python -m tests.e2e.scene"


def test_every_verb_exists(document: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in _code_lines(document):
        for used in re.findall(r"^\s*(?:sudo )?make ([a-z][a-z -]*)", line):
            assert set(used.split()) <= verbs, line


def test_contributing_names_every_verb() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for verb in re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE):
        assert verb == "help" or f"`make {verb}`" in told, verb


def test_the_limits_are_those_of_the_code() -> None:
    limits = Limits.of(Role.SERVER)
    told = re.findall(
        r"^\|[^|]*\| `(\w+)` \| (\d+) \|", (ROOT / "docs/limits.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {name: int(value) for name, value in told} == {
        name: getattr(limits, name)
        for name in limits.__struct_fields__
        if name not in {"streams_before_settings", "keeps_keys"}  # a client's own; no limit
    }


def test_decisions_are_numbered_and_short() -> None:
    numbers = []
    for part in re.split(r"^## ", (ROOT / "DECISIONS.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        numbers.append(int(heading.partition(".")[0]))
        assert len(body.strip().splitlines()) <= 15, heading
        for word in ("Question", "Options", "Choice", "Would change our mind"):
            assert f"**{word}**" in body, f"{heading}: {word}"
    assert numbers == list(range(1, len(numbers) + 1))


# ---- how files begin ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=_name)
def test_a_source_begins_with_its_licence_and_its_purpose(source: Path) -> None:
    lines = [line for line in source.read_text(encoding="utf-8").splitlines() if not line.startswith("#!")]
    if source.suffix != ".py":
        assert re.match(r"/\* SPDX-License-Identifier: \S.*\*/", lines[0])
        return
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    if source.parent != _GENERATED or source.name == "__init__.py":
        assert ast.get_docstring(ast.parse("\n".join(lines))), "a docstring says why the file exists"


# ---- the mirror --------------------------------------------------------------------------------------------------

_EXCUSED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "values: nothing to run but what their users do with them",
        "tests/unit",
        (
            "admin/state.py",
            "controlplane/objects.py",
            "hbone/error.py",
            "hbone/events.py",
            "hbone/stream.py",
            "kernel/wanted.py",
            "model/pod.py",
            "model/resolved_name.py",
            "proxy/handover.py",
            "proxy/messages.py",
            "proxy/shared.py",
            "version.py",
        ),
    ),
    (
        "system calls and netlink: only a kernel tells whether they are right",
        "tests/kernel",
        (
            "kernel/apply.py",
            "kernel/flow_table.py",
            "kernel/listeners.py",
            "kernel/preparation.py",
            "kernel/proxy_namespace.py",
            "kernel/listing.py",
            "kernel/succession.py",
            "kernel/syscall.py",
            "kernel/tcx.py",
            "kernel/watch.py",
        ),
    ),
    (
        "a connection's whole life, between real workers and pods",
        "tests/e2e/proxy",
        (
            "proxy/inbound_stream.py",
            "proxy/outbound.py",
            "proxy/plaintext.py",
            "proxy/privileges.py",
            "proxy/service.py",
            "proxy/worker.py",
        ),
    ),
    (
        "the show, which proves itself",
        "tests/e2e/test_tour.py",
        tuple(
            f"lab/demo/{name}.py"
            for name in (
                "failure_claims",
                "filters",
                "machine_claims",
                "policy_claims",
                "routing_claims",
                "processes",
                "stage",
                "stranger",
                "tour",
                "traffic_claims",
            )
        ),
    ),
    ("the page of the demo, as a browser sees it", "tests/e2e/test_page.py", ("lab/demo/page.py",)),
    ("the client's side of it", "tests/unit/lab/demo/test_application.py", ("lab/demo/client.py",)),
    ("a client in a pod's cgroup", "tests/e2e/test_flows.py", ("lab/demo/program.py",)),
    (
        "load on what is being changed",
        "tests/e2e/test_change.py",
        ("lab/demo/load.py", "lab/demo/load_process.py", "lab/demo/under_load.py"),
    ),
    (
        "places in namespaces",
        "tests/e2e/test_lab.py",
        ("lab/bridged.py", "lab/link.py", "lab/namespaces.py", "lab/netlink.py", "lab/routed.py", "lab/wire.py"),
    ),
    ("how every command's help ends", "tests/unit/cli/test_main.py", ("cli/command.py",)),
    ("who may have which identity", "tests/unit/controlplane/test_ca.py", ("controlplane/authorize.py",)),
    ("whose token it is", "tests/unit/controlplane/test_token.py", ("controlplane/gate.py",)),
    (
        "what a stream is sent of a snapshot",
        "tests/unit/controlplane/test_delta.py",
        ("controlplane/ondemand.py", "controlplane/snapshot.py"),
    ),
    (
        "one kind of object each, of one reader",
        "tests/unit/controlplane/test_parse.py",
        (
            "controlplane/fields.py",
            "controlplane/finding.py",
            "controlplane/parse_config_map.py",
            "controlplane/parse_mesh.py",
            "controlplane/parse_pod.py",
            "controlplane/parse_service.py",
        ),
    ),
    (
        "entries and Gateways, of one reader",
        "tests/unit/controlplane/test_parse_entry.py",
        (
            "controlplane/entry_spec.py",
            "controlplane/gateway_spec.py",
            "controlplane/parse_gateway.py",
            "controlplane/parse_selector.py",
        ),
    ),
    ("rules of a policy", "tests/unit/controlplane/test_parse_policy.py", ("controlplane/parse_rule.py",)),
    (
        "half of a translation",
        "tests/unit/controlplane/test_translate.py",
        ("controlplane/surroundings.py", "controlplane/workloads.py"),
    ),
    (
        "a part of what is found when objects are seen together",
        "tests/unit/controlplane/test_analyze.py",
        (
            "controlplane/analyze_kubernetes.py",
            "controlplane/analyze_policies.py",
            "controlplane/analyze_ports.py",
            "controlplane/analyze_shadows.py",
            "controlplane/view.py",
        ),
    ),
    (
        "objects as they are written",
        "tests/unit/controlplane/test_analyze_routing.py",
        ("controlplane/analyze_registry.py", "controlplane/analyze_sidecars.py", "controlplane/written.py"),
    ),
)
"""Why a module has no test file of its own name, where it is tested, and which modules."""

_MODULES = {
    str(path.relative_to(ROOT / "nodeagent"))
    for path in (ROOT / "nodeagent").rglob("*.py")
    if path.name != "__init__.py" and path.parent != _GENERATED
} | {f"vagrant/{path.name}" for path in (ROOT / "vagrant").glob("*.py") if path.name != "__init__.py"}
_SECOND_FILES = {
    "tests/unit/cli/test_forms.py": "every command in every form of -o, whichever module has it",
    "tests/unit/hbone/test_conformance.py": "the RFC's rules in one table, whichever module keeps them",
    "tests/unit/tls/test_openssl.py": "a peer that changes keys, pads and fragments, beside Python's ssl",
    "tests/unit/proxy/test_kernel_openssl.py": "the same peer against records of the kernel",
    "tests/unit/policy/test_evaluate_recorded.py": "policies of a real istiod, beside the tables",
    "tests/unit/controlplane/test_istiod_equality.py": "recordings of a real istiod, beside the rules",
    "tests/unit/daemonset/test_cni.py": "C, no module",
    "tests/unit/daemonset/test_manifests.py": "YAML, no module",
    "tests/unit/daemonset/test_policy.py": "a linter of YAML, no module",
    "tests/unit/daemonset/test_supervise.py": "C, no module",
    "tests/unit/tools/test_make_lane.py": "a tool, and sanitizers of what it makes",
    "tests/unit/vagrant/test_vagrantfile.py": "Ruby and shell, beside the runner",
}


def _mirror(module: str) -> Path:
    path = ROOT / "tests/unit" / module
    return path.with_name(f"test_{path.name}")


def test_each_module_has_its_test_file_or_a_reason() -> None:
    excused = {module for _, _, modules in _EXCUSED for module in modules}
    missing = {module for module in _MODULES if not _mirror(module).exists()}
    assert missing - excused == set(), "write tests/unit/<room>/test_<module>.py, or give a reason in _EXCUSED"
    assert excused - missing == set(), "no reason is needed any more: remove it from _EXCUSED"


def test_each_test_file_has_its_module() -> None:
    for path in (ROOT / "tests/unit").rglob("test_*.py"):
        module = str(path.relative_to(ROOT / "tests/unit").with_name(path.name.removeprefix("test_")))
        assert module in {*_MODULES, "documents.py"} or _name(path) in _SECOND_FILES, _name(path)


@pytest.mark.parametrize(("reason", "where", "modules"), _EXCUSED)
def test_what_is_excused_is_tested_where_it_is_said(reason: str, where: str, modules: tuple[str, ...]) -> None:
    assert reason
    assert modules
    assert (ROOT / where).exists()
