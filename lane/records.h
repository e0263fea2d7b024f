/* SPDX-License-Identifier: Apache-2.0 */
/* Records of TLS 1.3 (RFC 8446 5.2), sealed and opened by the AEAD that the Python uses: tls/sealer.py and
 * tls/opener.py, plain application data only. */
#ifndef RECORDS_H
#define RECORDS_H

#include "objects.h"

#include <string.h>

/* clang-format off */
enum {
	HEADER_BYTES = 5,
	TAG_BYTES = 16,
	OVERHEAD = 17,
	RECORD_BYTES = 1 << 14,
	LONGEST = RECORD_BYTES + OVERHEAD,
	SEALED_BYTES = HEADER_BYTES + LONGEST,
	APPLICATION_DATA = 23,
	IV_BYTES = 12,
	MOST_RECORDS = 256,
	RECORDS_PER_KEY = 1 << 23,
};
/* clang-format on */

struct key {
	PyObject *object;
	PyObject *function; /* of the AEAD, bound */
	unsigned char iv[IV_BYTES];
	long long sequence;
};

/* 1; 0 for a key that would be worn by so many records, which the Python knows what to do about. */
static int find_key(struct holds *holds, struct key *key, PyObject *function, int records)
{
	PyObject *iv = get(holds, key->object, n_iv_bytes);
	Py_ssize_t size;
	char *bytes;

	key->function = get(holds, key->object, function);
	key->sequence = number(key->object, n_sequence);
	if (!iv || !key->function || key->sequence < 0)
		return -1;
	if (PyBytes_AsStringAndSize(iv, &bytes, &size) < 0)
		return -1;
	if (size != IV_BYTES || key->sequence >= RECORDS_PER_KEY - records)
		return 0;
	memcpy(key->iv, bytes, IV_BYTES);
	return 1;
}

/* One call of the AEAD, with the nonce of the next record (RFC 8446 5.3). The header is what it authenticates. */
static int apply_key(const struct key *key, unsigned char *from, Py_ssize_t size,
		     unsigned char *header, unsigned char *to, Py_ssize_t room)
{
	PyObject *nonce, *source, *authenticated, *target, *result = NULL;
	unsigned char bytes[IV_BYTES];
	int i;

	memcpy(bytes, key->iv, IV_BYTES);
	for (i = 0; i < 8; i++)
		bytes[IV_BYTES - 1 - i] ^=
			(unsigned char)((unsigned long long)key->sequence >> (8 * i));
	nonce = PyBytes_FromStringAndSize((char *)bytes, IV_BYTES);
	source = PyMemoryView_FromMemory((char *)from, size, PyBUF_READ);
	authenticated = PyBytes_FromStringAndSize((char *)header, HEADER_BYTES);
	target = PyMemoryView_FromMemory((char *)to, room, PyBUF_WRITE);
	if (nonce && source && authenticated && target)
		result = PyObject_CallFunctionObjArgs(key->function, nonce, source, authenticated,
						      target, NULL);
	Py_XDECREF(nonce);
	Py_XDECREF(source);
	Py_XDECREF(authenticated);
	Py_XDECREF(target);
	Py_XDECREF(result);
	return result ? 0 : -1;
}

/* One record of `length` bytes. Its type stands behind them in what is sealed: there a byte is borrowed, or,
 * where `end` leaves none, they are copied. */
static int seal_record(struct key *key, unsigned char *plain, Py_ssize_t length,
		       const unsigned char *end, unsigned char *out)
{
	static unsigned char copy[RECORD_BYTES + 1];
	Py_ssize_t sealed = length + OVERHEAD;
	unsigned char borrowed;
	int result;

	out[0] = APPLICATION_DATA;
	out[1] = out[2] = 3;
	out[3] = (unsigned char)(sealed >> 8);
	out[4] = (unsigned char)sealed;
	if (plain + length >= end)
		plain = memcpy(copy, plain, length);
	borrowed = plain[length];
	plain[length] = APPLICATION_DATA;
	/* Counted before the AEAD's call: whatever becomes of it, no nonce is used twice. */
	result = set_number(key->object, n_sequence, key->sequence + 1);
	if (!result)
		result = apply_key(key, plain, length + 1, out, out + HEADER_BYTES, sealed);
	plain[length] = borrowed;
	key->sequence++;
	return result;
}

/* Opens from `from`, of which `size` bytes are there, up to the first record that is not whole or not plain.
 * Answers how far it came, and adds to `*filled` what `room` bytes at `to` hold then. */
static long long open_records(struct key *key, unsigned char *from, long long size,
			      unsigned char *to, long long room, long long *filled)
{
	long long at = 0, last = key->sequence + MOST_RECORDS;

	while (size - at >= HEADER_BYTES && key->sequence < last) {
		unsigned char *header = from + at;
		long long length = header[3] << 8 | header[4], inner = length - TAG_BYTES;

		if (header[0] != APPLICATION_DATA || header[1] != 3 || header[2] != 3)
			break;
		if (length <= OVERHEAD || length > LONGEST || length > size - at - HEADER_BYTES ||
		    inner > room - *filled)
			break;
		if (apply_key(key, header + HEADER_BYTES, length, header, to + *filled, inner) <
		    0) {
			/* Forged or damaged: the Python opens it once more, and says what. */
			if (!PyErr_ExceptionMatches(PyExc_Exception))
				return -1;
			PyErr_Clear();
			break;
		}
		if (to[*filled + inner - 1] != APPLICATION_DATA)
			break; /* something else, or padded: likewise */
		key->sequence++;
		*filled += inner - 1;
		at += HEADER_BYTES + length;
	}
	return set_number(key->object, n_sequence, key->sequence) < 0 ? -1 : at;
}

/* What is left begins a record that we would open, and does not end it. */
static bool is_cut(const unsigned char *rest, long long size)
{
	int length;

	if (size < HEADER_BYTES)
		return true;
	length = rest[3] << 8 | rest[4];
	return rest[0] == APPLICATION_DATA && rest[1] == 3 && rest[2] == 3 && length >= OVERHEAD &&
	       length <= LONGEST && size < HEADER_BYTES + length;
}

#endif
