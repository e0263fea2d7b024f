/* SPDX-License-Identifier: Apache-2.0 */
/* From a stream's socket into the send buffer, and from there to the tunnel's socket. */
#ifndef SEND_H
#define SEND_H

#include "objects.h"
#include "records.h"

#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>

/* clang-format off */
enum {
	FRAME_HEADER_BYTES = 9,
	DATA = 0,
	END_STREAM = 1,
	DEFAULT_FRAME = 16384,
	PER_SENT_FRAME = 4,
	READ_BYTES = 512 << 10,
	BLOCKED = 2, /* the socket took less than it was given, the rest is `unsent` */
	MOST_VIEWS = READ_BYTES / DEFAULT_FRAME + 1,
};
/* clang-format on */

/* ---- into the send buffer --------------------------------------------------------------------- */

struct room {
	PyObject *outbox;
	PyObject *free; /* the pool's list, when this call has borrowed the buffer from it */
	PyObject *memory;
	Py_buffer buffer;
	long long used;
};

static int borrow_buffer(struct holds *holds, struct room *room)
{
	PyObject *free = get(holds, get(holds, room->outbox, n__pool), n__free);
	Py_ssize_t last = free ? PyList_Size(free) - 1 : -2;

	if (last < 0)
		return last == -1 ? 0 : -1;
	room->memory = PyList_GetItem(free, last);
	Py_XINCREF(room->memory);
	if (!hold(holds, room->memory) || PyList_SetSlice(free, last, last + 1, NULL) < 0)
		return -1;
	room->free = free;
	return PyObject_SetAttr(room->outbox, n__buffer, room->memory) < 0 ? -1 : 1;
}

/* As Outbox.reserve, before its views. 1; 0 when that should look itself. */
static int find_room(struct holds *holds, struct room *room)
{
	int has_queue = is_true(room->outbox, n__queue);

	room->memory = get(holds, room->outbox, n__buffer);
	room->used = number(room->outbox, n__used);
	if (!room->memory || has_queue < 0 || PyErr_Occurred())
		return -1;
	if (has_queue)
		return 0;
	if (room->memory == Py_None) {
		int borrowed = borrow_buffer(holds, room);

		if (borrowed <= 0)
			return borrowed;
	}
	return PyObject_GetBuffer(room->memory, &room->buffer, PyBUF_WRITABLE) < 0 ? -1 : 1;
}

/* Nothing came: what was borrowed for it goes back. */
static void leave_room(struct room *room)
{
	PyBuffer_Release(&room->buffer);
	if (room->free && PyObject_SetAttr(room->outbox, n__buffer, Py_None) == 0)
		PyList_Append(room->free, room->memory);
}

static void put_frame_header(unsigned char *at, size_t length, uint32_t stream_id)
{
	at[0] = (unsigned char)(length >> 16);
	at[1] = (unsigned char)(length >> 8);
	at[2] = (unsigned char)length;
	at[3] = DATA;
	at[4] = 0;
	at[5] = (unsigned char)(stream_id >> 24);
	at[6] = (unsigned char)(stream_id >> 16);
	at[7] = (unsigned char)(stream_id >> 8);
	at[8] = (unsigned char)stream_id;
}

/* Reads behind gaps for the headers, and fills these. Bytes, 0 or -errno. */
static long long read_into(int fd, struct room *room, long long at_most, long long frame,
			   uint32_t stream_id, int *frames)
{
	unsigned char *base = room->buffer.buf;
	long long size = room->buffer.len, start = room->used + FRAME_HEADER_BYTES;
	struct iovec views[MOST_VIEWS];
	struct msghdr message = {.msg_iov = views};
	ssize_t read, left;

	while (at_most > 0 && start < size && message.msg_iovlen < MOST_VIEWS) {
		long long length = at_most < frame ? at_most : frame;

		if (length > size - start)
			length = size - start;
		views[message.msg_iovlen].iov_base = base + start;
		views[message.msg_iovlen++].iov_len = (size_t)length;
		start += length + FRAME_HEADER_BYTES;
		at_most -= length;
	}
	read = recvmsg(fd, &message, MSG_DONTWAIT);
	if (read <= 0)
		return read < 0 ? -errno : 0;
	for (left = read; left > 0; (*frames)++) {
		unsigned char *payload = views[*frames].iov_base;
		size_t length = views[*frames].iov_len;

		if (length > (size_t)left)
			length = (size_t)left;
		put_frame_header(payload - FRAME_HEADER_BYTES, length, stream_id);
		left -= (ssize_t)length;
	}
	room->used += read + (long long)*frames * FRAME_HEADER_BYTES;
	return read;
}

