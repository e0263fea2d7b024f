/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* from_proxy: TC ingress of na0, the node's end of the pair; sees every packet that the proxy
 * sends.
 *
 * It limits what a worker can forge: any source towards a local enrolled pod, a local enrolled
 * pod's address towards anything, and nothing else.
 *
 *  #  packet, first row that fits                       reason
 *  1  not TCP, not IP, VLAN                             PROXY_NOT_TCP        drop
 *     cut short, options, fragment, extension headers   one each             drop
 *     IPv4-mapped address                               MAPPED_ADDRESS       drop
 *  2  tunnel between two local enrolled pods            INTO_PROXY           to proxy
 *  3  SYN between two local enrolled pods                                    forget hairpin (below)
 *  4  to a local enrolled pod, and no hairpin's answer  INTO_POD             into the pod
 *     from one too, not SYN, while hairpins are still   SETTLING             drop
 *     being brought over
 *  5  from a local enrolled pod's address               INTO_NODE            into the stack
 *  6  else                                              FOREIGN_SOURCE       drop
 *
 * Row 2: both ends are the proxy's. A SYN to port 15008 is one, since no application is reached
 * there; any other packet from or to this port is one if the proxy has the socket that it is for.
 * Without that it answers a pod that dialled port 15008 itself.
 *
 * Rows 4 and 5 write the MACs. Row 5 marks PROXY, leaves the secret by which from_pod knows it, and
 * puts the packet on the ingress of that pod's device: the node's stack, its reverse-path checks, NAT and NetworkPolicy see ordinary traffic of the pod.
 * A hairpin's answer goes there too, because the node must undo its NAT. Row 3 forgets the hairpin
 * whose answers this connection's packets would be, and goes on; not the one that it serves.
 */
#include "flow.h"
#include "steer.h"
#include "trace.h"

struct ethernet_macs {
	u8 destination[MAC_BYTES];
	u8 source[MAC_BYTES];
};

static __always_inline bool is_own_tunnel(struct __sk_buff *skb, const struct packet *packet,
					  const struct settings *given)
{
	if (packet->destination_port == HBONE_PORT && is_syn(packet))
		return true;
	if (packet->destination_port != HBONE_PORT && packet->source_port != HBONE_PORT)
		return false;
	return has_socket(skb, packet, given->proxy_namespace);
}

static __always_inline int write_macs(struct __sk_buff *skb, const u8 *destination,
				      const u8 *source)
{
	struct ethernet_macs macs;

	__builtin_memcpy(macs.destination, destination, MAC_BYTES);
	__builtin_memcpy(macs.source, source, MAC_BYTES);
	return bpf_skb_store_bytes(skb, 0, &macs, sizeof(macs), 0);
}

/* With INTO_POD and INTO_NODE, `by` is the pod whose device is meant. */
static __always_inline enum reason judge_from_proxy(struct __sk_buff *skb, struct settings *given,
						    struct pod **by)
{
	struct packet packet = {};
	enum reason bad = skb->vlan_present ? REASON_NOT_IP : parse(skb, &packet);
	struct pod *source, *destination;
	bool opens;

	if (bad == REASON_NOT_IP || bad == REASON_NOT_TCP || bad == REASON_TAGGED_TWICE)
		return REASON_PROXY_NOT_TCP;
	if (bad)
		return bad;
	source = pods.lookup(&packet.source);
	destination = pods.lookup(&packet.destination);
	if (source && destination && is_own_tunnel(skb, &packet, given))
		return REASON_INTO_PROXY;
	opens = is_syn(&packet);
	if (opens && source && destination)
		delete_hairpin_of_answer(&packet);
	if (destination && (opens || !source || !is_hairpins_answer(&packet))) {
		*by = destination;
		if (opens)
			count_admitted(destination->device);
		else if (source && given->is_settling)
			return REASON_SETTLING;
		return REASON_INTO_POD;
	}
	*by = source;
	return source ? REASON_INTO_NODE : REASON_FOREIGN_SOURCE;
}

int from_proxy(struct __sk_buff *skb)
{
	struct settings *given = read_settings();
	struct pod *pod = NULL;
	enum reason why = given ? judge_from_proxy(skb, given, &pod) : UNDECIDED;

	count(why);
	trace(skb, HOOK_FROM_PROXY, why);
	if (verdict_of(why) != TC_ACT_REDIRECT)
		return verdict_of(why);
	if (why == REASON_INTO_PROXY)
		return bpf_redirect(given->proxy_device, 0);
	if (!pod)
		return TC_ACT_SHOT;
	if (why == REASON_INTO_POD) {
		if (write_macs(skb, pod->pod_mac, pod->gateway_mac))
			return TC_ACT_SHOT;
		bpf_skb_change_type(skb, PACKET_HOST);
		set_mark(skb, 0);
		return bpf_redirect_peer(pod->device, 0);
	}
	if (write_macs(skb, pod->gateway_mac, pod->pod_mac))
		return TC_ACT_SHOT;
	set_mark(skb, MARK_PROXY);
	sign(skb, given);
	return bpf_redirect(pod->device, BPF_F_INGRESS);
}
