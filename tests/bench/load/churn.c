/* SPDX-License-Identifier: Apache-2.0 */
/* New connections, so many at a time; each is asked for one byte and then ended by the server, so that
 * the client keeps no port in TIME_WAIT and can go on for as long as it likes.
 */
#include "load.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct {
	int fd;
	bool is_asked, is_answered;
	double began;
} slots[MOST];
static int loop;
static long failed;

static void begin(const struct target *target, uint32_t i)
{
	struct epoll_event event = {.events = EPOLLOUT, .data.u32 = i};

	slots[i].began = now();
	slots[i].is_asked = slots[i].is_answered = false;
	slots[i].fd = dial(target, false);
	if (epoll_ctl(loop, EPOLL_CTL_ADD, slots[i].fd, &event))
		fail("epoll_ctl");
}

/* False when this connection is over, well or not. */
static bool go_on(uint32_t i, struct times *times)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
	const char order = ORDER_ONE;
	ssize_t got;
	char answer[2];

	if (!slots[i].is_asked) {
		if (send(slots[i].fd, &order, 1, MSG_NOSIGNAL) != 1) {
			failed++;
			return false;
		}
		slots[i].is_asked = true;
		if (epoll_ctl(loop, EPOLL_CTL_MOD, slots[i].fd, &event))
			fail("epoll_ctl");
		return true;
	}
	got = recv(slots[i].fd, answer, sizeof(answer), MSG_DONTWAIT);
	if (got > 0 && !slots[i].is_answered) {
		slots[i].is_answered = true;
		note(times, now() - slots[i].began);
		got = recv(slots[i].fd, answer, sizeof(answer), MSG_DONTWAIT);
	}
	if (got < 0 && errno == EAGAIN)
		return true;
	failed += got != 0 || !slots[i].is_answered;
	return false;
}

void churn(const struct target *target)
{
	struct epoll_event events[256];
	struct times times = {0};
	double began = begin_work(), end = began + target->seconds;

	loop = epoll_create1(EPOLL_CLOEXEC);
	for (uint32_t i = 0; i < (uint32_t)target->connections; i++)
		begin(target, i);
	/* Those that are on their way at the end are waited for: they have cost what the others have. */
	for (int left = target->connections; left;) {
		int count = epoll_wait(loop, events, 256, 100);

		for (int at = 0; at < count; at++) {
			uint32_t i = events[at].data.u32;

			if (go_on(i, &times))
				continue;
			close(slots[i].fd);
			if (now() < end)
				begin(target, i);
			else
				left--;
		}
	}
	print_times(&times, now() - began, failed);
}
