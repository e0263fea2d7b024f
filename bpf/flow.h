/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The tables of connections (flows and kept_flows: one key for both directions, in one of the two), of
 * what arrives for the proxy (inbound_flows: one for each direction), and of hairpins (one for the
 * answers).
 *
 * What arrives from outside never writes or deletes a flow: it can be spoofed. from_pod has checked
 * the source.
 */
#pragma once
#include "maps.h"
#include "parse.h"

enum flow_kind {
	FLOW_ALLOWED = 1,  /* by the verdict table, which is asked again when policies change */
	FLOW_EXCLUDED = 2, /* by the exclusion list */
	FLOW_ADOPTED = 3,  /* open before the pod was enrolled */
	FLOW_TAKEN = 4,	   /* the proxy's, and not direct at all: never to be adopted */
};

/* Of a flow that was restored from a packet in its middle: if verdicts allow both directions, any
 * of the two may be that of its SYN, and it goes on as long as both do. */
enum { OPENED_BY_EITHER = 2 };

/* Any total order will do, as long as both directions agree: the last word differs most often. */
static __always_inline bool is_second(const struct packet *packet)
{
	const struct address *a = &packet->source, *b = &packet->destination;

	if (a->word[3] != b->word[3])
		return a->word[3] < b->word[3];
	if (a->word[2] != b->word[2])
		return a->word[2] < b->word[2];
	if (a->word[1] != b->word[1])
		return a->word[1] < b->word[1];
	if (a->word[0] != b->word[0])
		return a->word[0] < b->word[0];
	return packet->source_port < packet->destination_port;
}

/* What a flow remembers of an end whose packet had a source address of its device: that device, and as
 * of when. The address is in it because a row of an LRU may have become another connection's before it
 * is written. 0: nothing may be remembered. */
static __always_inline u64 check_of(const struct __sk_buff *skb, const struct settings *given,
				    const struct packet *packet)
{
	if (!given->sources)
		return 0;
	return (u64)(given->sources ^ packet->source.word[3]) << 32 | skb->ifindex;
}

static __always_inline bool is_checked(const struct flow *flow, const struct packet *packet,
				       u64 check)
{
	u64 checked = is_second(packet) ? flow->second_checked : flow->first_checked;

	return check && checked == check;
}

static __always_inline void set_checked(struct flow *flow, const struct packet *packet, u64 check)
{
	if (is_second(packet))
		flow->second_checked = check;
	else
		flow->first_checked = check;
}

static __always_inline struct flow_key flow_key_of(const struct packet *packet)
{
	struct flow_key key;

	if (is_second(packet)) {
		key.first = packet->destination;
		key.second = packet->source;
		key.first_port = packet->destination_port;
		key.second_port = packet->source_port;
	} else {
		key.first = packet->source;
		key.second = packet->destination;
		key.first_port = packet->source_port;
		key.second_port = packet->destination_port;
	}
	return key;
}

static __always_inline bool is_mesh_address(struct address *address)
{
	return pods.lookup(address) || known.lookup(address);
}

static __always_inline struct flow *find_flow(const struct packet *packet)
{
	struct flow_key key = flow_key_of(packet);
	struct flow *flow = flows.lookup(&key);

	return flow ? flow : kept_flows.lookup(&key);
}

/* In the place of whatever is there. `is_kept`: nothing but the table knows what it tells. */
static __always_inline void put_flow(const struct packet *packet, struct flow *flow, bool is_kept)
{
	struct flow_key key = flow_key_of(packet);

	if (is_kept) {
		flows.delete(&key);
		kept_flows.update(&key, flow);
	} else {
		kept_flows.delete(&key);
		flows.update(&key, flow);
	}
}

/* Opened by the sender of this packet. */
static __always_inline void add_flow(const struct packet *packet, enum flow_kind kind,
				     u32 generation)
{
	struct flow flow = {
		.generation = generation,
		.kind = kind,
		.from_second = is_second(packet),
	};

	put_flow(packet, &flow, kind != FLOW_ALLOWED);
}

static __always_inline void delete_flow(const struct packet *packet)
{
	struct flow_key key = flow_key_of(packet);

	flows.delete(&key);
	kept_flows.delete(&key);
}

/* The bit of the end that has sent this packet. A connection between two pods of one node has two
 * sockets of the proxy: each end's packets are for one of them. */
static __always_inline u8 holder(const struct packet *packet)
{
	return is_second(packet) ? 2 : 1;
}

/* The sender first: a key for one direction only. */
static __always_inline struct flow_key key_as_sent(const struct packet *packet)
{
	struct flow_key key = {
		.first = packet->source,
		.second = packet->destination,
		.first_port = packet->source_port,
		.second_port = packet->destination_port,
	};

	return key;
}

static __always_inline bool is_inbound_held(const struct packet *packet)
{
	struct flow_key key = key_as_sent(packet);

	return inbound_flows.lookup(&key) != NULL;
}

static __always_inline void hold_inbound(const struct packet *packet)
{
	struct flow_key key = key_as_sent(packet);
	u32 one = 1;

	inbound_flows.update(&key, &one);
}

static __always_inline void release_inbound(const struct packet *packet)
{
	struct flow_key key = key_as_sent(packet);

	inbound_flows.delete(&key);
}

/* A hairpin has its client's end second, as its answers have it (key_as_sent): the connection that the
 * proxy opens to the server in this client's name, from the same port, has the same ends the other way
 * round.
 */
static __always_inline struct flow_key hairpin_of_syn(const struct packet *packet)
{
	struct flow_key key = {
		.first = packet->destination,
		.second = packet->source,
		.first_port = packet->destination_port,
		.second_port = packet->source_port,
	};

	return key;
}

/* Of the client's SYN. */
static __always_inline void add_hairpin(const struct packet *packet)
{
	struct flow_key key = hairpin_of_syn(packet);
	u32 one = 1;

	hairpins.update(&key, &one);
}

/* The client connects again, and not through the node's NAT. */
static __always_inline void delete_hairpin(const struct packet *packet)
{
	struct flow_key key = hairpin_of_syn(packet);

	hairpins.delete(&key);
}

/* What goes this way from now on belongs to a connection of the proxy's own. */
static __always_inline void delete_hairpin_of_answer(const struct packet *packet)
{
	struct flow_key key = key_as_sent(packet);

	hairpins.delete(&key);
}

static __always_inline bool is_hairpins_answer(const struct packet *packet)
{
	struct flow_key key = key_as_sent(packet);

	return hairpins.lookup(&key) != NULL;
}
