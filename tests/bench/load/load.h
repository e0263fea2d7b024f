/* SPDX-License-Identifier: Apache-2.0 */
/* The load generator of `make bench`: one small process at each end, so that what is measured is the
 * way between them. It costs little CPU and speaks JSON.
 *
 * The first byte of a connection says what the server does with it.
 */
#pragma once
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum order {
	ORDER_ECHO = 'E', /* send back what comes, until the peer ends */
	ORDER_ONE = 'O',  /* answer one byte, and end */
	/* Read to the end, then answer with the length: 8 bytes in network order. */
	ORDER_UPLOAD = 'U',
	ORDER_DOWNLOAD = 'D', /* send until the peer leaves */
};

enum {
	CHUNK = 1 << 18, /* bytes of one read or write of a stream */
	MOST = 16384,	 /* connections at once, and descriptors of the server */
};

struct target {
	struct sockaddr_storage address;
	socklen_t length;
	int connections;
	double seconds;
	size_t bytes; /* of a message */
};

/* Ends the process: a load generator that goes on after an error measures nothing. */
void fail(const char *what) __attribute__((noreturn));
double now(void);
/* Says that all is made and the work begins, and when. */
double begin_work(void);
int dial(const struct target *target, bool is_blocking);
void write_all(int fd, const void *bytes, size_t length);

/* What one kind of work took, each event once. */
struct times {
	uint32_t *tenths_of_us;
	size_t count, room;
};

void note(struct times *times, double seconds);
void print_times(struct times *times, double elapsed, long failed);
void print_bytes(uint64_t bytes, double elapsed);

int serve(int port);
void exchange(const struct target *target);
void upload(const struct target *target);
void download(const struct target *target);
void churn(const struct target *target);
void hold(const struct target *target);
