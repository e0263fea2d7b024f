/* SPDX-License-Identifier: Apache-2.0 */
/* From the tunnel's socket to those of its streams: records, frames, payload. */
#ifndef RECEIVE_H
#define RECEIVE_H

#include "objects.h"
#include "records.h"
#include "send.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

/* clang-format off */
enum {
	TURN_WORK = 500, /* frames; each is one unit */
	MOST_PIECES = TURN_WORK + 1, /* with the rest of one that has begun before */
	MOST_GROUPS = MOST_PIECES + 1, /* with the stream of the frame that ends the batch */
	SLOTS = 2048, /* a power of two, so that a quarter is used at most */
};
/* clang-format on */

/* ---- payload of one batch, by stream -------------------------------------------------------------- */

struct group {
	PyObject *id, *stream, *inbound;
	long long left; /* of the stream's window */
	long long total;
	int first, last; /* pieces; -1: none */
	bool is_ending;	 /* END_STREAM is what follows */
};

/* Of the process, like the buffers: a worker has one thread, and between two calls they are empty. */
static struct {
	bool is_busy;
	int groups, pieces;
	struct group group[MOST_GROUPS];
	struct iovec piece[MOST_PIECES];
	int next[MOST_PIECES];
	short slots[SLOTS]; /* by stream id: one more than the group's number */
} batch;

static unsigned char ciphertext[SEALED_BYTES + READ_BYTES];
static unsigned char plaintext[READ_BYTES + 2 * RECORD_BYTES];

static void begin_batch(void)
{
	batch.is_busy = true;
	batch.pieces = 0;
	memset(batch.slots, 0, sizeof(batch.slots));
}

static void end_batch(void)
{
	while (batch.groups) {
		struct group *group = &batch.group[--batch.groups];

		Py_DECREF(group->id);
		Py_DECREF(group->stream);
		Py_DECREF(group->inbound);
	}
	batch.is_busy = false;
}

/* Of an open stream that may receive. NULL for others, and with an exception. */
static struct group *find_group(PyObject *streams, uint32_t stream_id)
{
	unsigned int slot = (stream_id >> 1) % SLOTS;
	PyObject *id, *stream, *inbound = NULL;
	struct group *group;

	for (; batch.slots[slot]; slot = (slot + 1) % SLOTS) {
		group = &batch.group[batch.slots[slot] - 1];
		if (PyLong_AsUnsignedLong(group->id) == stream_id)
			return group;
	}
	if (batch.groups == MOST_GROUPS)
		return NULL;
	id = PyLong_FromUnsignedLong(stream_id);
	stream = id ? PyDict_GetItemWithError(streams, id) : NULL;
	if (stream && is_true(stream, n_may_receive) == 1)
		inbound = PyObject_GetAttr(stream, n_inbound);
	if (!inbound) {
		Py_XDECREF(id);
		return NULL;
	}
	Py_INCREF(stream);
	group = &batch.group[batch.groups++];
	*group = (struct group){id, stream, inbound, number(inbound, n_left), 0, -1, -1, false};
	batch.slots[slot] = (short)batch.groups;
	return group;
}

static void add_piece(struct group *group, unsigned char *from, long long length)
{
	int piece = batch.pieces++;

	batch.piece[piece].iov_base = from;
	batch.piece[piece].iov_len = (size_t)length;
	batch.next[piece] = -1;
	if (group->last < 0)
		group->first = piece;
	else
		batch.next[group->last] = piece;
	group->last = piece;
	group->total += length;
}

/* ---- frames ------------------------------------------------------------------------------------- */

struct receiver {
	PyObject *tunnel;
	PyObject *object;  /* hbone/receiver.py */
	PyObject *streams; /* of the connection, by id */
	PyObject *inbound; /* the connection's window */
	long long left, most;
	int work; /* what the frames up to here have cost */
};

