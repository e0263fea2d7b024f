/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* from_pod: TC ingress of an enrolled pod's host-side device; sees every packet that the pod sends.
 *
 * Only a SYN is decided; everything else belongs to a flow, to a proxy socket, or to nobody.
 * Nobody's packet towards the mesh is answered with a reset (by the proxy's stack), never passed in
 * plain text.
 *
 *  #  packet, first row that fits                       reason
 *  1  mark PROXY, and from_proxy's secret               PROXY_PASSAGE        pass
 *  2  not IP, not TCP                                   NOT_IP, NOT_TCP      pass
 *     cut short, options, fragment, extension headers   one each             drop
 *     two VLAN tags, IPv4-mapped address               one each             drop
 *  3  source address is not this device's               SPOOFED_SOURCE       drop
 *  4  SYN-ACK, proxy socket                             PROXY_ANSWERED       to proxy, take flow
 *  5  not SYN, flow to an excluded address              EXCLUDED_FLOW        pass
 *     not SYN, flow of the current generation           LOCAL_FLOW           mark LOCAL
 *  6  not SYN, proxy socket or flow that is held        PROXY_FLOW           to proxy, hold flow
 *  7  not SYN, to an address of the node                NODE_FLOW            pass
 *  8  not SYN, flow of an old generation, still good    FLOW_RENEWED         renew, mark LOCAL
 *  9  not SYN, flow of an old generation                REVOKED              to proxy: reset
 * 10  not SYN, to neither local pod nor known address   OUTSIDE_FLOW         pass
 * 11  not SYN, flows are still being brought over       SETTLING             drop
 *     no SYN but SYN-ACK, not taken, a verdict allows it  FLOW_RESTORED      add flow, mark LOCAL
 *     not SYN, not RST, not taken, window is open       ADOPTED              add flow, mark LOCAL
 *     the same, a listener's SYN cookie explains it     SYN_COOKIE           to proxy
 * 12  not SYN                                           UNKNOWN_FLOW         to proxy: reset
 * 13  SYN to an address of the node                     NODE_ADDRESS         pass
 * 14  SYN to an excluded address or port, but a pod     EXCLUDED             add flow if known
 *     of this node
 * 15  SYN to a local enrolled pod, verdict is allow,    LOCAL_ALLOWED        add flow, mark LOCAL
 *     no proxy socket
 * 16  SYN to a local enrolled pod                       LOCAL_STEERED        to proxy, take flow
 * 17  SYN to a known address, or to a port of an        STEERED              to proxy, take flow
 *     endpoint that is known by its name
 * 18  SYN                                               UNKNOWN_DESTINATION  pass
 *     the same, the pod may reach registered ones only  NOT_REGISTERED       drop
 *
 * Row 1 leaves the mark on: while programs change their kind of attachment a packet meets from_pod
 * twice, and the second must pass it too. Every other row may be run twice as it is.
 *
 * "Take flow" notes that the connection is the proxy's, so that row 11 does not take it for a direct one
 * when its worker dies. For every other row but 6 a flow that is taken is none.
 *
 * Row 3 is remembered in a flow for the end that has sent the packet, so that its next packets in rows
 * 5 and 6 need no look-up of a source; until any source is taken away (settings.sources).
 *
 * Row 6 holds the flow of a connection that is the proxy's, so that this end's next packets need no
 * look-up of a socket. When the socket has gone in the meantime the proxy's stack resets the
 * connection, as its listener does in row 12. A SYN writes a flow of its own or forgets the one that is
 * there; a SYN-ACK lets go of it; and a reset, which may refuse somebody who dials from a port that was
 * the proxy's once, is never taken for a held flow's.
 *
 * Row 11 restores what the flow table has forgotten (it is an LRU, and one pod can fill it) as long as
 * the table of verdicts allows such a connection in either direction.
 *
 * Rows 8 and 15 ask the table of verdicts between this node's pods: who opened the connection, to
 * which pod and port. Only an allow is in it; whatever else the answer is, the proxy gives it and
 * names the policy. The settings' generation is read once for a packet: rows of one generation are
 * all there before it is named in the settings. A verdict that is pending lets row 8 renew and row 15
 * not apply, and so does for row 15 a table that is about to be replaced (settings.is_changing): the
 * proxy knows the next one already. Row 8 renews without a verdict what never had one (adopted). A SYN
 * whose connection the proxy holds already (row 15) is its retransmission, and stays there.
 *
 * Row 17: what a name means changes from one minute to the next, and clients have connections open that
 * began before. So such an address is asked for only here: row 10 lets pass what is no SYN.
 *
 * Row 5, EXCLUDED_FLOW: like its SYN, without a mark. Behind an address that is a Service's the node
 * may have found a pod of its own, whose to_pod has given the connection to the proxy.
 *
 * Row 11, SETTLING: whose packet it is will be known in a moment, and it is sent again.
 *
 * What is marked LOCAL passes, and to_pod lets it in. What else passes has no mark of ours: a pod that
 * may load programs can bring one, by a bpf_redirect_peer of its own. "To proxy" is bpf_redirect_peer
 * too, which keeps the mark and exists at TC ingress only: OUT in rows 4 and 6, where a socket exists
 * or existed, else OUT_NEW.
 */
