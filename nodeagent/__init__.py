# SPDX-License-Identifier: Apache-2.0
"""nodeagent: one agent per node for Istio's ambient mode."""
