/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The end of a SYN-cookie handshake with one of the proxy's listeners. */
#pragma once
#include "steer.h"

struct cookie_ack {
	u8 ip[40];
	struct tcp_header tcp;
	u32 ip_bytes;
};

static __always_inline bool explains(struct cookie_ack *ack, struct bpf_sock *listener)
{
	bool is_ours;

	if (!listener)
		return false;
	is_ours = ack->ip_bytes == sizeof(struct ipv6_header)
			  ? !bpf_tcp_check_syncookie(listener, ack->ip, sizeof(struct ipv6_header),
						     &ack->tcp, sizeof(ack->tcp))
			  : !bpf_tcp_check_syncookie(listener, ack->ip, sizeof(struct ipv4_header),
						     &ack->tcp, sizeof(ack->tcp));
	bpf_sk_release(listener);
	return is_ours;
}

/* The ACK that ends a SYN-cookie handshake has no request socket; only its listener can tell. The
 * slots are tried as at_proxy tries them.
 */
static __always_inline bool ends_cookie_handshake(struct __sk_buff *skb,
						  const struct packet *packet, enum listener kind,
						  u32 slots)
{
	struct cookie_ack ack = {};
	u32 slot = first_slot(skb, packet, kind, slots);

	if ((packet->flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_ACK)
		return false;
	if (bpf_skb_load_bytes(skb, packet->transport, &ack.tcp, sizeof(ack.tcp)))
		return false;
	if (packet->is_ipv6) {
		ack.ip_bytes = sizeof(struct ipv6_header);
		if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, ack.ip, sizeof(struct ipv6_header)))
			return false;
	} else if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, ack.ip, sizeof(struct ipv4_header))) {
		return false;
	}
	return explains(&ack, find_listener(kind, slot, 0, slots)) ||
	       explains(&ack, find_listener(kind, slot, 1, slots)) ||
	       explains(&ack, find_listener(kind, slot, 2, slots)) ||
	       explains(&ack, find_listener(kind, slot, 3, slots));
}
