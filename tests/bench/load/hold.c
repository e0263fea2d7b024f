/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that are open and idle, for as long as this process lives: what they cost in memory is
 * looked at from outside. Each has carried a byte both ways, so the whole way is open.
 */
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { AT_A_TIME = 64 };

static void open_some(const struct target *target, int *fds, int count)
{
	const char first[] = {ORDER_ECHO, 'x'};
	char echo;

	for (int i = 0; i < count; i++) {
		fds[i] = dial(target, true);
		write_all(fds[i], first, sizeof(first));
	}
	for (int i = 0; i < count; i++)
		if (recv(fds[i], &echo, 1, 0) != 1 || echo != first[1])
			fail("the echo of a connection to hold");
}

void hold(const struct target *target)
{
	int *fds = calloc((size_t)target->connections, sizeof(*fds));

	if (!fds)
		fail("calloc");
	for (int opened = 0; opened < target->connections; opened += AT_A_TIME) {
		int left = target->connections - opened;

		open_some(target, fds + opened, left < AT_A_TIME ? left : AT_A_TIME);
	}
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
