# SPDX-License-Identifier: Apache-2.0
"""What the command line, probes and scrapers talk to: a Unix socket for JSON, and two TCP listeners.

Everything here is read-only and asks only the values that the agent hands in; what a view says is made by pure
functions, and `explain` calls the same policy and routing as the proxy.
"""
