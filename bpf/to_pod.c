/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* to_pod: TC egress of an enrolled pod's host-side device; the one guard for everything inbound.
 *
 * It stands behind every NAT and every other device of the node, so NodePort, hostPort, VIPs and
 * hairpins cannot get round it. Only from_proxy's delivery (bpf_redirect_peer) does, and the
 * kernel's bridge or route never.
 *
 *  #  packet, first row that fits                       reason
 *  1  mark LOCAL                                        LOCAL_DELIVERED      pass
 *  2  ICMP error about a connection of the proxy        ICMP_ERROR           to proxy
 *  3  not IP, not TCP                                   NOT_IP, NOT_TCP      pass
 *     cut short, options, fragment, extension headers   one each             drop
 *     two VLAN tags, IPv4-mapped address               one each             drop
 *  4  SYN made by the node (ingress_ifindex is 0)       NODE_PROBE           pass
 *  5  SYN                                               INBOUND              to proxy, add hairpin
 *  6  not SYN, proxy socket, or held                    INBOUND_FLOW         to proxy, hold
 *  7  not SYN, made by the node                         NODE_ANSWER          pass
 *  8  ACK that a listener's SYN cookie explains         SYN_COOKIE           tag, to proxy
 *  9  of a connection that the verdict table allowed    FORGED_FLOW          drop
 * 10  not SYN, not RST, from the mesh to port 15008     UNKNOWN_TUNNEL       to proxy: reset
 * 11  else                                              INBOUND_OTHER        pass
 *
 * Row 1: from_pod has read and judged this packet. Row 2 comes before 3 because the node makes such
 * errors itself (its own uplink's MTU). Row 6 comes before 7 because the node answers the proxy's
 * connections itself; it holds what it has found, so that the next packets but resets need no look-
 * up of a socket, until a SYN or SYN-ACK begins a connection. A pod or the wire cannot forge an
 * ingress_ifindex of 0. Row 5 adds a hairpin when the source is an enrolled pod of this node: it
 * came through the node's NAT. Row 9: what the two pods of such a connection send has mark LOCAL,
 * so the source of this one is forged. Row 10: a tunnel whose worker went without a word, with its
 * namespace; its other end must know, or it would go on to send connections there. "To proxy" is
 * bpf_redirect to na0, a transmission: it clears the mark.
 */
#include "cookie.h"
#include "flow.h"
#include "steer.h"
#include "trace.h"

static __always_inline enum reason judge_to_pod(struct __sk_buff *skb, struct settings *given)
{
	struct packet packet = {};
	struct flow *flow;
	enum reason bad;

	if ((skb->mark & MARK_BITS) == MARK_LOCAL)
		return REASON_LOCAL_DELIVERED;
	bad = parse(skb, &packet);
	if (packet.is_icmp_error && has_socket(skb, &packet, given->proxy_namespace))
		return REASON_ICMP_ERROR;
	if (bad)
		return bad;
	if (is_syn(&packet) || is_syn_ack(&packet))
		release_inbound(&packet);
	if (is_syn(&packet)) {
		if (skb->ingress_ifindex == 0) {
			/* The answer to a foreign address that the node sends with is nobody's. */
			if (!node_addresses.lookup(&packet.source))
				count_admitted(skb->ifindex);
			return REASON_NODE_PROBE;
		}
		if (pods.lookup(&packet.source))
			add_hairpin(&packet);
		return REASON_INBOUND;
	}
	if (!(packet.flags & TCP_RST) && is_inbound_held(&packet))
		return REASON_INBOUND_FLOW;
	if (has_socket(skb, &packet, given->proxy_namespace)) {
		hold_inbound(&packet);
		return REASON_INBOUND_FLOW;
	}
	if (skb->ingress_ifindex == 0)
		return REASON_NODE_ANSWER;
	if (ends_cookie_handshake(skb, &packet, inbound_listener(&packet), given->slots))
		return REASON_SYN_COOKIE;
	flow = find_flow(&packet);
	if (flow && flow->kind == FLOW_ALLOWED)
		return REASON_FORGED_FLOW;
	if (packet.destination_port == HBONE_PORT && !(packet.flags & TCP_RST) &&
	    is_mesh_address(&packet.source))
		return REASON_UNKNOWN_TUNNEL;
	return REASON_INBOUND_OTHER;
}

int to_pod(struct __sk_buff *skb)
{
	struct settings *given = read_settings();
	enum reason why = given ? judge_to_pod(skb, given) : UNDECIDED;
	int verdict = verdict_of(why);
	u8 tag[MAC_BYTES] = {TAG_BYTES};

	count(why);
	trace(skb, HOOK_TO_POD, why);
	count_pod(skb->ifindex, why);
	if (verdict != TC_ACT_REDIRECT)
		return verdict;
	if (why == REASON_SYN_COOKIE && bpf_skb_store_bytes(skb, 0, tag, sizeof(tag), 0))
		return TC_ACT_SHOT;
	return bpf_redirect(given->proxy_device, 0);
}
