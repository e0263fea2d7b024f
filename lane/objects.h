/* SPDX-License-Identifier: Apache-2.0 */
/* Python objects and their attributes, read and written by name. Functions answer -1 or NULL with an
 * exception set, and take NULL for what could not be had: so a chain of them needs one look at its end. */
#ifndef OBJECTS_H
#define OBJECTS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stdbool.h>

/* clang-format off */
#define NAMES(X)                                                                                   \
	X(_backlog) X(_broke) X(_buffer) X(_channel) X(_connection) X(_control) X(_credit) X(_ends)          \
	X(_failed) X(_free) X(_give_back) X(_go_on_slowly) X(_guard) X(_headers) X(_is_outbound)   \
	X(_is_over) X(_key) X(_left) X(_look_at_held) X(_loop) X(_messages) X(_move) X(_opener)    \
	X(_outbox) X(_output) X(_padding) X(_partial) X(_patience) X(_peer) X(_pieces) X(_pool)    \
	X(_preface_left) X(_queue) X(_receiver) X(_sending) X(_socket) X(_socket_failed) X(_state) \
	X(_stream) X(_stream_id) X(_streams) X(_take_slowly) X(_taken) X(_tunnel) X(_unanswered)   \
	X(_used) X(_window) X(_writing) X(block) X(borrow) X(connection) X(credit)                 \
	X(decrypt_into) X(encrypt_into) X(flush_later) X(guarded) X(has_more) X(id) X(idle_left)   \
	X(inbound) X(is_ahead) X(is_blocked) X(is_due) X(iv_bytes) X(left) X(limits)               \
	X(local_ended) X(max_frame) X(max_queued_bytes) X(may_receive) X(outbound) X(outbox)       \
	X(partial) X(payload) X(queued_bytes) X(received_bytes) X(record) X(remote_ended)          \
	X(sent_bytes) X(sequence) X(size) X(streams) X(taken) X(unsent)
/* clang-format on */

#define DECLARE(name) static PyObject *n_##name;
NAMES(DECLARE)

/* References that a call owns, given back together at its end. */
struct holds {
	int count;
	PyObject *objects[64];
};

static PyObject *hold(struct holds *holds, PyObject *object)
{
	if (!object)
		return NULL;
	if (holds->count == (int)(sizeof(holds->objects) / sizeof(holds->objects[0]))) {
		Py_DECREF(object);
		PyErr_SetString(PyExc_SystemError, "too many objects in one call");
		return NULL;
	}
	return holds->objects[holds->count++] = object;
}

static void let_go(struct holds *holds)
{
	while (holds->count)
		Py_DECREF(holds->objects[--holds->count]);
}

/* How each function of the module ends: an exception comes before `value`. */
static PyObject *answer(struct holds *holds, long long value)
{
	let_go(holds);
	return PyErr_Occurred() ? NULL : PyLong_FromLongLong(value);
}

static PyObject *get(struct holds *holds, PyObject *from, PyObject *name)
{
	return from ? hold(holds, PyObject_GetAttr(from, name)) : NULL;
}

/* Windows may be -1, too: PyErr_Occurred tells it from a failure. */
static long long number(PyObject *from, PyObject *name)
{
	PyObject *object = from ? PyObject_GetAttr(from, name) : NULL;
	long long value = object ? PyLong_AsLongLong(object) : -1;

	Py_XDECREF(object);
	return value;
}

static int set_number(PyObject *of, PyObject *name, long long value)
{
	PyObject *object = of ? PyLong_FromLongLong(value) : NULL;
	int result = object ? PyObject_SetAttr(of, name, object) : -1;

	Py_XDECREF(object);
	return result;
}

static int add_number(PyObject *of, PyObject *name, long long more)
{
	long long value = number(of, name);

	return value == -1 && PyErr_Occurred() ? -1 : set_number(of, name, value + more);
}

/* 1 or 0; -1 counts as true where only `if` looks at it, and leads to `answer`. */
static int is_true(PyObject *from, PyObject *name)
{
	PyObject *object = from ? PyObject_GetAttr(from, name) : NULL;
	int value = object ? PyObject_IsTrue(object) : -1;

	Py_XDECREF(object);
	return value;
}

/* A method with one argument, or none. */
static int call(PyObject *of, PyObject *method, PyObject *argument)
{
	PyObject *result = of ? PyObject_CallMethodObjArgs(of, method, argument, NULL) : NULL;

	Py_XDECREF(result);
	return result ? 0 : -1;
}

static int call_with_number(PyObject *of, PyObject *method, long long value)
{
	PyObject *argument = PyLong_FromLongLong(value);
	int result = argument ? call(of, method, argument) : -1;

	Py_XDECREF(argument);
	return result;
}

#endif
