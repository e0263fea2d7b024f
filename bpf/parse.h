/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* From a packet's bytes to `struct packet`. What may be TCP and cannot be read is a reason to drop.
 *
 * The cursor copies (bpf_skb_load_bytes) instead of pointing into the packet: headers may lie in a
 * fragment of the skb, where direct access ends, and what was copied cannot change under the
 * program. Addresses and ports are in network order everywhere.
 */
#pragma once
#include "layout.h"
#include "reasons.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ /* bcc's bpf_htons is a function: no constant */
#define NET16(x) ((be16)__builtin_bswap16(x))
#define NET32(x) ((be32)__builtin_bswap32(x))
#else
#define NET16(x) ((be16)(x))
#define NET32(x) ((be32)(x))
#endif

enum {
	ETHERNET_BYTES = 14,
	ETHERTYPE_IPV4 = NET16(0x0800),
	ETHERTYPE_IPV6 = NET16(0x86dd),
	ETHERTYPE_VLAN = NET16(0x8100),
	ETHERTYPE_QINQ = NET16(0x88a8),
	PROTOCOL_HOP_BY_HOP = 0,
	PROTOCOL_ICMP = 1,
	PROTOCOL_TCP = 6,
	PROTOCOL_ROUTING = 43,
	PROTOCOL_FRAGMENT = 44,
	PROTOCOL_ICMPV6 = 58,
	PROTOCOL_OPTIONS = 60,
	IPV4_FRAGMENT_BITS = NET16(0x3fff), /* more fragments, and the offset */
	IPV4_PLAIN = 0x45,		    /* version 4, five words: no options */
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,
};

struct ipv4_header {
	u8 version_words;
	u8 service;
	be16 length;
	be16 id;
	be16 fragment;
	u8 hops;
	u8 protocol;
	be16 checksum;
	be32 source;
	be32 destination;
};

struct ipv6_header {
	be32 version_flow;
	be16 length;
	u8 protocol;
	u8 hops;
	struct address source;
	struct address destination;
};

struct ipv6_extension {
	u8 next;
	u8 words; /* of 8 bytes, not counting the first */
};

struct tcp_header {
	be16 source;
	be16 destination;
	be32 sequence;
	be32 acknowledgement;
	u8 words;
	u8 flags;
	be16 window;
	be16 checksum;
	be16 urgent;
};

struct icmp_header {
	u8 type;
	u8 code;
	be16 checksum;
	be32 rest;
};

struct packet {
	struct address source;
	struct address destination;
	be16 source_port;
	be16 destination_port;
	u32 transport; /* where the TCP header begins */
	u8 flags;
	u8 is_ipv6;
	u8 is_icmp_error; /* about TCP; addresses and ports as in the peer's packets */
	u8 zero;
};

struct cursor {
	struct __sk_buff *skb;
	u32 offset;
	u32 zero;
};

static __always_inline bool take(struct cursor *at, void *to, u32 bytes)
{
	if (bpf_skb_load_bytes(at->skb, at->offset, to, bytes))
		return false;
	at->offset += bytes;
	return true;
}

/* The same where the offset is a constant: without a call when the bytes are in the linear part. */
static __always_inline bool take_here(struct cursor *at, void *to, u32 bytes)
{
	const u8 *from = (void *)(long)at->skb->data + at->offset;

	if (from + bytes > (const u8 *)(long)at->skb->data_end)
		return take(at, to, bytes);
	__builtin_memcpy(to, __builtin_assume_aligned(from, 4), bytes);
	at->offset += bytes;
	return true;
}

static __always_inline struct address mapped(be32 ipv4)
{
	struct address address = {{0, 0, NET32(0xffff), ipv4}};

	return address;
}

static __always_inline bool is_mapped(const struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == NET32(0xffff);
}

static __always_inline enum reason parse_tcp(struct cursor *at, struct packet *packet)
{
	struct tcp_header tcp;

	packet->transport = at->offset;
	if (!take_here(at, &tcp, sizeof(tcp)))
		return REASON_CUT_SHORT;
	packet->source_port = tcp.source;
	packet->destination_port = tcp.destination;
	packet->flags = tcp.flags;
	return UNDECIDED;
}

/* NOT_TCP; an error about a TCP packet also leaves that packet's addresses and ports, mirrored. */
static __always_inline enum reason parse_icmpv4(struct cursor *at, struct packet *packet)
{
	struct icmp_header icmp;
	struct ipv4_header quoted;
	be16 ports[2];

	if (!take(at, &icmp, sizeof(icmp)) ||
	    (icmp.type != 3 && icmp.type != 11 && icmp.type != 12))
		return REASON_NOT_TCP;
	if (!take(at, &quoted, sizeof(quoted)) || quoted.version_words != IPV4_PLAIN ||
	    quoted.protocol != PROTOCOL_TCP || !take(at, ports, sizeof(ports)))
		return REASON_NOT_TCP;
	packet->source = mapped(quoted.destination);
	packet->destination = mapped(quoted.source);
	packet->source_port = ports[1];
	packet->destination_port = ports[0];
	packet->is_icmp_error = 1;
	return REASON_NOT_TCP;
}

static __always_inline enum reason parse_icmpv6(struct cursor *at, struct packet *packet)
{
	struct icmp_header icmp;
	struct ipv6_header quoted;
	be16 ports[2];

	if (!take(at, &icmp, sizeof(icmp)) || icmp.type < 1 || icmp.type > 4)
		return REASON_NOT_TCP;
	if (!take(at, &quoted, sizeof(quoted)) || quoted.protocol != PROTOCOL_TCP ||
	    !take(at, ports, sizeof(ports)))
		return REASON_NOT_TCP;
	packet->source = quoted.destination;
	packet->destination = quoted.source;
	packet->source_port = ports[1];
	packet->destination_port = ports[0];
	packet->is_icmp_error = 1;
	return REASON_NOT_TCP;
}