static bool is_nothing(long long error)
{
	return error == -EAGAIN || error == -EINTR;
}

/* As StreamRelay._read. Bytes; 0: nothing has happened, so that it should do it itself; or -errno. */
static PyObject *read_stream(PyObject *module, PyObject *relay)
{
	struct holds holds = {0};
	struct room room = {0};
	PyObject *socket = get(&holds, relay, n__socket);
	PyObject *tunnel = get(&holds, relay, n__tunnel);
	PyObject *connection = get(&holds, relay, n__connection);
	PyObject *id = get(&holds, relay, n__stream_id);
	PyObject *streams = get(&holds, connection, n__streams);
	PyObject *window = get(&holds, connection, n__window);
	PyObject *stream, *outbound, *record;
	long long stream_left, left, frame, at_most = READ_BYTES, read;
	int fd, frames = 0, is_outbound;

	(void)module;
	room.outbox = get(&holds, connection, n__outbox);
	if (!socket || !id || !streams || !window || !room.outbox || socket == Py_None)
		return answer(&holds, 0);
	if (is_true(tunnel, n_is_blocked))
		return answer(&holds, 0);
	stream = PyDict_GetItemWithError(streams, id);
	if (!stream || is_true(stream, n_local_ended))
		return answer(&holds, 0);
	outbound = get(&holds, stream, n_outbound);
	stream_left = number(outbound, n_left);
	left = number(window, n_left);
	frame = number(get(&holds, connection, n__peer), n_max_frame);
	if (PyErr_Occurred() || stream_left <= 0 || left <= 0 || frame < DEFAULT_FRAME)
		return answer(&holds, 0);
	if (stream_left < at_most)
		at_most = stream_left;
	if (left < at_most)
		at_most = left;
	fd = PyObject_AsFileDescriptor(socket);
	if (fd < 0 || find_room(&holds, &room) != 1)
		return answer(&holds, 0);
	read = room.buffer.len - room.used - FRAME_HEADER_BYTES;
	if (read < at_most && read < DEFAULT_FRAME) {
		leave_room(&room); /* a sliver at the end would cost a system call of its own */
		return answer(&holds, 0);
	}
	read = read_into(fd, &room, at_most, frame, (uint32_t)PyLong_AsUnsignedLong(id), &frames);
	if (read <= 0) {
		leave_room(&room);
		return answer(&holds, is_nothing(read) ? 0 : read);
	}
	PyBuffer_Release(&room.buffer);
	record = get(&holds, get(&holds, relay, n__guard), n_record);
	is_outbound = is_true(relay, n__is_outbound);
	if (set_number(room.outbox, n__used, room.used) == 0 &&
	    set_number(outbound, n_left, stream_left - read) == 0 &&
	    set_number(window, n_left, left - read) == 0 &&
	    add_number(get(&holds, connection, n__patience), n_idle_left,
		       (long long)frames * PER_SENT_FRAME) == 0 &&
	    add_number(record, is_outbound ? n_sent_bytes : n_received_bytes, read) == 0)
		call(tunnel, n_flush_later, NULL);
	return answer(&holds, read);
}

/* ---- to the tunnel's socket --------------------------------------------------------------------- */

struct pending {
	PyObject *outbox, *output;
	PyObject *sealed; /* the buffer that `output` has borrowed */
	Py_buffer plain, out;
	long long used, taken;
};

/* Seals what fits into `out`. Answers how much that is there, or -1. */
static long long seal(struct key *key, struct pending *pending)
{
	unsigned char *plain = pending->plain.buf, *out = pending->out.buf;
	long long at = 0;

	while (pending->taken < pending->used && at + SEALED_BYTES <= pending->out.len) {
		long long length = pending->used - pending->taken;

		if (length > RECORD_BYTES)
			length = RECORD_BYTES;
		if (seal_record(key, plain + pending->taken, length, plain + pending->plain.len,
				out + at) < 0)
			return -1;
		at += HEADER_BYTES + length + OVERHEAD;
		pending->taken += length;
	}
	return at;
}

