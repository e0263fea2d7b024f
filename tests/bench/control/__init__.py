# SPDX-License-Identifier: Apache-2.0
"""What a large mesh costs: see __main__.py."""
