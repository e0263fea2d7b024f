# SPDX-License-Identifier: Apache-2.0
"""The version of this package, as it was installed. A module of its own, since finding it out costs milliseconds."""

from importlib.metadata import version

VERSION = version("nodeagent")
