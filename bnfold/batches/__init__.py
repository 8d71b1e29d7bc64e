"""Batches of data for a model: from files, folders, images, a function of a script, or any iterable."""

from bnfold.batches.sources import (
    DATA_SUFFIXES,
    Data,
    ImageOptions,
    Source,
    beside,
    can_be_read_once,
    data_source,
    load_script,
    script_of,
    shards_of,
)

__all__ = [
    "DATA_SUFFIXES",
    "Data",
    "ImageOptions",
    "Source",
    "beside",
    "can_be_read_once",
    "data_source",
    "load_script",
    "script_of",
    "shards_of",
]
