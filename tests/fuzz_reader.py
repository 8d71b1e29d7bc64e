"""Coverage-guided fuzzing of the reader: any bytes are a model, or a ModelError in one line; nothing else.

Run it with the interpreter that has bnfold, after `pip install atheris` (which has no wheel for every Python, so it is
not among the development dependencies):

    python tests/fuzz_reader.py -max_total_time=60 tests/fuzz_corpus

Options are libFuzzer's. The first folder is where new inputs are kept; leave it out to keep none.
"""

import sys

try:
    import atheris
except ImportError:
    sys.exit("SKIPPED: atheris is not installed: pip install atheris")

with atheris.instrument_imports(include=["bnfold"]):
    from bnfold.errors import ModelError
    from bnfold.graph import Model
    from bnfold.onnxfile import read, to_proto


def one_input(data: bytes) -> None:
    try:
        file = read(data)
        Model(file)
        to_proto(file)
    except ModelError as error:
        if not str(error).isprintable():
            raise AssertionError(f"not one line that can be shown: {str(error)!r}") from error


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-rss_limit_mb=2048", "-timeout=10", *sys.argv[1:]], one_input)
    atheris.Fuzz()
