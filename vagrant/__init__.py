# SPDX-License-Identifier: Apache-2.0
"""Boots the Debian kernels that we claim in virtual machines and runs the kernel's tests in each.

No part of the product: nothing in `nodeagent` imports it, no package ships it. See README.md beside this file.
"""
