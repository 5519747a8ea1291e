"""The CIFAR-10 reader on tiny files of both layouts, written by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from deconv_core.data import ImageDataset, cifar10, read_cifar10

NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer"]
CLASSES += ["dog", "frog", "horse", "ship", "truck"]


def text(value):
    return b"U" + bytes([len(value)]) + value


def pickled(pixels, labels):
    """A batch as Python 2 pickled it, without the file names."""
    rows = struct.pack("<H", len(pixels))
    return b"".join(
        [
            b"\x80\x02}(" + text(b"batch_label") + text(b"a batch") + text(b"labels") + b"](",
            b"".join(b"K" + bytes([int(label)]) for label in labels),
            b"e" + text(b"data") + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n",
            b"K\x00\x85U\x01b\x87R(K\x01M"
            + rows
            + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01",
            b"\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T",
            struct.pack("<i", pixels.size) + pixels.tobytes() + b"tbu.",
        ]
    )


def random_batches(count=3):
    rng = np.random.default_rng(5)
    return {
        name: (rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, 10, count))
        for name in NAMES
    }


def write_binary(folder, batches):
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    for name, (pixels, labels) in batches.items():
        records = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def write_python(folder, batches):
    folder.mkdir(parents=True)
    names = b"".join(text(name.encode()) for name in CLASSES)
    meta = b"\x80\x02}(" + text(b"num_cases_per_batch") + b"M\x10'" + text(b"label_names") + b"]("
    (folder / "batches.meta").write_bytes(meta + names + b"eu.")
    for name, (pixels, labels) in batches.items():
        (folder / name).write_bytes(pickled(pixels, labels))
    return folder


WRITERS = {"cifar-10-batches-bin": write_binary, "cifar-10-batches-py": write_python}


@pytest.fixture(params=WRITERS)
def copy(request, tmp_path):
    """A tiny CIFAR-10 in one of the layouts, and what was written to it."""
    batches = random_batches()
    return WRITERS[request.param](tmp_path / request.param, batches), batches


def test_pixels_and_labels_are_those_written(copy):
    folder, batches = copy
    for split, names in (("train", NAMES[:5]), ("test", NAMES[5:])):
        dataset = read_cifar10(folder, split)
        pixels = np.concatenate([batches[name][0] for name in names])
        np.testing.assert_array_equal(dataset.images, pixels.reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(
            dataset.labels, np.concatenate([batches[name][1] for name in names])
        )
        assert dataset.classes == tuple(CLASSES)
        assert dataset.images.flags.c_contiguous and dataset.images.flags.writeable


def test_the_folder_above_and_any_name_will_do(copy, tmp_path):
    folder, _ = copy
    assert len(read_cifar10(tmp_path, "test")) == 3
    (folder / "batches.meta.txt").unlink(missing_ok=True)
    (folder / "batches.meta").unlink(missing_ok=True)
    renamed = folder.rename(tmp_path / "mine")
    dataset = read_cifar10(str(renamed), "train")
    assert len(dataset) == 15
    assert dataset.classes == tuple(CLASSES)


def test_the_whole_copy_is_taken_where_the_other_layout_is_incomplete(tmp_path):
    batches = random_batches()
    write_python(tmp_path / "cifar-10-batches-py", batches)
    write_binary(tmp_path / "cifar-10-batches-bin", {"test_batch": batches["test_batch"]})
    assert len(read_cifar10(tmp_path, "train")) == 15


def test_no_copy_and_unknown_split_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        read_cifar10(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_cifar10(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="train, test, not 'valid'"):
        read_cifar10(tmp_path, "valid")


def test_missing_batches_are_named(copy):
    folder, _ = copy
    for path in folder.glob("data_batch_[24]*"):
        path.unlink()
    assert len(read_cifar10(folder, "test")) == 3
    with pytest.raises(ValueError, match=r"data_batch_2\S*, data_batch_4\S* missing"):
        read_cifar10(folder, "train")


@pytest.mark.parametrize("change", [-1, 1, -3000])
def test_a_binary_batch_of_partial_records_is_an_error(tmp_path, change):
    path = write_binary(tmp_path / "bin", random_batches()) / "data_batch_3.bin"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x" * change)
    with pytest.raises(ValueError, match=rf"data_batch_3\.bin.*30730000.*{9219 + change}"):
        read_cifar10(tmp_path / "bin", "train")


@pytest.mark.parametrize("size", [0, 10_001 * 3073])
def test_a_binary_batch_that_is_empty_or_too_long_is_an_error(tmp_path, size):
    with open(write_binary(tmp_path / "bin", random_batches()) / "test_batch.bin", "wb") as file:
        file.truncate(size)
    with pytest.raises(ValueError, match=rf"test_batch\.bin.*found {size}"):
        read_cifar10(tmp_path / "bin", "test")


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_a_binary_batch_cut_between_records_beside_a_full_one_is_an_error(tmp_path, name):
    folder = write_binary(tmp_path / "bin", random_batches())
    for full in set(NAMES) - {name}:
        with open(folder / f"{full}.bin", "wb") as file:
            file.truncate(10_000 * 3073)  # sparse: all zeros, on no disk
    split = "test" if name == "test_batch" else "train"
    with pytest.raises(ValueError, match=rf"{name}\.bin.*expected 10000 records.*found 3"):
        read_cifar10(folder, split)


def test_a_label_out_of_range_is_named(copy):
    folder, batches = copy
    batches["data_batch_4"][1][2] = 10
    broken = WRITERS[folder.name](folder.parent / "broken" / folder.name, batches)
    with pytest.raises(ValueError, match=r"data_batch_4.*record 2 has label 10, expected 0\.\.9"):
        read_cifar10(broken, "train")


@pytest.mark.parametrize("cut", [1, 100, 9000])
def test_a_truncated_pickle_is_named(tmp_path, cut):
    path = write_python(tmp_path / "py", random_batches()) / "data_batch_5"
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    with pytest.raises(ValueError, match=rf"data_batch_5 \({len(content) - cut} bytes\).*truncat"):
        read_cifar10(tmp_path / "py", "train")


def test_a_pickle_that_asks_for_more_is_named_with_what_it_asks_for(tmp_path):
    folder = write_python(tmp_path / "py", random_batches())
    (folder / "test_batch").write_bytes(b"\x80\x02cos\nsystem\nU\x02ls\x85R.")
    with pytest.raises(ValueError, match=r"test_batch.*'os\.system'"):
        read_cifar10(folder, "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}.", "no array 'data'"),
        (pickled(np.zeros((2, 3072), np.uint8), [1, 2, 3]), r"3 labels and .*\(2, 3072\)"),
        (pickled(np.zeros((0, 3072), np.uint8), []), "0 labels"),
        (
            pickled(np.zeros((1, 3072), np.uint8), [1]).replace(b"K\x01e", b"U\x011e"),
            "not a number",
        ),
    ],
)
def test_a_pickle_of_other_content_is_named(tmp_path, content, message):
    folder = write_python(tmp_path / "py", random_batches())
    (folder / "test_batch").write_bytes(content)
    with pytest.raises(ValueError, match=rf"test_batch is damaged.*{message}"):
        read_cifar10(folder, "test")


def test_a_huge_pickle_is_refused_before_it_is_read(tmp_path):
    folder = write_python(tmp_path / "py", random_batches())
    with open(folder / "test_batch", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=f"test_batch.*{2**40}"):
        read_cifar10(folder, "test")


def test_damaged_class_names_are_named(copy):
    folder, _ = copy
    meta = next(folder.glob("batches.meta*"))
    meta.write_bytes(meta.read_bytes().replace(b"U\x04bird", b"").replace(b"bird", b""))
    with pytest.raises(ValueError, match=f"{meta.name} is damaged: expected a list of 10"):
        read_cifar10(folder, "test")


def test_a_dataset_checks_itself():
    images, labels = np.zeros((3, 1, 2, 2), np.uint8), np.array([0, 1, 1])
    good = ImageDataset(images, labels, ("a", "b"), "good")
    assert len(good) == 3 and len(good.take(2)) == 2 and len(good.take(9)) == 3
    np.testing.assert_array_equal(good.take(2).labels, [0, 1])
    with pytest.raises(ValueError, match="at least 0, got -1"):
        good.take(-1)
    with pytest.raises(TypeError, match="integer, got 1.5"):
        good.take(1.5)
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        ImageDataset(images, labels[:2], ("a", "b"), "bad")
    with pytest.raises(ValueError, match=r"label 1 of image 1 is outside 0\.\.0"):
        ImageDataset(images, labels, ("a",), "bad")
    with pytest.raises(ValueError, match=r"label -1 of image 0"):
        ImageDataset(images, labels - 1, ("a", "b"), "bad")
    with pytest.raises(ValueError, match=r"4 axes.*\(3, 4\)"):
        ImageDataset(images.reshape(3, 4), labels, ("a", "b"), "bad")
    with pytest.raises(TypeError, match="uint8, not float64"):
        ImageDataset(images.astype(float), labels, ("a", "b"), "bad")
    with pytest.raises(TypeError, match="int64, not int32"):
        ImageDataset(images, labels.astype(np.int32), ("a", "b"), "bad")
    with pytest.raises(TypeError, match="list"):
        ImageDataset(images, [0, 1, 1], ("a", "b"), "bad")


def test_locate_prefers_the_binary_version(tmp_path):
    for folder, write in WRITERS.items():
        write(tmp_path / folder, random_batches(1))
    assert cifar10.locate(tmp_path) == (tmp_path / "cifar-10-batches-bin", cifar10.BINARY)
