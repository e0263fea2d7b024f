# SPDX-License-Identifier: Apache-2.0
"""A page that shows one node, or several, to a browser on the same machine: read-only, with nothing from elsewhere.

`server.py` says who may see it, `feed.py` what is told and how often; `page.html`, `page.js` and `page.css` are
all that a browser gets.
"""
