"""What the fuzzer has found and learned, once through its targets without the fuzzer."""

from pathlib import Path

import pytest

from tests.fuzz import passes, reader

CORPUS = Path(__file__).parent / "fuzz_corpus"


@pytest.mark.filterwarnings("ignore::bnfold.errors.ModelWarning")  # what is unusual about a model that is taken
@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_an_input_of_the_corpus_is_a_model_or_refused_in_one_line(path: Path) -> None:
    data = path.read_bytes()
    reader(data)
    passes(data)