/* The socket took `from` of `to` sealed bytes: the rest is `unsent`, and the output keeps its buffer. */
static void leave_unsent(struct pending *pending, long long from, long long to)
{
	PyObject *start = PyLong_FromLongLong(from), *stop = PyLong_FromLongLong(to);
	PyObject *slice = start && stop ? PySlice_New(start, stop, NULL) : NULL;
	PyObject *rest = slice ? PyObject_GetItem(pending->sealed, slice) : NULL;

	if (rest)
		PyObject_SetAttr(pending->output, n_unsent, rest);
	Py_XDECREF(start);
	Py_XDECREF(stop);
	Py_XDECREF(slice);
	Py_XDECREF(rest);
}

/* 1 when all of it was sent, BLOCKED, or -errno; -1 with an exception as well. */
static long long seal_and_send(int fd, struct key *key, struct pending *pending)
{
	while (pending->taken < pending->used) {
		long long before = pending->taken, size = seal(key, pending);
		ssize_t sent;
		int error;

		if (size <= 0)
			return size < 0 ? -1 : 0;
		sent = send(fd, pending->out.buf, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
		error = errno;
		if (sent == size && pending->taken == pending->used)
			return 1;
		if (sent < size)
			leave_unsent(pending, sent < 0 ? 0 : sent, size);
		if (PyErr_Occurred() ||
		    call_with_number(pending->outbox, n_taken, pending->taken - before) < 0)
			return -1;
		if (sent < size)
			return sent >= 0 || is_nothing(-error) ? BLOCKED : -error;
	}
	return 1;
}

/* As Tunnel._seal_and_send. 1: all is sent; BLOCKED; 0: that goes on from where it is; or -errno. */
static PyObject *flush(PyObject *module, PyObject *tunnel)
{
	struct holds holds = {0};
	struct key key = {0};
	struct pending pending = {0};
	PyObject *channel = get(&holds, tunnel, n__sending);
	PyObject *socket, *memory, *unsent;
	long long result;
	int fd;

	(void)module;
	if (!channel || Py_TYPE(channel) != channel_type)
		return answer(&holds, 0);
	socket = get(&holds, tunnel, n__socket);
	pending.outbox = get(&holds, get(&holds, tunnel, n_connection), n__outbox);
	pending.output = get(&holds, channel, n__output);
	memory = get(&holds, pending.outbox, n__buffer);
	unsent = get(&holds, pending.output, n_unsent);
	if (!socket || !memory || !unsent || socket == Py_None || memory == Py_None)
		return answer(&holds, 0);
	if (PyObject_Size(unsent) || is_true(get(&holds, tunnel, n__move), n_is_ahead) ||
	    is_true(get(&holds, channel, n__control), n_is_due))
		return answer(&holds, 0);
	key.object = get(&holds, channel, n__writing);
	pending.used = number(pending.outbox, n__used);
	pending.taken = number(pending.outbox, n__taken);
	fd = PyObject_AsFileDescriptor(socket);
	if (PyErr_Occurred() || pending.used <= pending.taken ||
	    find_key(&holds, &key, n_encrypt_into, 2 + (int)(pending.used / RECORD_BYTES)) != 1)
		return answer(&holds, 0);
	pending.sealed = hold(&holds, PyObject_CallMethodObjArgs(pending.output, n_borrow, NULL));
	if (!pending.sealed || PyObject_GetBuffer(memory, &pending.plain, PyBUF_WRITABLE) < 0)
		return answer(&holds, 0);
	if (PyObject_GetBuffer(pending.sealed, &pending.out, PyBUF_WRITABLE) < 0) {
		PyBuffer_Release(&pending.plain);
		return answer(&holds, 0);
	}
	result = seal_and_send(fd, &key, &pending);
	PyBuffer_Release(&pending.plain);
	PyBuffer_Release(&pending.out);
	if (result == 1 && call(pending.outbox, n__give_back, NULL) == 0 &&
	    call(pending.output, n__give_back, NULL) == 0 && is_true(pending.outbox, n__queue))
		result = 0; /* the queue behind the buffer */
	return answer(&holds, result);
}

#endif
