# SPDX-License-Identifier: Apache-2.0

"""A wheel has the compiled hot path in it if this machine can compile it; a checkout's is made by the Makefile."""

import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

sys.path.insert(0, str(Path(__file__).parent / "tools"))
import make_lane


class CompiledLane(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        try:
            make_lane.compile_lane()
        except make_lane.CannotCompile as error:
            self.app.display_warning(f"workers will carry payload in Python, slower: {error}")
            return
        build_data["artifacts"].append(f"nodeagent/proxy/{make_lane.TARGET.name}")
        build_data["pure_python"] = False
        build_data["tag"] = "cp311-abi3-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
