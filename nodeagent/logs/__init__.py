# SPDX-License-Identifier: Apache-2.0
"""How lines are written, by every process alike: escaping, time, the form of the process log."""