static __always_inline enum reason parse_ipv4(struct cursor *at, struct packet *packet)
{
	struct ipv4_header ip;

	if (!take_here(at, &ip, sizeof(ip)))
		return REASON_CUT_SHORT;
	if (ip.protocol == PROTOCOL_ICMP && ip.version_words == IPV4_PLAIN &&
	    !(ip.fragment & IPV4_FRAGMENT_BITS))
		return parse_icmpv4(at, packet);
	if (ip.protocol != PROTOCOL_TCP)
		return REASON_NOT_TCP;
	if (ip.version_words !=
	    IPV4_PLAIN) /* below 5 as well: it would put "TCP" inside the IP header */
		return REASON_IP_OPTIONS;
	if (ip.fragment &
	    IPV4_FRAGMENT_BITS) /* only the first has ports; TC ingress is before defragmentation */
		return REASON_FRAGMENT;
	packet->source = mapped(ip.source);
	packet->destination = mapped(ip.destination);
	return parse_tcp(at, packet);
}

static __always_inline bool leads_on(u8 protocol)
{
	return protocol == PROTOCOL_HOP_BY_HOP || protocol == PROTOCOL_ROUTING ||
	       protocol == PROTOCOL_OPTIONS;
}

/* Over one extension header, if `protocol` is one. */
static __always_inline enum reason skip_extension(struct cursor *at, u8 *protocol)
{
	struct ipv6_extension extension;

	if (!leads_on(*protocol))
		return UNDECIDED;
	if (!take(at, &extension, sizeof(extension)))
		return REASON_CUT_SHORT;
	at->offset += extension.words * 8 + 8 - sizeof(extension);
	*protocol = extension.next;
	return UNDECIDED;
}

/* What a fragment's header says comes next is what the whole will be, if it is the first: who
 * reassembles believes that one. So a TCP packet has a fragment that says TCP, and is not whole
 * without it.
 */
static __always_inline enum reason judge_fragment(struct cursor *at)
{
	struct ipv6_extension fragment;

	if (!take(at, &fragment, sizeof(fragment)))
		return REASON_CUT_SHORT;
	if (fragment.next == PROTOCOL_TCP || fragment.next == PROTOCOL_FRAGMENT ||
	    leads_on(fragment.next))
		return REASON_FRAGMENT;
	return REASON_NOT_TCP;
}

/* Behind extension headers there may be no TCP: no application sends that, and its ports could
 * hide. MLD, behind a hop-by-hop header, must pass. Four headers at most, written out: bcc 0.26
 * loses the bound of a loop with two exits.
 */
static __always_inline enum reason parse_extensions(struct cursor *at, u8 protocol)
{
	if (skip_extension(at, &protocol) || skip_extension(at, &protocol) ||
	    skip_extension(at, &protocol) || skip_extension(at, &protocol))
		return REASON_CUT_SHORT;
	if (protocol == PROTOCOL_FRAGMENT)
		return judge_fragment(at);
	if (protocol == PROTOCOL_TCP || leads_on(protocol))
		return REASON_EXTENSION_HEADERS;
	return REASON_NOT_TCP;
}

static __always_inline enum reason parse_ipv6(struct cursor *at, struct packet *packet)
{
	struct ipv6_header ip;

	if (!take_here(at, &ip, sizeof(ip)))
		return REASON_CUT_SHORT;
	packet->is_ipv6 = 1;
	if (ip.protocol == PROTOCOL_ICMPV6)
		return parse_icmpv6(at, packet);
	if (ip.protocol != PROTOCOL_TCP)
		return parse_extensions(at, ip.protocol);
	/* In the maps it would be the IPv4 address, which another packet has to show. */
	if (is_mapped(&ip.source) || is_mapped(&ip.destination))
		return REASON_MAPPED_ADDRESS;
	packet->source = ip.source;
	packet->destination = ip.destination;
	return parse_tcp(at, packet);
}

/* UNDECIDED and a filled packet for TCP; else the reason to stop. `packet` comes zeroed.
 *
 * The kernel has taken off one VLAN tag before TC ingress. If there is another, and both are of
 * VLAN 0 (a priority and no VLAN), it takes that off as well, but only behind TC: this would be IP
 * that no program has seen.
 */
static __always_inline enum reason parse(struct __sk_buff *skb, struct packet *packet)
{
	struct cursor at = {.skb = skb, .offset = ETHERNET_BYTES};

	if (skb->protocol == ETHERTYPE_IPV4)
		return parse_ipv4(&at, packet);
	if (skb->protocol == ETHERTYPE_IPV6)
		return parse_ipv6(&at, packet);
	if (skb->protocol == ETHERTYPE_VLAN || skb->protocol == ETHERTYPE_QINQ)
		return REASON_TAGGED_TWICE;
	return REASON_NOT_IP;
}

/* A SYN that opens a connection. SYN with FIN or RST is none: it belongs to nobody. */
static __always_inline bool is_syn(const struct packet *packet)
{
	return (packet->flags & (TCP_SYN | TCP_ACK | TCP_RST | TCP_FIN)) == TCP_SYN;
}

/* The answer to one. */
static __always_inline bool is_syn_ack(const struct packet *packet)
{
	return (packet->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK);
}
