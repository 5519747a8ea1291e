"""The restricted unpickler: reads what Python 2 wrote, builds and calls nothing else."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deconv_core.data import unpickle

HEAD = b"\x80\x02"
DTYPE = b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b"
DTYPE_STATE = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t"


def array_pickle(raw, rows, columns, dtype=DTYPE + DTYPE_STATE, order=b"\x89"):
    """{data: array}, the way cPickle wrote it: memo entries and all."""
    shape = b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86"
    state = b"(K\x01" + shape + dtype + order + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    return HEAD + b"}q\x01U\x04dataq\x06" + ARRAY + state + b"s."


def test_reads_an_array_with_its_values_and_shape():
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = unpickle.loads(array_pickle(values.tobytes(), 3, 4))[b"data"]
    assert data.dtype == np.uint8
    np.testing.assert_array_equal(data, values)


def test_numpy_itself_reads_the_same_bytes(recwarn):
    text = array_pickle(bytes(range(6)), 2, 3)
    expected = pickle.loads(text, encoding="bytes")[b"data"]
    np.testing.assert_array_equal(unpickle.loads(text)[b"data"], expected)
    recwarn.clear()


def test_the_new_name_of_the_constructor_is_known_too():
    text = array_pickle(b"ab", 1, 2).replace(b"numpy.core.", b"numpy._core.")
    assert unpickle.loads(text)[b"data"].tolist() == [[97, 98]]


@given(
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20),
    st.binary(max_size=255),
    st.binary(max_size=300),
)
def test_dictionaries_of_numbers_and_strings_come_back(numbers, short, long):
    body = b"".join(b"J" + struct.pack("<i", n) for n in numbers)
    text = HEAD + b"}r\x00\x01\x00\x00(U\x01n](" + body + b"eU\x01s"
    text += b"U" + bytes([len(short)]) + short + b"U\x01l"
    text += b"T" + struct.pack("<i", len(long)) + long + b"u."
    assert unpickle.loads(text) == {b"n": numbers, b"s": short, b"l": long}


def test_memo_single_items_and_long_integers():
    text = HEAD + b"}U\x01kr\x05\x00\x00\x00]h\x05aj\x05\x00\x00\x00a\x8a\x02\xff\xffas."
    with pytest.raises(ValueError, match="damaged"):  # memo 5 was put by r, and h reads it: fine
        unpickle.loads(text.replace(b"h\x05", b"h\x06"))
    assert unpickle.loads(text) == {b"k": [b"k", b"k", -1]}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_a_pickle_wants_to_call_is_refused_by_name(protocol):
    class Evil:
        def __reduce__(self):
            return os.mkdir, ("/nonexistent/never",)

    with pytest.raises(ValueError, match=rf"{os.mkdir.__module__}\.mkdir|protocol 2"):
        unpickle.loads(
            pickle.dumps({"data": Evil()}, protocol).replace(b"X\x04\x00\x00\x00", b"U\x04")
        )


@pytest.mark.parametrize(
    "name",
    ["builtins eval", "numpy load", "numpy.core.multiarray fromfile", "numpy ndarray.tofile",
     "numpy.core multiarray._reconstruct.__globals__", "__builtin__ set", "_codecs encode"],
)  # fmt: skip
def test_every_other_global_is_refused(name):
    module, attribute = name.encode().split()
    with pytest.raises(ValueError, match=f"{module.decode()}.{attribute.decode()}.*refused"):
        unpickle.loads(HEAD + b"c" + module + b"\n" + attribute + b"\n.")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"Pid\n", "PERSID"),
        (b"U\x01xQ", "BINPERSID"),
        (b"ios\nsystem\n", "INST"),
        (b"(o", "OBJ"),
        (b"\x81", "NEWOBJ"),
        (b"\x82\x01", "EXT1"),
        (b"\x93", "STACK_GLOBAL"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "BINBYTES8"),
        (b"2", "DUP"),
        (b"X\x01\x00\x00\x00a", "BINUNICODE"),
        (b"\xfe", "0xfe"),
    ],
)
def test_every_other_instruction_is_refused_by_name(text, name):
    with pytest.raises(ValueError, match=f"instruction {name}, .*refused"):
        unpickle.loads(HEAD + text + b".")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (array_pickle(b"abcd", 60000, 60000), r"\(60000, 60000\) but holds 4 bytes"),
        (array_pickle(b"abcd", 2, 2, order=b"\x88"), "plain uint8"),
        (array_pickle(b"abcd", 2, 2, dtype=b"N"), "plain uint8"),
        (array_pickle(b"abcd", 2, 2).replace(b"u1", b"O8"), "array of uint8"),
        (array_pickle(b"abcd", 2, 2).replace(b"U\x01|", b"U\x01>"), "dtype other than uint8"),
        (array_pickle(b"abcd", 2, 2).replace(b"K\x00\x85", b"K\x09\x85"), "array of uint8"),
        (HEAD + b"}U\x01d" + ARRAY + b"s.", "without values"),
        (HEAD + b"}U\x01dcnumpy\nndarray\ns.", "refused"),
        (HEAD + b"}]Ns.", "refused"),
        (HEAD + b"}U\x01a](]es.", "flat list"),
        (HEAD + b"]U\x01aK\x01s.", "no dictionary"),
        (HEAD + b"}(U\x01au.", "no dictionary"),
        (HEAD + b"}U\x01a\x8a\x09123456789s.", "9 bytes"),
        (HEAD + b"].", "one dictionary"),
        (HEAD + b"}}.", "one dictionary"),
        (HEAD + b"(}.", "one dictionary"),
        (HEAD + b"}.more", "4 bytes after the end"),
        (HEAD + b"}U\x01as.", "damaged"),
        (HEAD + b"t.", "damaged"),
        (HEAD + b"T\xff\xff\xff\x7f.", "truncated pickle: 2147483647 bytes wanted"),
        (HEAD + b"T\xff\xff\xff\xff.", "truncated pickle: -1 bytes wanted"),
        (HEAD + b"r\xff\xff\xff\xff.", "damaged"),
        (HEAD + b"cnumpy", "unfinished name"),
        (HEAD + b"]" * 300_000, "over 200000 instructions"),
        (b"", "protocol 2"),
        (b"\x80\x04}.", "protocol 2"),
        (b"<html>", "protocol 2"),
    ],
)
def test_damaged_and_hostile_pickles_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        unpickle.loads(text)


@given(st.data())
def test_every_truncation_is_an_error(data):
    text = array_pickle(bytes(12), 3, 4)
    with pytest.raises(ValueError):
        unpickle.loads(text[: data.draw(st.integers(0, len(text) - 1))])


@given(st.binary(max_size=60))
def test_junk_gives_a_dictionary_or_a_value_error(junk):
    with contextlib.suppress(ValueError):
        assert isinstance(unpickle.loads(HEAD + b"}" + junk), dict)
