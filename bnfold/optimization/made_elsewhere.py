"""A result that another machine made, published here by the rules of one that is made here."""

from collections.abc import Callable
from pathlib import Path

from bnfold.optimization.existing_output import existing_output, source_mark
from bnfold.optimization.request import Request, refuse_overwriting
from bnfold.sources import destination, read_model


def publish_made(request: Request, make: Callable[[Path], Path | None]) -> None:
    """Publish the model that `make` puts into the folder that it is given, with its external data, and returns.

    Where it returns None nothing is published. Raises, before it is called, UsageError where the result would be
    written over something that is read or over another model, OutputError, and ModelError.
    """
    with destination(request.target) as publication:
        file = read_model(request.model, strict=request.options.strict_external_data)
        refuse_overwriting(request, file)
        existing = existing_output(request, file)
        with publication.workshop() as folder:
            made = make(folder)
            if made is None:
                return
            result = read_model(made, strict=True)
            publication.write(result, untouched=True, hashed=False, ours=True)
            if existing is not None:
                existing.require_made_from_input(result, publication.path)
            publication.publish(source_mark(request))
