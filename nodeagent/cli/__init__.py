# SPDX-License-Identifier: Apache-2.0
"""The command line: parses by type, calls one thing, shows it. Decides nothing.

Modules of commands are imported when they are asked for, and import what is heavy inside the command: `--help` and
`status` are typed by people and run as probes.
"""
