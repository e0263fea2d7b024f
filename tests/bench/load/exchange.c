/* SPDX-License-Identifier: Apache-2.0 */
/* Request and response, one outstanding on each connection; the answer is compared. A first round trip
 * of each is not counted, so that what a connection takes to be made is not in the figures.
 */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static char question[CHUNK], reply[CHUNK];

static void open_echo(const struct target *target, int *fds)
{
	const char order = ORDER_ECHO;

	for (int i = 0; i < target->connections; i++) {
		fds[i] = dial(target, true);
		write_all(fds[i], &order, 1);
	}
}

static void compare_reply(const struct target *target)
{
	if (memcmp(question, reply, target->bytes)) {
		errno = EBADMSG;
		fail("another answer than was sent");
	}
}

static void receive_reply(const struct target *target, int fd)
{
	if (recv(fd, reply, target->bytes, MSG_WAITALL) != (ssize_t)target->bytes)
		fail("recv");
	compare_reply(target);
}

static void meet_all(const struct target *target, const int *fds)
{
	for (int i = 0; i < target->connections; i++)
		write_all(fds[i], question, target->bytes);
	for (int i = 0; i < target->connections; i++)
		receive_reply(target, fds[i]);
}

/* One connection: no loop but the question and the answer. */
static void exchange_alone(const struct target *target, int fd, struct times *times, double end)
{
	for (double before = now(); before < end;) {
		double after;

		question[0]++;
		write_all(fd, question, target->bytes);
		if (recv(fd, reply, target->bytes, MSG_WAITALL) != (ssize_t)target->bytes)
			fail("recv");
		after = now();
		note(times, after - before);
		compare_reply(target);
		before = after;
	}
}

static void exchange_together(const struct target *target, const int *fds, struct times *times,
			      double end)
{
	static double asked[MOST];
	struct epoll_event events[256];
	int loop = epoll_create1(EPOLL_CLOEXEC);

	for (int i = 0; i < target->connections; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};

		if (epoll_ctl(loop, EPOLL_CTL_ADD, fds[i], &event))
			fail("epoll_ctl");
		asked[i] = now();
		write_all(fds[i], question, target->bytes);
	}
	while (now() < end) {
		int count = epoll_wait(loop, events, 256, 100);

		for (int at = 0; at < count; at++) {
			uint32_t i = events[at].data.u32;

			if (recv(fds[i], reply, target->bytes, MSG_WAITALL) !=
			    (ssize_t)target->bytes)
				fail("recv");
			note(times, now() - asked[i]);
			compare_reply(target);
			asked[i] = now();
			write_all(fds[i], question, target->bytes);
		}
	}
}

void exchange(const struct target *target)
{
	int *fds = calloc((size_t)target->connections, sizeof(*fds));
	struct times times = {0};
	double began;

	for (size_t i = 0; i < target->bytes; i++)
		question[i] = (char)(i * 131 + i / 251);
	open_echo(target, fds);
	meet_all(target, fds);
	began = begin_work();
	if (target->connections == 1)
		exchange_alone(target, fds[0], &times, began + target->seconds);
	else
		exchange_together(target, fds, &times, began + target->seconds);
	print_times(&times, now() - began, 0);
}
