/* SPDX-License-Identifier: Apache-2.0 */
/* The hot path of a tunnel, compiled: what carries payload between a stream's socket and the tunnel's.
 *
 * It holds no state. All of that is in the Python objects, read and written here by name, so each call
 * is as if the Python beside it had run. Only the plain case is here: whole records of application data,
 * DATA frames of open streams, sockets that take what they are given. For everything else a function
 * does nothing, or stops where the plain case ends and says so. The Python is the reference, and does
 * the whole where this module is not.
 *
 *  read_stream  send.h     nodeagent/proxy/stream.py, StreamRelay._read
 *  flush        send.h     nodeagent/proxy/tunnel_sending.py, SendingTunnel._seal_and_send
 *  receive      receive.h  nodeagent/proxy/tunnel_receiving.py, ReceivingTunnel._receive,
 *                          down to StreamRelay.payload
 *
 * Through the stable ABI of Python 3.11. The interpreter's lock is kept: nothing here waits, and a
 * worker has one thread. Whoever sends us bytes decides what `receive` reads: each length is compared
 * with what is there before it is used.
 */
#include "objects.h"

/* RecordChannel and StreamRelay: instances of others are the Python's. */
static PyTypeObject *channel_type, *relay_type;

#include "receive.h"
#include "records.h"
#include "send.h"

static PyObject *use(PyObject *module, PyObject *arguments)
{
	PyObject *channel, *relay;

	(void)module;
	if (!PyArg_ParseTuple(arguments, "O!O!", &PyType_Type, &channel, &PyType_Type, &relay))
		return NULL;
	Py_INCREF(channel);
	Py_INCREF(relay);
	Py_XDECREF((PyObject *)channel_type);
	Py_XDECREF((PyObject *)relay_type);
	channel_type = (PyTypeObject *)channel;
	relay_type = (PyTypeObject *)relay;
	Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
	{"use", use, METH_VARARGS, "use(channel, relay): the classes whose instances it knows"},
	{"read_stream", read_stream, METH_O,
	 "read_stream(relay): bytes; 0: nothing happened; -errno"},
	{"flush", flush, METH_O, "flush(tunnel): 1: all is sent; 2: it blocks; 0: go on; -errno"},
	{"receive", receive, METH_O, "receive(tunnel): 1: done; 0: nothing happened; -errno"},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
	.m_base = PyModuleDef_HEAD_INIT,
	.m_name = "_lane",
	.m_doc = "The hot path of a tunnel, compiled.",
	.m_size = -1,
	.m_methods = methods,
};

/* What the Python says as well, for the test that compares them. */
/* clang-format off */
#define CONSTANTS(X)                                                                               \
	X(HEADER_BYTES) X(TAG_BYTES) X(OVERHEAD) X(RECORD_BYTES) X(LONGEST) X(SEALED_BYTES)        \
	X(APPLICATION_DATA) X(IV_BYTES) X(MOST_RECORDS) X(RECORDS_PER_KEY) X(FRAME_HEADER_BYTES)   \
	X(DATA) X(END_STREAM) X(DEFAULT_FRAME) X(PER_SENT_FRAME) X(READ_BYTES) X(TURN_WORK) X(BLOCKED)
/* clang-format on */

PyMODINIT_FUNC PyInit__lane(void);

PyMODINIT_FUNC PyInit__lane(void)
{
	PyObject *module;

#define INTERN(name)                                                      \
	if (!n_##name && !(n_##name = PyUnicode_InternFromString(#name))) \
		return NULL;
	NAMES(INTERN)
	module = PyModule_Create(&definition);
#define TELL(name)                                                      \
	if (module && PyModule_AddIntConstant(module, #name, name) < 0) \
		Py_CLEAR(module);
	CONSTANTS(TELL)
	return module;
}
