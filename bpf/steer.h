/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The crossing between the node's namespace and the proxy's: marks, the tag, sockets of the proxy,
 * its listeners. */
#pragma once
#include "maps.h"
#include "parse.h"

/* Marks live only between our programs: transmission and every change of namespace clear them,
 * except for bpf_redirect_peer from from_pod to at_proxy, so neither pods nor workers can forge
 * one. The default bits are those that kube-proxy, portmap, Calico, Cilium, AWS and Tailscale leave
 * alone.
 */
#ifndef MARK_BITS /* the loader gives all three: nodeagent/model/mark.py */
#define MARK_BITS 0x100f
#define MARK_BASE 0x1000
#define MARK_STEP 0x1
#endif

enum mark {
	MARK_OUT = MARK_BASE + 1 * MARK_STEP, /* from_pod -> at_proxy: for a socket of the proxy */
	MARK_LOCAL = MARK_BASE + 2 * MARK_STEP,	  /* from_pod -> to_pod: let it in */
	MARK_PROXY = MARK_BASE + 3 * MARK_STEP,	  /* from_proxy -> from_pod: the proxy's own */
	MARK_OUT_NEW = MARK_BASE + 5 * MARK_STEP, /* from_pod -> at_proxy: for the listener */
};

enum {
	HBONE_PORT = NET16(15008),
	PACKET_HOST = 0,
	MAC_BYTES = 6,
};

/* Destination MAC of a packet that to_pod sends to a listener although it is no SYN: a mark would
 * not survive the transmission to na0. Locally administered. */
#define TAG_BYTES 0x02, 'm', 'e', 's', 'h', 0x01

static __always_inline void set_mark(struct __sk_buff *skb, u32 mark)
{
	/* clang 14 else merges this write with a neighbour's: "invalid bpf_context access". */
	asm volatile("" : "+r"(skb));
	skb->mark = (skb->mark & ~(u32)MARK_BITS) | mark;
}

/* A mark alone proves nothing at a pod's device: a pod with CAP_BPF can have bpf_redirect_peer of its
 * own keep one. So from_proxy leaves the settings' secret beside it, which both redirects keep, too.
 */
static __always_inline void sign(struct __sk_buff *skb, const struct settings *given)
{
	skb->cb[2] = (u32)given->secret;
	skb->cb[3] = given->secret >> 32;
}

static __always_inline bool is_signed(const struct __sk_buff *skb, const struct settings *given)
{
	return given->secret && skb->cb[2] == (u32)given->secret &&
	       skb->cb[3] == given->secret >> 32;
}

/* The kernel's socket of this 4-tuple in a network namespace, SYN_RECV and TIME_WAIT included; to
 * be released. */
static __always_inline struct bpf_sock *find_socket(struct __sk_buff *skb,
						    const struct packet *packet, u64 netns)
{
	struct bpf_sock_tuple tuple = {};

	if (packet->is_ipv6) {
		__builtin_memcpy(tuple.ipv6.saddr, &packet->source, sizeof(packet->source));
		__builtin_memcpy(tuple.ipv6.daddr, &packet->destination,
				 sizeof(packet->destination));
		tuple.ipv6.sport = packet->source_port;
		tuple.ipv6.dport = packet->destination_port;
		return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), netns, 0);
	}
	tuple.ipv4.saddr = packet->source.word[3];
	tuple.ipv4.daddr = packet->destination.word[3];
	tuple.ipv4.sport = packet->source_port;
	tuple.ipv4.dport = packet->destination_port;
	return bpf_skc_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), netns, 0);
}

/* Does a connection of this namespace own the packet? Listeners do not count: they are taken from
 * our own map only. */
static __always_inline bool has_socket(struct __sk_buff *skb, const struct packet *packet,
				       u64 netns)
{
	struct bpf_sock *socket = find_socket(skb, packet, netns);
	bool is_connection;

	if (!socket)
		return false;
	is_connection = socket->state != BPF_TCP_LISTEN;
	bpf_sk_release(socket);
	return is_connection;
}

/* The slot that at_proxy tries first for this connection; to_pod asks the same one about SYN
 * cookies. A tunnel says by its port which it wants (nodeagent/proxy/tunnel_port.py): the few that a
 * node makes to another would meet in one worker half of the time. Linux dials from even ports, so
 * the lowest bit says nothing. */
static __always_inline u32 first_slot(struct __sk_buff *skb, const struct packet *packet,
				      enum listener kind, u32 slots)
{
	if (!slots)
		return 0;
	if (kind == LISTENER_HBONE)
		return (NET16(packet->source_port) >> 1) % slots;
	return bpf_get_hash_recalc(skb) % slots;
}

/* The listener in the slot `further` places after `slot`, or NULL; to be released. */
static __always_inline struct bpf_sock *find_listener(enum listener kind, u32 slot, u32 further,
						      u32 slots)
{
	u32 wrapped = slot + further < slots ? slot + further : slot + further - slots;
	u32 row = kind * SLOTS + wrapped;

	if (further >= slots)
		return NULL;
	return (struct bpf_sock *)listeners.lookup(&row);
}

static __always_inline enum listener inbound_listener(const struct packet *packet)
{
	return packet->destination_port == HBONE_PORT ? LISTENER_HBONE : LISTENER_PLAINTEXT;
}