/* The rest of a frame's payload comes with another batch. */
static int leave_frame(const struct receiver *receiver, const struct group *group, long long rest)
{
	PyObject *object = receiver->object;

	if (set_number(object, n__left, rest) < 0 || set_number(object, n__padding, 0) < 0 ||
	    PyObject_SetAttr(object, n__ends, Py_False) < 0)
		return -1;
	return PyObject_SetAttr(object, n__stream, group->stream);
}

/* DATA frames, as far as they are plain, from a frame's first byte on. Answers how far it came, or -1.
 *
 * One that is larger than a window is left to the Python, to end the connection. What came before it is handed on first,
 * which may widen that window: then the frame is taken, where the Python, which judges a batch whole, would not. */
static long long sort_frames(struct receiver *receiver, unsigned char *plain, long long size)
{
	long long at = 0;

	while (size - at >= FRAME_HEADER_BYTES && receiver->work < TURN_WORK) {
		unsigned char *header = plain + at, *payload = header + FRAME_HEADER_BYTES;
		long long length = header[0] << 16 | header[1] << 8 | header[2];
		long long here = size - at - FRAME_HEADER_BYTES;
		uint32_t stream_id = (uint32_t)header[5] << 24 | (uint32_t)header[6] << 16 |
				     (uint32_t)header[7] << 8 | header[8];
		struct group *group;

		if (header[3] != DATA || header[4] > END_STREAM || length > receiver->most)
			break;
		group = find_group(receiver->streams, stream_id);
		if (!group)
			break;
		if (header[4] || !length || length > group->left || length > receiver->left) {
			group->is_ending = header[4] && !length;
			break;
		}
		group->left -= length;
		receiver->left -= length;
		receiver->work++;
		if (length < here)
			here = length;
		if (here)
			add_piece(group, payload, here);
		at += FRAME_HEADER_BYTES + here;
		if (here < length && leave_frame(receiver, group, length - here) < 0)
			return -1;
	}
	return PyErr_Occurred() ? -1 : at;
}

/* What is here of a frame that has begun in an earlier batch. Likewise. */
static long long sort_rest(struct holds *holds, struct receiver *receiver, long long size,
			   long long left)
{
	PyObject *stream = get(holds, receiver->object, n__stream);
	PyObject *id = stream && stream != Py_None ? get(holds, stream, n_id) : NULL;
	long long taken = size < left ? size : left;
	struct group *group = NULL;

	if (id && PyDict_GetItemWithError(receiver->streams, id) == stream)
		group = find_group(receiver->streams, (uint32_t)PyLong_AsUnsignedLong(id));
	if (!group)
		return PyErr_Occurred() ? -1 : 0;
	if (set_number(receiver->object, n__left, left - taken) < 0)
		return -1;
	if (taken == left && PyObject_SetAttr(receiver->object, n__stream, Py_None) < 0)
		return -1;
	add_piece(group, plaintext, taken);
	return taken;
}

/* ---- payload to the sockets --------------------------------------------------------------------- */

/* As StreamRelay._credit, which is called where a window is to be announced, or the stream is over. */
static int credit(struct receiver *receiver, struct group *group, PyObject *relay, long long sent)
{
	struct holds holds = {0};
	long long own = number(group->inbound, n_credit) + sent,
		  own_size = number(group->inbound, n_size);
	long long whole = number(receiver->inbound, n_credit) + sent,
		  size = number(receiver->inbound, n_size);
	int is_outbound = is_true(relay, n__is_outbound), result = -1;
	bool is_over = is_true(group->stream, n_remote_ended) ||
		       PyDict_GetItemWithError(receiver->streams, group->id) != group->stream;

	if (PyErr_Occurred())
		return -1;
	if (own << 2 >= own_size || whole << 2 >= size || is_over)
		return call_with_number(relay, n__credit, sent);
	if (set_number(group->inbound, n_credit, own) == 0 &&
	    set_number(receiver->inbound, n_credit, whole) == 0)
		result = add_number(get(&holds, get(&holds, relay, n__guard), n_record),
				    is_outbound ? n_received_bytes : n_sent_bytes, sent);
	let_go(&holds);
	return result;
}

