/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* `nodeagent trace`: where a program has its outcome, it tells of a packet that somebody asked for.
 *
 * Compiled in with -DTRACE alone: for as long as a trace lasts such programs take the place of those
 * without. These have not one instruction of it (tests/kernel/test_tracing.py compares them). Nothing
 * is decided here, and a packet goes the same way with a trace as without.
 */
#pragma once
#include "maps.h"
#include "parse.h"

enum hook { HOOK_FROM_POD, HOOK_TO_POD, HOOK_FROM_PROXY, HOOK_AT_PROXY };

#ifndef TRACE
static __always_inline void trace(struct __sk_buff *skb, enum hook hook, enum reason why)
{
	(void)skb, (void)hook, (void)why;
}
#else
#include "trace_layout.h"

enum trace_kind {
	KIND_OTHER, /* no TCP, or not to be read */
	KIND_SYN,
	KIND_SYN_ACK,
	KIND_RST,
	KIND_FIN,
	KIND_DATA,
	KIND_ACK,
};

enum { TUNNEL_PORT = NET16(15008) };

/* clang-format off */

/* Pinned beside the others, in a folder that goes with the trace. */
#pragma push_macro("PIN_DIRECTORY")
#undef PIN_DIRECTORY
#define PIN_DIRECTORY TRACE_DIRECTORY

/* 0 -> what is asked for. Written by the agent before the programs are attached. */
MAP("array", u32, struct trace_filter, trace_filters, 1, 0);

/* Address of the pod -> 1. 64: more than a pod has. */
MAP("hash", struct address, u32, trace_pods, 64, 0);

/* The other end, and its port -> 1; zero for any. 1024: endpoints of a Service with their ports. */
MAP("hash", struct endpoint, u32, trace_peers, 1024, 0);

/* Packets that are alike -> how many. LRU; 16384, 2 MB: what is pushed out is told once more. */
MAP("lru_hash", struct trace_key, u64, trace_seen, 16384, 0);

/* 0 -> the event that this CPU is writing: too large for the stack of from_pod. */
MAP("percpu_array", u32, struct trace_event, trace_drafts, 1, 0);

/* 0 -> events for which the ring had no room. */
MAP("percpu_array", u32, u64, trace_losses, 1, 0);

/* Each a struct trace_event. 256 KiB: 3600 of them. */
RING(trace_events, 262144);

#pragma pop_macro("PIN_DIRECTORY")
/* clang-format on */

static __always_inline enum trace_kind kind_of(u8 flags, u32 bytes)
{
	if (flags & TCP_RST)
		return KIND_RST;
	if (flags & TCP_SYN)
		return flags & TCP_ACK ? KIND_SYN_ACK : KIND_SYN;
	if (flags & TCP_FIN)
		return KIND_FIN;
	return bytes ? KIND_DATA : KIND_ACK;
}

static __always_inline void read_tcp(struct __sk_buff *skb, u32 offset, struct trace_event *event)
{
	struct tcp_header tcp;
	u32 end;

	if (bpf_skb_load_bytes(skb, offset, &tcp, sizeof(tcp)))
		return;
	end = offset + (tcp.words >> 4) * 4;
	event->bytes = skb->len > end ? skb->len - end : 0;
	event->flags = tcp.flags;
	event->key.source_port = tcp.source;
	event->key.destination_port = tcp.destination;
	event->key.kind = kind_of(tcp.flags, event->bytes);
}

static __always_inline void read_ipv4(struct __sk_buff *skb, struct trace_event *event)
{
	struct ipv4_header ip;
	u32 offset;

	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &ip, sizeof(ip)))
		return;
	event->key.source = mapped(ip.source);
	event->key.destination = mapped(ip.destination);
	event->key.protocol = ip.protocol;
	offset = ETHERNET_BYTES + (ip.version_words & 15) * 4;
	event->bytes = skb->len > offset ? skb->len - offset : 0;
	if (ip.protocol == PROTOCOL_TCP && !(ip.fragment & IPV4_FRAGMENT_BITS))
		read_tcp(skb, offset, event);
}

static __always_inline void read_ipv6(struct __sk_buff *skb, struct trace_event *event)
{
	u32 offset = ETHERNET_BYTES + sizeof(struct ipv6_header);
	struct ipv6_header ip;

	if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, &ip, sizeof(ip)))
		return;
	event->key.source = ip.source;
	event->key.destination = ip.destination;
	event->key.protocol = ip.protocol;
	event->bytes = skb->len > offset ? skb->len - offset : 0;
	if (ip.protocol == PROTOCOL_TCP)
		read_tcp(skb, offset, event);
}

static __always_inline bool has_peer(const struct trace_key *key, const struct address *peer)
{
	struct endpoint wanted = {.address = *peer};

	if (trace_peers.lookup(&wanted))
		return true;
	wanted.port = key->source_port;
	if (trace_peers.lookup(&wanted))
		return true;
	wanted.port = key->destination_port;
	return trace_peers.lookup(&wanted) != NULL;
}

/* Of the pod: by an address, or, be that a lie, by its device. Its tunnels carry what was asked for. */
static __always_inline bool is_asked_for(const struct __sk_buff *skb,
					 const struct trace_filter *filter, struct trace_key *key)
{
	bool is_at_pod = key->hook == HOOK_FROM_POD || key->hook == HOOK_TO_POD;
	struct address any = {};

	if (!trace_pods.lookup(&key->source) && !trace_pods.lookup(&key->destination) &&
	    (!is_at_pod || skb->ifindex != filter->device))
		return false;
	if (!filter->has_peers || key->source_port == TUNNEL_PORT ||
	    key->destination_port == TUNNEL_PORT)
		return true;
	return has_peer(key, &key->source) || has_peer(key, &key->destination) ||
	       has_peer(key, &any);
}

static __always_inline bool was_seen(const struct trace_filter *filter, struct trace_key *key)
{
	u64 *times = trace_seen.lookup(key);
	u64 once = 1;

	if (times)
		__sync_fetch_and_add(times, 1);
	else
		trace_seen.update(key, &once);
	return times && !filter->is_every;
}

static __always_inline void trace(struct __sk_buff *skb, enum hook hook, enum reason why)
{
	u32 only = 0;
	struct trace_filter *filter = trace_filters.lookup(&only);
	struct trace_event *event = trace_drafts.lookup(&only);
	u64 *lost;

	/* What is no TCP passes, and is not the mesh's affair. */
	if (!filter || !event ||
	    (!filter->is_every && (why == REASON_NOT_IP || why == REASON_NOT_TCP)))
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->key.hook = hook;
	event->key.why = why;
	event->device = skb->ifindex;
	if (skb->protocol == ETHERTYPE_IPV4)
		read_ipv4(skb, event);
	else if (skb->protocol == ETHERTYPE_IPV6)
		read_ipv6(skb, event);
	if (!is_asked_for(skb, filter, &event->key) || was_seen(filter, &event->key))
		return;
	event->at = bpf_ktime_get_ns();
	if (!trace_events.ringbuf_output(event, sizeof(*event), 0))
		return;
	lost = trace_losses.lookup(&only);
	if (lost)
		*lost += 1; /* per CPU: no other writer */
}
#endif
