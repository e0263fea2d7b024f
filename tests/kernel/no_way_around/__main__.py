# SPDX-License-Identifier: Apache-2.0
"""Prints docs/vectors.md from the tables: `python -m tests.kernel.no_way_around > docs/vectors.md`."""

from tests.kernel.no_way_around.page import page

print(page(), end="")