static PyObject *make_views(const struct msghdr *message)
{
	PyObject *list = PyList_New((Py_ssize_t)message->msg_iovlen);
	size_t i;

	for (i = 0; list && i < message->msg_iovlen; i++) {
		const struct iovec *piece = &message->msg_iov[i];
		PyObject *view = PyMemoryView_FromMemory(piece->iov_base,
							 (Py_ssize_t)piece->iov_len, PyBUF_READ);

		if (!view || PyList_SetItem(list, (Py_ssize_t)i, view) < 0)
			Py_CLEAR(list);
	}
	return list;
}

/* user.method(first, second), where a defect breaks nobody else: Loop.guarded. */
static int call_guarded(PyObject *tunnel, PyObject *user, PyObject *method, PyObject *first,
			PyObject *second)
{
	struct holds holds = {0};
	PyObject *loop = get(&holds, tunnel, n__loop), *bound = get(&holds, user, method);
	PyObject *result = NULL;

	if (loop && bound && first)
		result = PyObject_CallMethodObjArgs(loop, n_guarded, user, bound, first, second,
						    NULL);
	let_go(&holds);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

/* The socket that takes payload at once; -1 when there is none such, and with an exception. */
static int find_socket(struct holds *holds, PyObject *user)
{
	PyObject *socket;

	if (Py_TYPE(user) != relay_type || is_true(get(holds, user, n__backlog), n__pieces))
		return -1;
	socket = get(holds, user, n__socket);
	return socket && socket != Py_None ? PyObject_AsFileDescriptor(socket) : -1;
}

static int deliver(struct holds *holds, struct receiver *receiver, struct group *group,
		   PyObject *user)
{
	struct iovec views[MOST_PIECES];
	struct msghdr message = {.msg_iov = views};
	int piece, error, fd = find_socket(holds, user);
	ssize_t sent;

	if (PyErr_Occurred())
		return -1;
	for (piece = group->first; piece >= 0; piece = batch.next[piece])
		views[message.msg_iovlen++] = batch.piece[piece];
	if (fd < 0) {
		return call_guarded(receiver->tunnel, user, n_payload,
				    hold(holds, make_views(&message)),
				    group->is_ending ? Py_True : Py_False);
	}
	/* Together with the shutdown that follows the last bytes are one packet with the FIN. */
	sent = sendmsg(fd, &message,
		       MSG_NOSIGNAL | MSG_DONTWAIT | (group->is_ending ? MSG_MORE : 0));
	error = errno;
	if (sent == group->total)
		return credit(receiver, group, user, sent);
	if (sent < 0 && !is_nothing(-error))
		return call_guarded(receiver->tunnel, user, n__socket_failed,
				    hold(holds, PyLong_FromLong(error)), NULL);
	return call_guarded(receiver->tunnel, user, n__take_slowly,
			    hold(holds, make_views(&message)),
			    hold(holds, PyLong_FromSsize_t(sent < 0 ? 0 : sent)));
}

/* A defect that was met for one user breaks nobody else, as in call_guarded. */
static int break_down(struct holds *holds, PyObject *tunnel, PyObject *user)
{
	PyObject *type, *value, *traceback, *result;

	if (!PyErr_ExceptionMatches(PyExc_Exception))
		return -1;
	PyErr_Fetch(&type, &value, &traceback);
	PyErr_NormalizeException(&type, &value, &traceback);
	hold(holds, type);
	hold(holds, traceback);
	value = hold(holds, value);
	result = value ? PyObject_CallMethodObjArgs(tunnel, n__broke, user, value, NULL) : NULL;
	Py_XDECREF(result);
	return result ? 0 : -1;
}

static int deliver_all(struct receiver *receiver, PyObject *users)
{
	int i;

	for (i = 0; i < batch.groups; i++) {
		struct group *group = &batch.group[i];
		struct holds holds = {0};
		PyObject *user = group->total ? PyDict_GetItemWithError(users, group->id) : NULL;
		int result = PyErr_Occurred() ? -1 : 0;

		if (user) {
			Py_INCREF(user);
			result = hold(&holds, user) ? deliver(&holds, receiver, group, user) : -1;
			if (result < 0)
				result = break_down(&holds, receiver->tunnel, user);
		}
		let_go(&holds);
		if (result < 0)
			return -1;
	}
	return call(receiver->tunnel, n__look_at_held, NULL);
}

/* Hands on what is plain of the first `size` bytes of `plaintext`. Answers how much that was, or -1. */
static long long hand_on(struct holds *holds, struct receiver *receiver, PyObject *state,
			 long long size)
{
	PyObject *users = get(holds, receiver->tunnel, n_streams), *object = receiver->object;
	long long at = 0, begun = number(object, n__left), before;
	int i;

	receiver->streams = get(holds, state, n_streams);
	receiver->inbound = get(holds, state, n_inbound);
	receiver->left = before = number(receiver->inbound, n_left);
	receiver->most = number(get(holds, state, n_limits), n_max_frame);
	if (PyErr_Occurred() || !users)
		return -1;
	if (begun) {
		if (is_true(object, n__ends) || number(object, n__padding))
			return PyErr_Occurred() ? -1 : 0;
		at = sort_rest(holds, receiver, size, begun);
	}
	if (at == begun) {
		long long more = sort_frames(receiver, plaintext + at, size - at);

		at = more < 0 ? -1 : at + more;
	}
	if (at < 0)
		return -1;
	if (receiver->left != before && set_number(receiver->inbound, n_left, receiver->left) < 0)
		return -1;
	for (i = 0; i < batch.groups; i++)
		if (set_number(batch.group[i].inbound, n_left, batch.group[i].left) < 0)
			return -1;
	return deliver_all(receiver, users) < 0 ? -1 : at;
}

/* ---- the whole way -------------------------------------------------------------------------------- */

/* 1 when nothing was begun that only the Python can go on with. */
static int is_plain(struct holds *holds, PyObject *opener, PyObject *state, PyObject *receiver)
{
	PyObject *block = get(holds, get(holds, receiver, n__headers), n_block);
	long long queued = number(get(holds, state, n_outbox), n_queued_bytes);
	long long most = number(get(holds, state, n_limits), n_max_queued_bytes);

	if (is_true(opener, n__is_over) || is_true(opener, n_has_more) ||
	    is_true(get(holds, opener, n__messages), n_partial) ||
	    is_true(receiver, n__preface_left) || is_true(receiver, n__partial))
		return 0;
	return block == Py_None && queued <= most;
}

/* What the ciphertext has behind its last plain record. The beginning of one waits for its end, as Opener._keep
 * has it; all else is the Python's to open. Answers how much of that there is, or -1. */
static long long keep_rest(PyObject *opener, long long opened, long long size, bool had_kept)
{
	bool waits = is_cut(ciphertext + opened, size - opened);
	PyObject *kept;
	int result;

	if (opened == size && !had_kept)
		return 0;
	kept = PyByteArray_FromStringAndSize((char *)ciphertext + opened,
					     waits ? size - opened : 0);
	result = kept ? PyObject_SetAttr(opener, n__partial, kept) : -1;
	Py_XDECREF(kept);
	if (result < 0)
		return -1;
	return waits ? 0 : size - opened;
}

/* Tunnel._go_on_slowly, with what is left of both buffers; `is_first` when nothing was opened. */
static void go_on_slowly(struct holds *holds, const struct receiver *receiver, long long handed,
			 long long filled, long long opened, long long rest)
{
	PyObject *frames = hold(holds, PyMemoryView_FromMemory((char *)plaintext + handed,
							       filled - handed, PyBUF_READ));
	PyObject *records =
		hold(holds, PyMemoryView_FromMemory((char *)ciphertext + opened, rest, PyBUF_READ));
	PyObject *work = hold(holds, PyLong_FromLong(TURN_WORK - receiver->work)), *result = NULL;

	if (frames && records && work)
		result = PyObject_CallMethodObjArgs(receiver->tunnel, n__go_on_slowly, frames, work,
						    records, opened ? Py_False : Py_True, NULL);
	Py_XDECREF(result);
}

/* Bytes that are in `ciphertext` now, behind those that were kept of a record; 0 or -errno. */
static long long read_ciphertext(PyObject *socket, PyObject *kept, long long kept_size)
{
	int fd = PyObject_AsFileDescriptor(socket);
	ssize_t size = fd < 0 ? 0 : recv(fd, ciphertext + kept_size, READ_BYTES, MSG_DONTWAIT);

	if (size <= 0)
		return size < 0 && !is_nothing(-errno) ? -errno : 0;
	if (kept_size)
		memcpy(ciphertext, PyByteArray_AsString(kept), (size_t)kept_size);
	return size + kept_size;
}

/* Opens, hands on, and leaves the rest. `size` bytes are in `ciphertext`. */
static void receive_batch(struct holds *holds, struct receiver *receiver, struct key *key,
			  PyObject *state, PyObject *opener, long long size, bool had_kept)
{
	long long filled = 0, handed = 0, opened, rest;
	PyObject *outbox = get(holds, state, n_outbox);

	opened = open_records(key, ciphertext, size, plaintext, sizeof(plaintext), &filled);
	rest = opened < 0 ? -1 : keep_rest(opener, opened, size, had_kept);
	if (rest < 0 || set_number(receiver->tunnel, n__unanswered, 0) < 0)
		return;
	if (filled)
		handed = hand_on(holds, receiver, state, filled);
	if (handed < 0)
		return;
	if (handed < filled || rest) {
		go_on_slowly(holds, receiver, handed, filled, opened, rest);
	} else if (number(outbox, n__used) > 0 || is_true(outbox, n__queue)) {
		call(receiver->tunnel, n_flush_later, NULL);
	}
}

/* As Tunnel._receive. 1: done; 0: nothing has happened, so that it should do it itself; or -errno. */
static PyObject *receive(PyObject *module, PyObject *tunnel)
{
	struct holds holds = {0};
	struct key key = {0};
	struct receiver receiver = {.tunnel = tunnel};
	PyObject *channel = get(&holds, tunnel, n__channel);
	PyObject *socket, *connection, *state, *opener, *kept;
	long long kept_size, size;

	(void)module;
	if (!channel || Py_TYPE(channel) != channel_type || batch.is_busy)
		return answer(&holds, 0);
	socket = get(&holds, tunnel, n__socket);
	connection = get(&holds, tunnel, n_connection);
	state = get(&holds, connection, n__state);
	receiver.object = get(&holds, connection, n__receiver);
	opener = get(&holds, channel, n__opener);
	kept = get(&holds, opener, n__partial);
	if (!socket || !state || !receiver.object || !kept || socket == Py_None)
		return answer(&holds, 0);
	if (is_true(get(&holds, tunnel, n__move), n_is_ahead) || is_true(connection, n__failed) ||
	    is_plain(&holds, opener, state, receiver.object) != 1)
		return answer(&holds, 0);
	key.object = get(&holds, opener, n__key);
	kept_size = PyByteArray_Size(kept);
	if (PyErr_Occurred() || kept_size >= SEALED_BYTES ||
	    find_key(&holds, &key, n_decrypt_into, MOST_RECORDS) != 1)
		return answer(&holds, 0);
	size = read_ciphertext(socket, kept, kept_size);
	if (size <= 0)
		return answer(&holds, size);
	begin_batch();
	receive_batch(&holds, &receiver, &key, state, opener, size, kept_size > 0);
	end_batch();
	return answer(&holds, 1);
}

#endif
