/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The maps: key, value, who writes, who reads, why this size. All are pinned at PIN_DIRECTORY/maps,
 * which the loader defines; one that exists there is used as it is, so that flows, counters and
 * pods outlive an upgrade.
 *
 * Python reads these declarations for the types (nodeagent/kernel/layout.py): one MAP per entry,
 * literal numbers.
 */
#pragma once
#include "layout.h"
#include "reasons.h"

#define MAP(type, key, value, name, entries, flags) \
	BPF_F_TABLE(type ":" PIN_DIRECTORY "/maps/" #name, key, value, name, entries, flags)
/* bcc's BPF_RINGBUF_OUTPUT, with a pin. */
#define RING(name, bytes)                                                                         \
	struct name##_table_t {                                                                   \
		int key;                                                                          \
		u32 leaf;                                                                         \
		int (*ringbuf_output)(void *, u64, u64);                                          \
		u32 max_entries;                                                                  \
		u32 flags;                                                                        \
	};                                                                                        \
	__attribute__((section("maps/ringbuf"                                                     \
			       ":" PIN_DIRECTORY "/maps/" #name))) struct name##_table_t name = { \
		.max_entries = (bytes)}
#define ON_DEMAND 1 /* BPF_F_NO_PREALLOC: memory as entries come, not all at once */

/* clang-format off */

/* 0 -> what the agent tells all programs. Written by the agent, read by all. */
MAP("array", u32, struct settings, settings, 1, 0);

/* A pod's device and one of its addresses -> adoption window. What is not here is not this pod's
 * address. Written by the agent, read by from_pod. 1024: 250 pods (the largest kubelets) with four
 * addresses. */
MAP("hash", struct source_key, struct source, sources, 1024, 0);

/* Address of an enrolled pod of this node -> its device and MACs.
 * Written by the agent, read by all but at_proxy. Size as sources. */
MAP("hash", struct address, struct pod, pods, 1024, 0);

/* ifindex of a pod's device -> what was steered and dropped there. The agent makes and removes
 * entries, all but at_proxy count. 1024: as sources, and entries per CPU are small. */
MAP("percpu_hash", u32, struct pod_count, pod_counts, 1024, 0);

/* Address of a workload or Service of the mesh -> 1. Written by the agent, read by from_pod.
 * 131072: beyond the largest meshes that Istio claims (100,000 addresses); memory only as they
 * come. */
MAP("hash", struct address, u32, known, 131072, ON_DEMAND);

/* Block of addresses of a Service of the mesh -> 1: as excluded, of every port; and, each with a port
 * of its own, addresses that names of the mesh mean at the moment. Written by the agent, read by
 * from_pod for what is not in known. 1024: ServiceEntries are written by hand. */
MAP("lpm_trie", struct exclusion_key, u32, known_blocks, 1024, ON_DEMAND);

/* Address of the node's namespace, link-local ones included -> 1. Written by the agent, read by
 * from_pod. 4096: some CNIs give each pod's device a link-local address. */
MAP("hash", struct address, u32, node_addresses, 4096, ON_DEMAND);

/* Port and address block that are left alone -> 1. Written by the agent, read by from_pod for each
 * SYN. 1024: lists of this kind are written by hand. */
MAP("lpm_trie", struct exclusion_key, u32, excluded, 1024, ON_DEMAND);

/* Which pods of this node may connect to which, as far as identities and port decide. What has no
 * bit here is the proxy's to answer: denied, pending, dependent on more. Written by the agent, a
 * generation at a time, while the one before is still in force; read by from_pod. 16384: 250 pods,
 * two generations, 32 ports of their own each; a destination whose rows do not fit has none. */
MAP("hash", struct verdict_key, struct verdict, verdicts, 16384, ON_DEMAND);

/* Connection that has a mesh peer and a verdict or the proxy's socket behind it -> what was found.
 * Written and read by from_pod, never by what arrives from outside. LRU: nothing tells when a
 * connection ends. 65536: all ports of one pod to one address, 8 MB. An entry that is pushed out is
 * made again: a verdict allows it (FLOW_RESTORED), or the proxy has its socket. */
MAP("lru_hash", struct flow_key, struct flow, flows, 65536, 0);

/* The same for what has nothing behind it: excluded, or open before the pod was enrolled. A table of
 * its own, because an entry that is pushed out costs its connection (UNKNOWN_FLOW). Also what is the
 * proxy's, of a pod whose adoption window is open: pushed out, it could be adopted. 32768, 4 MB. */
MAP("lru_hash", struct flow_key, struct flow, kept_flows, 32768, 0);

/* Connection for whose packets to a pod, the sender first, the proxy was seen to have a socket -> 1.
 * Written and read by to_pod. LRU; 16384, 2 MB: tunnels, of which each peer has a few, and plaintext
 * connections. One that is pushed out, by others or by whoever can spoof, costs a look-up. */
MAP("lru_hash", struct flow_key, u32, inbound_flows, 16384, 0);

/* Answers of a connection between two pods of this node that came through the node's NAT -> 1: they
 * go the same way. Written by to_pod and from_proxy, read by from_proxy. LRU; 16384: hairpins are
 * rare. */
MAP("lru_hash", struct flow_key, u32, hairpins, 16384, 0);

/* enum listener times SLOTS plus slot -> listening socket of a worker. Written by the agent from
 * the node's namespace, read by at_proxy and, for SYN cookies, by to_pod. 12: LISTENERS * SLOTS. */
MAP("sockmap", u32, u64, listeners, 12, 0);

/* Cookie of a client's socket -> its direct connection: from its first SYN until its end is told in
 * flow_events. Where that is full the end stays here, until the agent finds it. Written by sockops,
 * read and cleared by the agent. 65536: as flows; one that does not fit is counted (flow_losses). */
MAP("hash", u64, struct flow_report, flow_reports, 65536, ON_DEMAND);

/* Openings and ends, each a struct flow_report. Written by sockops, emptied by the agent. 1 MiB:
 * ten thousand of them, more than a second of the busiest nodes. */
RING(flow_events, 1048576);

/* enum flow_loss -> how often. Written by sockops, read by the agent. */
MAP("percpu_array", u32, u64, flow_losses, 2, 0);

/* enum reason -> packets. Written by all, read by the agent. 64: REASON_ROOM. */
MAP("percpu_array", u32, u64, reason_counts, 64, 0);

/* Cookie of the network namespace of an enrolled pod -> 1. Written by the agent, and only when
 * Services are to be found in connect(2); read by connect4 and connect6. Size as sources. */
MAP("hash", u64, u32, namespaces, 1024, 0);

/* Address and port of a Service -> its draws. Written by the agent, read by connect4 and connect6.
 * 8192: only Services with a pod on this node; 250 pods, two families, 16 ports. */
MAP("hash", struct endpoint, struct service, services, 8192, ON_DEMAND);

/* Draw of a Service -> the endpoint: as many draws as are its share. Written by the agent before
 * the Service names them; read by connect4 and connect6. 131072: 16 for each Service. */
MAP("hash", struct draw_key, struct endpoint, draws, 131072, ON_DEMAND);

/* Cookie of a socket -> the Service that it has dialled. Written by connect4 and connect6, read by
 * getpeername4, getpeername6 and sockops. LRU; 32768, 3 MB: a socket that is pushed out is told its
 * endpoint when it asks for its peer. */
MAP("lru_hash", u64, struct dialled, dialled, 32768, 0);

/* Connection -> the Service that its client has dialled. Written by sockops, read by the agent for
 * its record, and removed at its end. LRU; 32768, 4 MB: it is read when a connection opens. */
MAP("lru_hash", struct dial_key, struct endpoint, by_service, 32768, 0);

/* clang-format on */

enum listener { LISTENER_OUTBOUND, LISTENER_HBONE, LISTENER_PLAINTEXT, LISTENERS };
enum { NUMBERS = 1024 }; /* of pods: bits of a verdict; a higher one is in no verdict */
enum { SLOTS = 4 };	 /* workers of a node; at_proxy and to_pod try them in straight-line code */
enum flow_loss { LOSS_OF_EVENT, LOSS_OF_FLOW, FLOW_LOSSES };
_Static_assert(FLOW_LOSSES == 2, "size of flow_losses");
_Static_assert(sizeof(((struct verdict *)0)->sources) * 8 == NUMBERS, "a bit for each pod");
_Static_assert(LISTENERS *SLOTS == 12 && REASON_ROOM == 64, "sizes above");

static __always_inline struct settings *read_settings(void)
{
	u32 only = 0;

	return settings.lookup(&only);
}

static __always_inline void count(enum reason why)
{
	u32 row = why;
	u64 *packets = reason_counts.lookup(&row);

	if (packets)
		*packets += 1; /* per CPU: no other writer */
}

/* The pod's own share, on connections and drops only: a packet of a running connection costs no
 * further look-up. */
static __always_inline void count_pod(u32 device, enum reason why)
{
	bool is_outbound = why == REASON_STEERED || why == REASON_LOCAL_STEERED;
	bool is_inbound = why == REASON_INBOUND;
	struct pod_count *own;

	if (!is_outbound && !is_inbound && verdict_of(why) != TC_ACT_SHOT)
		return;
	own = pod_counts.lookup(&device);
	if (!own)
		return;
	if (is_outbound)
		own->outbound += 1;
	else if (is_inbound)
		own->inbound += 1;
	else
		own->dropped += 1;
}

/* Two counts that tell whether packets reach the pod without to_pod (nodeagent/kernel/guard.py): a
 * connection that it accepts must have been let in. On SYN and SYN-ACK only. */
static __always_inline void count_admitted(u32 device)
{
	struct pod_count *own = pod_counts.lookup(&device);

	if (own)
		own->admitted += 1;
}

static __always_inline void count_unasked(u32 device)
{
	struct pod_count *own = pod_counts.lookup(&device);

	if (own)
		own->unasked += 1;
}