#include "cookie.h"
#include "flow.h"
#include "steer.h"
#include "trace.h"

/* Two look-ups in one trie: the block for every port, and the block for this port. */
static __always_inline bool is_excluded(const struct packet *packet)
{
	struct exclusion_key key = {
		.prefix_bits = 32 + 128,
		.address = packet->destination,
	};

	if (excluded.lookup(&key))
		return true;
	key.port = packet->destination_port;
	return excluded.lookup(&key) != NULL;
}

/* A mesh address that is no pod's of this node: a workload's or a Service's, or within a Service's block. */
static __always_inline bool is_known(struct packet *packet)
{
	struct exclusion_key key = {
		.prefix_bits = 32 + 128,
		.address = packet->destination,
	};

	return known.lookup(&packet->destination) || known_blocks.lookup(&key);
}

/* A port of an endpoint outside of the mesh, by an address that its name means. Blocks have no port. */
static __always_inline bool is_named(const struct packet *packet)
{
	struct exclusion_key key = {
		.prefix_bits = 32 + 128,
		.port = packet->destination_port,
		.address = packet->destination,
	};

	return known_blocks.lookup(&key) != NULL;
}

/* What the agent says of the pod whose packet this is, and when: read once. */
struct sender {
	u64 adopt_until;
	u32 number;
	u32 generation;
	u32 is_changing;
	bool is_taken;	    /* what this packet belongs to is the proxy's, or was */
	bool registry_only; /* only what is registered may be reached */
	u8 zero[2];
};

/* The verdict that lets the pod of this number connect to that pod's port, if there is one. */
static __always_inline struct verdict *find_verdict(u32 generation, u32 source, u32 destination,
						    be16 port)
{
	struct verdict_key key = {
		.generation = generation,
		.destination = destination,
		.port = port,
	};
	struct verdict *verdict;
	u32 is_allowed;

	if (source >= NUMBERS)
		return NULL;
	verdict = verdicts.lookup(&key);
	if (!verdict) {
		key.port = 0;
		verdict = verdicts.lookup(&key);
	}
	/* Said again: the verifier of 5.10 forgets the bound of a number that waits on the stack, and
	 * the compiler must not know that there was one. */
	asm volatile("" : "+r"(source));
	source &= NUMBERS - 1;
	if (!verdict)
		return NULL;
	/* LLVM 19 makes a mask of what it knows to be 0 or 1, and the verifier forbids to mask a
	 * pointer. */
	is_allowed = (verdict->sources[source / 8] >> (source % 8)) & 1;
	asm volatile("" : "+r"(is_allowed));
	return is_allowed ? verdict : NULL;
}

static __always_inline bool may_connect(const struct packet *packet, const struct sender *sender,
					const struct pod *pod)
{
	struct verdict *verdict;

	if (sender->is_changing)
		return false;
	verdict = find_verdict(sender->generation, sender->number, pod->number,
			       packet->destination_port);
	return verdict && !verdict->is_pending;
}

/* Verdicts on a connection with this pod that is open: as its client, and as its server. */
static __always_inline bool may_have_opened(const struct packet *packet,
					    const struct sender *sender, const struct pod *peer)
{
	return find_verdict(sender->generation, sender->number, peer->number,
			    packet->destination_port);
}

static __always_inline bool may_have_answered(const struct packet *packet,
					      const struct sender *sender, const struct pod *peer)
{
	return find_verdict(sender->generation, peer->number, sender->number, packet->source_port);
}

/* Of a flow, in the direction of its SYN. */
static __always_inline bool may_go_on(const struct packet *packet, const struct sender *sender,
				      const struct flow *flow)
{
	struct address peer_address = packet->destination;
	struct pod *peer = pods.lookup(&peer_address);
	bool is_opener = flow->from_second == is_second(packet);

	if (!peer)
		return false;
	if ((is_opener || flow->from_second == OPENED_BY_EITHER) &&
	    !may_have_opened(packet, sender, peer))
		return false;
	return is_opener || may_have_answered(packet, sender, peer);
}

