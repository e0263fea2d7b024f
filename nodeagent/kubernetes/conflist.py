# SPDX-License-Identifier: Apache-2.0
"""Lists of CNI plugins: which one a node uses, and ours in it. Pure.

Ours stands behind all that were there, since it asks about a network that is made. Whoever comes after it later may
stay there: two who both insist on the last place would write for ever.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nodeagent.errors import ConfigError

PLUGIN = "nodeagent-cni"
SUFFIXES = (".conf", ".conflist", ".json")
"""Of files that container runtimes read; of several the first by name is in force."""
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Of the CNI specification, as the plugin speaks them (VERSIONS in daemonset/cni.c)."""
Entry = Mapping[str, object]


class BadConflist(ConfigError):
    check = "It has to be a list of CNI plugins, a JSON object with an array `plugins`, whose name ends with .conflist."


def make_entry(socket: str, excluded: Iterable[str]) -> Entry:
    """`socket`: of this node's agent. `excluded`: names of namespaces whose pods start without asking it."""
    return {"type": PLUGIN, "socket": socket, "excludeNamespaces": sorted(excluded)}


def in_force(names: Iterable[str]) -> str | None:
    """Of the files of a directory."""
    return min((name for name in names if name.endswith(SUFFIXES)), default=None)


def with_plugin(text: bytes, entry: Entry) -> bytes:
    """`text` itself when the entry is there already. Raises BadConflist."""
    found, plugins = _read(text)
    _check_version(found)
    if [one for one in plugins if _is_ours(one)] == [entry]:
        return text
    others = [one for one in plugins if not _is_ours(one)]
    if not others:
        raise BadConflist("a list without plugins")
    return _write({**found, "plugins": [*others, entry]})


def without_plugin(text: bytes) -> bytes:
    """`text` itself when there is none of ours. Raises BadConflist."""
    found, plugins = _read(text)
    others = [one for one in plugins if not _is_ours(one)]
    return text if others == plugins else _write({**found, "plugins": others})


def _check_version(found: Mapping[str, Any]) -> None:
    """By a list of another one no pod would start. Raises BadConflist."""
    several = found.get("cniVersions", [])
    for version in (found.get("cniVersion"), *(several if isinstance(several, list) else [several])):
        if version not in VERSIONS:
            raise BadConflist(
                f"CNI version {version!r}",
                check=f"{PLUGIN} speaks {VERSIONS[0]} to {VERSIONS[-1]}: name one of them as the list's cniVersion.",
            )


def _is_ours(plugin: object) -> bool:
    return isinstance(plugin, dict) and plugin.get("type") == PLUGIN


def _read(text: bytes) -> tuple[dict[str, Any], list[object]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConflist(f"not JSON: {error}") from error
    plugins = found.get("plugins") if isinstance(found, dict) else None
    if not isinstance(plugins, list):
        raise BadConflist("one plugin, and no list of them")
    return found, plugins


def _write(found: Mapping[str, object]) -> bytes:
    """In ASCII: half a surrogate pair, which JSON can spell, has no other encoding. Raises BadConflist."""
    try:
        return json.dumps(found, indent=2, allow_nan=False).encode("ascii") + b"\n"
    except (ValueError, RecursionError) as error:
        raise BadConflist(f"it cannot be written again: {error}") from error
