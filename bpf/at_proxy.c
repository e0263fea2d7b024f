/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* at_proxy: TC ingress of eth0, in the proxy namespace; picks a worker's listener for new
 * connections.
 *
 *  #  packet, first row that fits                       reason
 *  1  neither TCP nor an ICMP error about TCP           NOT_FOR_PROXY        drop
 *     cut short, options, fragment, extension headers   one each             drop
 *     two VLAN tags, IPv4-mapped address               one each             drop
 *  2  ICMP error                                        PROXY_ICMP           stack
 *  3  SYN, a connection of this namespace has it        PROXY_SYN            stack
 *  4  not SYN; not mark OUT_NEW, not tagged by to_pod   PROXY_PACKET         stack
 *  5  not SYN, RST                                      NOBODYS_RESET        drop
 *  6  else: assign a listener                           ASSIGNED_*           stack
 *     no slot has one                                   PROXY_AWAY           drop
 *     the kernel refused                                ASSIGN_REFUSED       drop
 *
 * All rows but 1 clear the mark and set PACKET_HOST. Row 6: mark OUT_NEW means the outbound
 * listener, port 15008 the HBONE listener, anything else inbound plaintext; the slot is chosen by
 * flow hash, for HBONE by half of the source port, an empty one means the next. Only a SYN, a SYN cookie's ACK and nobody's packet come
 * there; a listener answers the last with a reset. Rows 3 and 4 leave sockets that exist to the
 * stack, whose early demux is faster than an assignment. A socket of row 4 that from_pod or to_pod has
 * held may have gone: then it is the stack that answers with a reset.
 */
#include "steer.h"
#include "trace.h"

enum attempt { SLOT_EMPTY, SLOT_TAKEN, SLOT_REFUSED };

static __always_inline enum attempt assign(struct __sk_buff *skb, struct bpf_sock *listener)
{
	long failed;

	if (!listener)
		return SLOT_EMPTY;
	failed = bpf_sk_assign(skb, listener, 0);
	bpf_sk_release(listener);
	return failed ? SLOT_REFUSED : SLOT_TAKEN;
}

static __always_inline enum reason assign_listener(struct __sk_buff *skb,
						   const struct packet *packet, enum listener kind,
						   u32 slots)
{
	u32 slot = first_slot(skb, packet, kind, slots);
	enum attempt done = assign(skb, find_listener(kind, slot, 0, slots));

	if (done == SLOT_EMPTY)
		done = assign(skb, find_listener(kind, slot, 1, slots));
	if (done == SLOT_EMPTY)
		done = assign(skb, find_listener(kind, slot, 2, slots));
	if (done == SLOT_EMPTY)
		done = assign(skb, find_listener(kind, slot, 3, slots));
	if (done == SLOT_EMPTY)
		return REASON_PROXY_AWAY;
	if (done == SLOT_REFUSED)
		return REASON_ASSIGN_REFUSED;
	if (kind == LISTENER_OUTBOUND)
		return REASON_ASSIGNED_OUTBOUND;
	return kind == LISTENER_HBONE ? REASON_ASSIGNED_HBONE : REASON_ASSIGNED_PLAINTEXT;
}

static __always_inline bool is_tagged(struct __sk_buff *skb)
{
	u8 mac[MAC_BYTES], tag[MAC_BYTES] = {TAG_BYTES};

	if (bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)))
		return false;
	return mac[0] == tag[0] && mac[1] == tag[1] && mac[2] == tag[2] && mac[3] == tag[3] &&
	       mac[4] == tag[4] && mac[5] == tag[5];
}

static __always_inline enum reason judge_at_proxy(struct __sk_buff *skb, u32 mark, u32 slots)
{
	struct packet packet = {};
	enum reason bad = parse(skb, &packet);

	if (packet.is_icmp_error)
		return REASON_PROXY_ICMP;
	if (bad == REASON_NOT_IP || bad == REASON_NOT_TCP)
		return REASON_NOT_FOR_PROXY;
	if (bad)
		return bad;
	if (is_syn(&packet)) {
		if (has_socket(skb, &packet, BPF_F_CURRENT_NETNS))
			return REASON_PROXY_SYN;
	} else {
		if (mark != MARK_OUT_NEW && (mark != 0 || !is_tagged(skb)))
			return REASON_PROXY_PACKET;
		if (packet.flags & TCP_RST)
			return REASON_NOBODYS_RESET;
	}
	return assign_listener(skb, &packet,
			       mark == MARK_OUT_NEW ? LISTENER_OUTBOUND : inbound_listener(&packet),
			       slots);
}

int at_proxy(struct __sk_buff *skb)
{
	struct settings *given = read_settings();
	u32 mark = skb->mark & MARK_BITS;
	enum reason why;

	set_mark(skb, 0);
	bpf_skb_change_type(skb, PACKET_HOST);
	why = given ? judge_at_proxy(skb, mark, given->slots) : UNDECIDED;
	count(why);
	trace(skb, HOOK_AT_PROXY, why);
	return verdict_of(why);
}
