/* How Python calls the functions of this folder's C files: with contiguous arrays, checked against
 * one another before anything is read. Included by each of them.
 */

#ifndef LSVCR_CALLS_H
#define LSVCR_CALLS_H

#define Py_LIMITED_API 0x030b0000 /* one file for Python 3.11 and all later ones */
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { NEVER = 1 << 30 }; /* as in history.py */

enum { DONE, OUT_OF_MEMORY, OUT_OF_RANGE };

enum { MOST_ARGUMENTS = 32, LETTERS = 128 };

/* What a function was called with; arrays are held until it returns. */
typedef struct {
    Py_ssize_t arrays;
    void *data[MOST_ARGUMENTS];
    int64_t extent[LETTERS];
    Py_buffer held[MOST_ARGUMENTS];
} Call;

static void let_go(Call *call)
{
    while (call->arrays)
        PyBuffer_Release(&call->held[--call->arrays]);
}

/* How many items an array must have by its extents, such as `3BI`; an extent that is met for the
 * first time is what the array has. */
static int64_t expected_items(Call *call, const char *extents, size_t length, int64_t items)
{
    int64_t product = 1;
    for (size_t i = 0; i < length; i++) {
        unsigned char letter = (unsigned char)extents[i];
        if (letter >= '0' && letter <= '9')
            product *= letter - '0';
        else if (call->extent[letter] < 0 && length == 1)
            call->extent[letter] = items;
        if (letter > '9')
            product *= call->extent[letter];
    }
    return product;
}

/* Takes one argument by its kind: `n` a number, which is an extent; `b`, `h`, `i` and `q` contiguous
 * arrays of 8, 16, 32 and 64 bits an item, which are written to where the letter is a capital; then
 * extents. */
static int take_one(Call *call, Py_ssize_t place, const char *kind, size_t length, PyObject *argument)
{
    if (*kind == 'n') {
        long long number = PyLong_AsLongLong(argument);
        if (number < 0) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "argument %zd is below 0", place);
            return -1;
        }
        call->extent[(unsigned char)kind[1]] = number;
        return 0;
    }
    static const char letters[] = "bhiqBHIQ";
    ptrdiff_t letter = strchr(letters, *kind) - letters;
    int is_output = letter >= 4;
    Py_ssize_t bytes = (Py_ssize_t)1 << letter % 4;
    Py_buffer *held = &call->held[call->arrays];
    if (PyObject_GetBuffer(argument, held, is_output ? PyBUF_WRITABLE : PyBUF_SIMPLE))
        return -1;
    call->arrays++;
    if (held->itemsize != bytes) {
        PyErr_Format(PyExc_TypeError, "argument %zd has items of %zd bytes, not %zd", place,
                     held->itemsize, bytes);
        return -1;
    }
    int64_t items = held->len / bytes, expected = expected_items(call, kind + 1, length - 1, items);
    if (items != expected) {
        PyErr_Format(PyExc_ValueError, "argument %zd has %lld items, not %lld", place,
                     (long long)items, (long long)expected);
        return -1;
    }
    call->data[place] = held->buf;
    return 0;
}

/* Takes all arguments by their kinds, which spaces separate. */
static int take(Call *call, const char *kinds, PyObject *const *arguments, Py_ssize_t count)
{
    call->arrays = 0;
    for (int letter = 0; letter < LETTERS; letter++)
        call->extent[letter] = -1;
    Py_ssize_t place = 0;
    for (; *kinds; place++) {
        size_t length = strcspn(kinds, " ");
        if (place < count && take_one(call, place, kinds, length, arguments[place])) {
            let_go(call);
            return -1;
        }
        kinds += length + strspn(kinds + length, " ");
    }
    if (place == count)
        return 0;
    PyErr_Format(PyExc_TypeError, "%zd arguments, not %zd", count, place);
    let_go(call);
    return -1;
}

/* Ends a call: None, or the exception that a status means. */
static PyObject *finish(Call *call, int status)
{
    let_go(call);
    if (status == OUT_OF_MEMORY)
        return PyErr_NoMemory();
    if (status == OUT_OF_RANGE) {
        PyErr_SetString(PyExc_IndexError, "a user, a slice, a part, a row or a text is out of range");
        return NULL;
    }
    Py_RETURN_NONE;
}

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))call_##name, METH_FASTCALL, NULL}

#endif
