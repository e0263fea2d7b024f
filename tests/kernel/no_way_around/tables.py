# SPDX-License-Identifier: Apache-2.0
"""All vectors, in the order of the page that tools/make_docs.py would print: docs/vectors.md."""

from tests.kernel.no_way_around import tables_connections as connections
from tests.kernel.no_way_around import tables_direct as direct
from tests.kernel.no_way_around import tables_headers as headers
from tests.kernel.no_way_around import tables_links as links
from tests.kernel.no_way_around import tables_others as others
from tests.kernel.no_way_around import tables_sources as sources
from tests.kernel.no_way_around.vector import Table

TABLES: tuple[Table, ...] = (
    sources.SOURCES,
    sources.MAPPED,
    sources.MARKS,
    sources.SOCKETS,
    headers.OPTIONS,
    headers.EXTENSIONS,
    headers.FRAGMENTS,
    headers.LENGTHS,
    links.VLANS,
    links.BRIDGED,
    links.ETHERTYPES,
    links.MACS,
    links.TUNNELS,
    connections.NOBODYS,
    connections.OTHERS,
    connections.SYNS,
    connections.PORTS,
    connections.DESTINATIONS,
    connections.STRANGERS,
    connections.OPENINGS,
    direct.DIRECT,
    direct.INTRUDERS,
    others.WORKER,
    others.DOCUMENTED,
)
