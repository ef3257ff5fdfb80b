"""What is said of a file of a data set that cannot be read, whoever reads it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from array_record.python import array_record_module


class BrokenData(ValueError):
    """A file of a data set cannot be read. Its one line names the file, and comes whole out of threads and processes.

    (Of another error that is raised in a worker process, nobody can tell whether it was raised on purpose.)
    """


@contextmanager
def reading(files: Sequence[tuple[str, int | None]], index: int) -> Iterator[None]:
    """Makes one BrokenData of whatever goes wrong with record `index` of these array_record files together.

    files: path and number of records of each, or None where that is to be looked up, which is done after an error only.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the readers raise RuntimeError, ValueError, IndexError, and protobuf and PIL their own
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BrokenData(
            f"{file_of(files, index)} is missing, truncated or broken (record {index} of the data set: {said}): bring "
            "it back as it was"
        ) from None


def file_of(files: Sequence[tuple[str, int | None]], index: int) -> str:
    """The file that holds a record, or one before it that cannot be opened."""
    for path, count in files:
        if count is None:
            try:
                reader = array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0")
                count = reader.num_records()
                reader.close()
            except Exception:
                return path
        if index < count:
            return path
        index -= count
    return files[-1][0]
