/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* connect6: connect4 for IPv6 sockets. An IPv4 destination comes here in its mapped form, which is
 * how addresses are written in all maps.
 *
 *  #  socket, first row that fits                         what is done
 *  1  not TCP, or not of an enrolled pod's namespace      nothing
 *  2  to a Service that is drawn here                     to the endpoint drawn, wherever that runs
 *  3  else                                                nothing
 */
#include "service.h"

int connect6(struct bpf_sock_addr *address)
{
	struct endpoint wanted = {.port = (be16)address->user_port}, drawn = {};

	read_ip6(address, &wanted.address);
	if (!redirect(address, &wanted, &drawn))
		return 1;
	write_ip6(address, &drawn.address);
	address->user_port = drawn.port;
	return 1;
}