/* Puts a flow that is missing back into the table, if verdicts allow such a connection. It was
 * pushed out, or is older than the table. */
static __always_inline bool restore_flow(const struct packet *packet, const struct sender *sender)
{
	struct address peer_address = packet->destination;
	struct pod *peer = pods.lookup(&peer_address);
	struct flow flow = {.generation = sender->generation, .kind = FLOW_ALLOWED};
	bool opened, answered;
	u8 from_second = is_second(packet);

	/* SYN with FIN or RST: whoever takes it for a SYN must not get it undecided. */
	if (!peer || (packet->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
		return false;
	opened = !is_syn_ack(packet) && may_have_opened(packet, sender, peer);
	answered = may_have_answered(packet, sender, peer);
	if (!opened && !answered)
		return false;
	if (answered)
		from_second = opened ? OPENED_BY_EITHER : !from_second;
	flow.from_second = from_second;
	put_flow(packet, &flow, false);
	return true;
}

static __always_inline bool is_open(u64 adopt_until)
{
	return bpf_ktime_get_ns() < adopt_until;
}

/* While the adoption window is open, a row that is pushed out could let row 11 adopt the connection:
 * until then it is kept where only others of that kind push it out. `held`: bits of ends. */
static __always_inline void take_flow(const struct packet *packet, const struct sender *sender,
				      u8 held)
{
	struct flow flow = {
		.generation = sender->generation,
		.kind = FLOW_TAKEN,
		.from_second = is_second(packet),
		.held = held,
	};

	put_flow(packet, &flow, is_open(sender->adopt_until));
}

/* Rows 8 to 12, of a connection that the proxy does not hold. */
static __always_inline enum reason judge_direct(struct __sk_buff *skb, struct packet *packet,
						struct settings *given, struct sender *sender,
						struct flow *flow)
{
	if (flow && (flow->kind != FLOW_ALLOWED || may_go_on(packet, sender, flow))) {
		flow->generation = sender->generation;
		return REASON_FLOW_RENEWED;
	}
	if (flow)
		return REASON_REVOKED;
	if (!pods.lookup(&packet->destination) && !is_known(packet)) {
		if (is_syn_ack(packet))
			count_unasked(skb->ifindex);
		return REASON_OUTSIDE_FLOW;
	}
	if (given->is_settling)
		return REASON_SETTLING;
	if (!sender->is_taken && restore_flow(packet, sender))
		return REASON_FLOW_RESTORED;
	if (!(packet->flags & TCP_RST) && is_open(sender->adopt_until)) {
		/* Adopted, the end of a handshake with the proxy would leave in plain text. */
		if (ends_cookie_handshake(skb, packet, LISTENER_OUTBOUND, given->slots))
			return REASON_SYN_COOKIE;
		add_flow(packet, FLOW_ADOPTED, sender->generation);
		return REASON_ADOPTED;
	}
	if (is_syn_ack(packet))
		count_unasked(skb->ifindex);
	return REASON_UNKNOWN_FLOW;
}

/* Rows 5 and 6, as far as the flow tells. */
static __always_inline enum reason judge_flow(const struct packet *packet, u32 generation,
					      const struct flow *flow)
{
	if (flow->kind == FLOW_TAKEN)
		return flow->held & holder(packet) && !(packet->flags & TCP_RST) ? REASON_PROXY_FLOW
										 : UNDECIDED;
	if (flow->kind == FLOW_EXCLUDED)
		return REASON_EXCLUDED_FLOW;
	return flow->generation == generation ? REASON_LOCAL_FLOW : UNDECIDED;
}

/* Rows 4 to 12. */
static __always_inline enum reason judge_running(struct __sk_buff *skb, struct packet *packet,
						 struct settings *given, struct sender *sender,
						 struct flow *flow)
{
	bool is_taken = flow && flow->kind == FLOW_TAKEN;
	enum reason why;

	/* A SYN-ACK begins a connection: if the proxy asked for it, a flow of this 4-tuple is a
	 * left-over. */
	if (is_syn_ack(packet) && has_socket(skb, packet, given->proxy_namespace)) {
		take_flow(packet, sender, 0);
		return REASON_PROXY_ANSWERED;
	}
	if (is_taken && is_syn_ack(packet))
		flow->held = 0;
	why = flow ? judge_flow(packet, sender->generation, flow) : UNDECIDED;
	if (why != UNDECIDED)
		return why;
	if (has_socket(skb, packet, given->proxy_namespace)) {
		if (is_taken)
			flow->held |= holder(packet);
		else if (!flow) /* pushed out, or older than the table */
			take_flow(packet, sender, holder(packet));
		return REASON_PROXY_FLOW;
	}
	if (node_addresses.lookup(&packet->destination))
		return REASON_NODE_FLOW;
	if (is_taken) {
		flow = NULL;
		sender->adopt_until = 0;
		sender->is_taken = true;
	}
	return judge_direct(skb, packet, given, sender, flow);
}

/* Rows 13 to 18. */
static __always_inline enum reason judge_syn(struct __sk_buff *skb, struct packet *packet,
					     struct settings *given, struct sender *sender)
{
	struct pod *pod;

	if (node_addresses.lookup(&packet->destination)) {
		delete_flow(packet);
		return REASON_NODE_ADDRESS;
	}
	pod = pods.lookup(&packet->destination);
	/* A pod of this node has to_pod in front, which would give the connection to the proxy, and
	 * take it for one that came through the node's NAT. */
	if (!pod && is_excluded(packet)) {
		if (is_known(packet))
			add_flow(packet, FLOW_EXCLUDED, sender->generation);
		else
			delete_flow(packet);
		return REASON_EXCLUDED;
	}
	if (pod && may_connect(packet, sender, pod) &&
	    !has_socket(skb, packet, given->proxy_namespace)) {
		add_flow(packet, FLOW_ALLOWED, sender->generation);
		return REASON_LOCAL_ALLOWED;
	}
	if (pod) {
		take_flow(packet, sender, 0);
		delete_hairpin(packet);
		return REASON_LOCAL_STEERED;
	}
	if (is_known(packet) || is_named(packet)) {
		take_flow(packet, sender, 0);
		return REASON_STEERED;
	}
	delete_flow(packet);
	return given->registry_only || sender->registry_only ? REASON_NOT_REGISTERED
							     : REASON_UNKNOWN_DESTINATION;
}

static __always_inline enum reason judge_from_pod(struct __sk_buff *skb, struct settings *given)
{
	struct sender sender = {};
	u64 check;
	struct packet packet = {};
	struct source_key key = {};
	struct flow *flow = NULL;
	struct source *source;
	enum reason why;

	if ((skb->mark & MARK_BITS) == MARK_PROXY && is_signed(skb, given))
		return REASON_PROXY_PASSAGE;
	why = parse(skb, &packet);
	if (why)
		return why;
	/* In this order, for one that is told with the next generation that nothing is changing any more. */
	sender.is_changing = *(volatile u32 *)&given->is_changing;
	sender.generation = *(volatile u32 *)&given->generation;
	check = check_of(skb, given, &packet);
	if (!is_syn(&packet))
		flow = find_flow(&packet);
	if (flow && !is_syn_ack(&packet) && is_checked(flow, &packet, check)) {
		why = judge_flow(&packet, sender.generation, flow);
		if (why != UNDECIDED)
			return why;
	}
	key.device = skb->ifindex;
	key.address = packet.source;
	source = sources.lookup(&key);
	if (!source)
		return REASON_SPOOFED_SOURCE;
	sender.adopt_until = source->adopt_until;
	sender.number = source->number;
	sender.registry_only = source->registry_only != 0;
	if (is_syn(&packet))
		return judge_syn(skb, &packet, given, &sender);
	if (flow && check)
		set_checked(flow, &packet, check);
	return judge_running(skb, &packet, given, &sender, flow);
}

int from_pod(struct __sk_buff *skb)
{
	struct settings *given = read_settings();
	enum reason why = given ? judge_from_pod(skb, given) : UNDECIDED;
	int verdict = verdict_of(why);

	count(why);
	trace(skb, HOOK_FROM_POD, why);
	count_pod(skb->ifindex, why);
	switch (why) {
	case REASON_PROXY_PASSAGE:
		return verdict;
	case REASON_LOCAL_FLOW:
	case REASON_FLOW_RENEWED:
	case REASON_FLOW_RESTORED:
	case REASON_ADOPTED:
	case REASON_LOCAL_ALLOWED:
		set_mark(skb, MARK_LOCAL);
		return verdict;
	case REASON_PROXY_ANSWERED:
	case REASON_PROXY_FLOW:
		set_mark(skb, MARK_OUT);
		break;
	default:
		set_mark(skb, verdict == TC_ACT_REDIRECT ? MARK_OUT_NEW : 0);
		if (verdict != TC_ACT_REDIRECT)
			return verdict;
	}
	return bpf_redirect_peer(given->proxy_device, 0);
}
