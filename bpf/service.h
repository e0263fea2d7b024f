/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Service addresses in connect(2): which endpoint was drawn, and what the application had dialled.
 *
 * The agent's routing has drawn already, over all endpoints of a Service with their weights: each is
 * in `draws` as often as is its share, wherever it runs. So balancing is what the proxy's would be,
 * and only the dice are thrown here.
 */
#pragma once
#include "flow.h"

enum { FAMILY_IPV6 = 10 }; /* linux/socket.h: AF_INET6 */

/* bcc 0.26 declares this helper with 32 bits. */
static u64 (*const get_cookie)(void *) = (void *)BPF_FUNC_get_socket_cookie;

/* Copies an endpoint of this Service, at random; false when it is none that is drawn here.
 *
 * A row that is removed may be another one's a moment later, and this program may be interrupted
 * anywhere. The agent names other draws before it removes any, so what was copied is this Service's
 * if the same draws are in force afterwards. Else the proxy draws. */
static __always_inline bool draw(struct endpoint *wanted, struct endpoint *drawn)
{
	struct service *service = services.lookup(wanted);
	struct draw_key key = {};
	struct endpoint *found;

	if (!service || !service->draws)
		return false;
	key.service = service->id;
	key.number = bpf_get_prandom_u32() % service->draws;
	found = draws.lookup(&key);
	if (!found)
		return false;
	*drawn = *found;
	service = services.lookup(wanted);
	return service && service->id == key.service;
}

/* Whether a socket that connects to `wanted` goes to `drawn`, or is left alone. What it has dialled
 * is noted, or forgotten if this is another attempt, to somewhere else. */
static __always_inline bool redirect(struct bpf_sock_addr *address, struct endpoint *wanted,
				     struct endpoint *drawn)
{
	u64 netns = bpf_get_netns_cookie(address), cookie = get_cookie(address);
	struct dialled noted = {.netns = netns};

	if (address->protocol != PROTOCOL_TCP)
		return false;
	if (!namespaces.lookup(&netns) || !draw(wanted, drawn)) {
		dialled.delete(&cookie);
		return false;
	}
	noted.service = *wanted;
	return !dialled.update(&cookie, &noted);
}

static __always_inline struct endpoint *find_dialled(struct bpf_sock_addr *address)
{
	u64 cookie = get_cookie(address);
	struct dialled *noted = dialled.lookup(&cookie);

	return noted ? &noted->service : NULL;
}

/* Word by word: two at once are an "invalid bpf_context access". */
static __always_inline void read_ip6(volatile struct bpf_sock_addr *address, struct address *ip)
{
	ip->word[0] = address->user_ip6[0];
	ip->word[1] = address->user_ip6[1];
	ip->word[2] = address->user_ip6[2];
	ip->word[3] = address->user_ip6[3];
}

static __always_inline void write_ip6(volatile struct bpf_sock_addr *address,
				      const struct address *ip)
{
	address->user_ip6[0] = ip->word[0];
	address->user_ip6[1] = ip->word[1];
	address->user_ip6[2] = ip->word[2];
	address->user_ip6[3] = ip->word[3];
}

/* For the record of a connection that begins. `netns` is 0 where sockops cannot ask for it; then a
 * row that nobody has read may speak of this connection too. */
static __always_inline void note_service(const struct packet *ends, u64 cookie, u64 netns)
{
	struct dialled *noted = dialled.lookup(&cookie);
	struct dial_key key = {.netns = netns};

	if (!noted && !namespaces.lookup(&netns))
		return;
	key.client = ends->source;
	key.server = ends->destination;
	key.client_port = ends->source_port;
	key.server_port = ends->destination_port;
	if (!noted) {
		by_service.delete(&key);
		return;
	}
	key.netns = noted->netns;
	by_service.update(&key, &noted->service);
}
